"""Kernels with holes and cascades against numpy's Kronecker product and torch's convolutions, layer by layer."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous import GeometryError, ShapeError
from atrous.functional import compose, dilate_kernel

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
few = settings(deadline=None, max_examples=40)


@st.composite
def cascades(draw):
    """Draw the weights and dilations of a cascade, its groups, and an input that it fits into."""
    ndim, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3]))
    count = draw(st.integers(1, 4 if ndim < 3 else 2))
    widths = [groups * draw(st.integers(1, 3)) for _ in range(count + 1)]
    axes = st.tuples(*[st.integers(1, 3)] * ndim)
    sizes, gaps = [draw(axes) for _ in range(count)], [draw(axes) for _ in range(count)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    shapes = [(b, a // groups, *size) for a, b, size in zip(widths, widths[1:], sizes, strict=False)]
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    extent = [1 + sum(d[i] * (k[i] - 1) for k, d in zip(sizes, gaps, strict=True)) for i in range(ndim)]
    image = torch.randn(2, widths[0], *(size + 2 for size in extent), generator=generator, dtype=torch.float64)
    return list(zip(weights, gaps, strict=True)), groups, image


@few
@given(cascades())
def test_the_kernel_of_a_cascade_is_the_cascade(drawn):
    layers, groups, image = drawn
    expected = image
    for weight, gap in layers:
        expected = CONV[image.ndim - 2](expected, weight, dilation=gap, groups=groups)
    kernel = compose(*layers, groups=groups)
    assert kernel.shape[:2] == (expected.shape[1], image.shape[1] // groups)
    result = CONV[image.ndim - 2](image, kernel, groups=groups)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12 * kernel.abs().sum().item())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.int64], ids=str)
def test_every_path_of_taps_adds_its_product(dtype):
    """The formula of the docstring, one path at a time; whole numbers are exact."""
    first = torch.randint(-9, 9, (3, 2, 2, 3)).to(dtype)
    last = torch.randint(-9, 9, (4, 3, 3, 1)).to(dtype)
    expected = torch.zeros(4, 2, 2 + 6, 1 + 2 * 2, dtype=dtype)
    for o, m, c in np.ndindex(4, 3, 2):
        for t in np.ndindex(2, 3):
            for u in np.ndindex(3, 1):
                expected[o, c, t[0] + 3 * u[0], 2 * t[1] + u[1]] += last[o, m][u] * first[m, c][t]
    torch.testing.assert_close(compose((first, (1, 2)), (last, (3, 1))), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("size", "count", "ndim"), [(2, 4, 1), (3, 3, 1), (2, 3, 2), (3, 3, 2), (4, 2, 2), (2, 2, 3)])
def test_dilations_of_powers_of_the_size_are_a_kronecker_product(size, count, ndim):
    """Huszar 2016: K_L (x) ... (x) K_0, the most dilated outermost; the other order is another kernel."""
    kernels = np.random.default_rng(0).standard_normal((count, *[size] * ndim))
    layers = [(torch.from_numpy(kernel)[None, None], size**index) for index, kernel in enumerate(kernels)]
    product, wrong = kernels[0], kernels[0]
    for kernel in kernels[1:]:
        product, wrong = np.kron(kernel, product), np.kron(wrong, kernel)
    result = compose(*layers)[0, 0].numpy()
    np.testing.assert_allclose(result, product, rtol=1e-12, atol=1e-13)
    assert not np.allclose(result, wrong)


def test_dilations_of_yu_and_koltun_are_no_kronecker_product():
    """One coarse 5 x 5 by one fine 3 x 3 would have rank 1 after rearrangement; so would the other way round."""
    layers = [(torch.randn(1, 1, 3, 3, dtype=torch.float64), gap) for gap in (1, 2, 4)]
    kernel = compose(*layers)[0, 0]
    assert kernel.shape == (15, 15)
    for fine in (3, 5):
        coarse = 15 // fine
        rows = kernel.reshape(coarse, fine, coarse, fine).transpose(1, 2).reshape(coarse**2, fine**2)
        assert torch.linalg.svdvals(rows)[1] > 1e-2


def test_depthwise_cascades_of_many_channels_stay_apart():
    layers = [(torch.randn(6, 1, 3, 3), gap) for gap in (1, 3)]
    kernel = compose(*layers, groups=6)
    assert kernel.shape == (6, 1, 9, 9)
    alone = [compose(*((weight[i : i + 1], gap) for weight, gap in layers)) for i in range(6)]
    torch.testing.assert_close(kernel, torch.cat(alone))
    assert kernel.is_contiguous()


def test_one_layer_is_its_dilated_kernel():
    weight = torch.randn(4, 2, 3, 2)
    assert torch.equal(compose((weight, (2, 3))), dilate_kernel(weight, (2, 3)))
    assert torch.equal(compose((weight, 1)), weight)


@few
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3), st.integers(0, 2))
def test_a_dilated_kernel_is_a_cropped_kronecker_product(axes, lead):
    """K (x) E_11, without its d - 1 zeros at the end of each axis."""
    sizes, gaps = zip(*axes, strict=True)
    kernel = torch.randn(*[2] * lead, *sizes, dtype=torch.float64)
    corner = np.zeros((*[1] * lead, *gaps))
    corner.flat[0] = 1
    crop = tuple(slice(d * (k - 1) + 1) for k, d in axes)
    expected = np.kron(kernel.numpy(), corner)[(..., *crop)]
    assert np.array_equal(dilate_kernel(kernel, gaps).numpy(), expected)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_a_dilated_convolution_is_a_dense_one(ndim):
    weight, image = torch.randn(4, 1, *[3] * ndim, dtype=torch.float64), torch.randn(1, 2, *[9] * ndim).double()
    expected = CONV[ndim](image, weight, dilation=3, groups=2)
    torch.testing.assert_close(CONV[ndim](image, dilate_kernel(weight, 3), groups=2), expected)


def test_derivatives():
    first = torch.randn(4, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    last = torch.randn(2, 2, 3, 1, dtype=torch.float64, requires_grad=True)

    def call(first, last):
        return compose((first, 2), (last, (3, 1)), groups=2)

    assert torch.autograd.gradcheck(call, (first, last), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, (first, last))
    assert torch.autograd.gradcheck(lambda x: dilate_kernel(x, (3,)), (first,), check_forward_ad=True)


def test_maps_compile_and_export():
    torch.compiler.reset()
    weights = torch.randn(3, 4, 2, 3), torch.randn(3, 2, 4, 2)

    def call(first, last):
        return compose((dilate_kernel(first, 2), 1), (last, 4))

    one = [weight[0] for weight in weights]
    expected = torch.stack([call(*pair) for pair in zip(*weights, strict=True)])
    torch.testing.assert_close(torch.vmap(call)(*weights), expected)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*one), expected[0])

    class Composed(torch.nn.Module):
        def forward(self, first, last):
            return call(first, last)

    program = torch.export.export(Composed(), tuple(one))
    torch.testing.assert_close(program.module()(*one), expected[0])


def test_layouts_and_empty_leads():
    weight = torch.randn(2, 2, 4, 5).transpose(2, 3)
    assert torch.equal(dilate_kernel(weight, (2, 1)), dilate_kernel(weight.contiguous(), (2, 1)))
    twice = compose((weight, 1), (weight, 2))
    torch.testing.assert_close(twice, compose((weight.contiguous(), 1), (weight.contiguous(), 2)))
    assert twice.is_contiguous()
    assert dilate_kernel(torch.zeros(0, 1, 3), 4).shape == (0, 1, 9)


W = torch.ones(2, 2, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: dilate_kernel(torch.ones(3, 3), 2),
            ShapeError,
            "dilate_kernel: dilation: got 2 for a tensor of shape",
        ),
        (lambda: dilate_kernel(torch.ones(3), (2, 2)), ShapeError, "one integer for each of the last axes"),
        (lambda: dilate_kernel(torch.ones(3), ()), ShapeError, "dilation: got () for a tensor of shape (3,)"),
        (
            lambda: dilate_kernel(W, 0),
            GeometryError,
            "dilate_kernel: dilation: got (0,), expected integers of at least",
        ),
        (lambda: dilate_kernel(W, 1.5), GeometryError, "dilate_kernel: dilation: got 1.5, expected integers"),
        (lambda: compose(), ShapeError, "compose: got weights [], expected at least one, all (D, C/groups, *K)"),
        (lambda: compose((torch.ones(2, 2), 1)), ShapeError, "compose: got weights [(2, 2)], expected at least one"),
        (lambda: compose((W, 1), (W[..., None], 1)), ShapeError, "compose: got weights [(2, 2, 3), (2, 2, 3, 1)]"),
        (
            lambda: compose((W, 1), (W[:, :1], 1)),
            ShapeError,
            "compose: layer 1: got 2 input channels, weight (2, 1, 3)",
        ),
        (lambda: compose((W, 1), groups=3), ShapeError, "compose: layer 0: got 6 input channels, weight (2, 2, 3) and"),
        (lambda: compose((W, 1), (W.double(), 1)), ShapeError, "compose: got tensors of torch.float32, torch.float64"),
        (lambda: compose((W, 0)), GeometryError, "compose: dilation: got (0,), expected integers of at least 1"),
        (lambda: compose((W, 1), (W, (1, 2))), GeometryError, "dilation: got 2 entries (1, 2), expected one or 1"),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
