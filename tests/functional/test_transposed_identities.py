"""What a transposed convolution is: a convolution of an input with zeros between its pixels, and a gradient."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous import GeometryError, ShapeError, functional
from atrous.functional import zero_insert

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
few = settings(deadline=None, max_examples=60)


@st.composite
def calls(draw):
    """Draw input, weight and options of a transposed convolution with at least a pixel of output."""
    ndim = draw(st.integers(1, 3))

    def axes(low, high):
        return draw(st.tuples(*[st.integers(low, high)] * ndim))

    size, kernel, stride, dilation = axes(1, 4), axes(1, 4), axes(1, 4), axes(1, 3)
    most = [(n - 1) * s + d * (k - 1) for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)]
    padding = tuple(draw(st.integers(0, limit // 2)) for limit in most)
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    groups, inputs, outputs = (draw(st.integers(1, 3)) for _ in range(3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    shapes = (2, groups * inputs, *size), (groups * inputs, outputs, *kernel)
    x, w = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return x, w, {"stride": stride, "padding": padding, "dilation": dilation, "output_padding": extra, "groups": groups}


def by_convolution(x, w, stride, padding, dilation, output_padding, groups):
    """Convolve an input with zeros between its pixels by the flipped kernel, channels exchanged inside each group."""
    ndim, (inputs, outputs, *kernel) = x.ndim - 2, w.shape
    wide = torch.zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True))).double()
    for index in np.ndindex(*x.shape[2:]):
        wide[(..., *(i * s for i, s in zip(index, stride, strict=True)))] = x[(..., *index)]
    assert torch.equal(zero_insert(x, stride), wide)
    reach = [d * (k - 1) - p for k, d, p in zip(kernel, dilation, padding, strict=True)]
    sides = [side for r, more in zip(reach[::-1], output_padding[::-1], strict=True) for side in (r, r + more)]
    turned = w.reshape(groups, inputs // groups, outputs, *kernel).transpose(1, 2)
    turned = turned.reshape(groups * outputs, inputs // groups, *kernel).flip(tuple(range(2, 2 + ndim)))
    return CONV[ndim](F.pad(wide, sides), turned, dilation=dilation, groups=groups)


@few
@given(calls())
def test_a_convolution_of_the_input_with_zeros_between(call):
    x, w, options = call
    result = getattr(functional, f"conv_transpose{x.ndim - 2}d")(x, w, **options)
    torch.testing.assert_close(result, by_convolution(x, w, **options), rtol=1e-12, atol=1e-12)


@few
@given(calls())
def test_the_product_of_a_vector_with_the_jacobian_of_a_convolution(call):
    x, w, options = call
    extra = options.pop("output_padding")
    ndim = x.ndim - 2
    result = getattr(functional, f"conv_transpose{ndim}d")(x, w, output_padding=extra, **options)
    z, vjp = torch.func.vjp(lambda y: getattr(functional, f"conv{ndim}d")(y, w, **options), torch.zeros_like(result))
    # The convolution rounds its size down; where output_padding adds whole strides, it sees pixels that x has not.
    seed = torch.zeros_like(z)
    seed[(..., *(slice(n) for n in x.shape[2:]))] = x
    torch.testing.assert_close(vjp(seed)[0], result, rtol=1e-12, atol=1e-12)


def test_it_is_no_inverse():
    """A kernel of ones: the convolution sums up, its transpose repeats the sums; neither order gives the input back."""
    x, w = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.ones(1, 1, 2)
    forth = functional.conv1d(x, w, stride=2)
    assert forth.tolist() == [[3, 7]]
    assert functional.conv_transpose1d(forth, w, stride=2).tolist() == [[3, 3, 7, 7]]
    assert functional.conv1d(functional.conv_transpose1d(forth, w, stride=2), w, stride=2).tolist() == [[6, 14]]


COUNTS = {(3, 2): {1, 2}, (4, 2): {2}, (5, 3): {1, 2}, (6, 3): {2}, (2, 3): {0, 1}}


def counts(kernel, stride, size=9):
    """Return how many pixels each pixel of the output hears of, away from the border."""
    ones = functional.conv_transpose1d(torch.ones(1, size), torch.ones(1, 1, kernel), stride=stride)
    return {int(count) for count in ones[0, kernel:-kernel]}


@pytest.mark.parametrize(("pair", "expected"), COUNTS.items(), ids=str)
def test_overlaps(pair, expected):
    assert counts(*pair) == expected


@given(st.integers(1, 9), st.integers(1, 6))
def test_overlaps_are_alike_if_and_only_if_the_stride_divides_the_kernel(kernel, stride):
    assert (len(counts(kernel, stride, size=20)) == 1) == (kernel % stride == 0)


def test_the_weight_gradient_of_a_strided_convolution_is_dilated():
    """XLA's rhs_dilation: the gradient of the output is the kernel, with the stride between its pixels."""
    x, w = torch.randn(1, 1, 11, dtype=torch.float64), torch.randn(1, 1, 3, dtype=torch.float64, requires_grad=True)
    y = functional.conv1d(x, w, stride=4)
    seed = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, w, seed)
    torch.testing.assert_close(gradient, F.conv1d(x, seed, dilation=4))


def test_axes_and_layouts():
    x = torch.arange(6).reshape(2, 3)
    assert zero_insert(x, (2,)).tolist() == [[0, 0, 1, 0, 2], [3, 0, 4, 0, 5]]
    assert zero_insert(x, (2, 1)).tolist() == [[0, 1, 2], [0, 0, 0], [3, 4, 5]]
    assert zero_insert(x.T, (1, 3)).tolist() == [[0, 0, 0, 3], [1, 0, 0, 4], [2, 0, 0, 5]]
    images = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert torch.equal(zero_insert(images, 2), zero_insert(images.contiguous(), 2))
    assert zero_insert(torch.zeros(0, 3, 4, 5), 2).shape == (0, 3, 7, 9)
    assert zero_insert(torch.zeros(1, 3, 0), 3).shape == (1, 3, 0)


def test_zero_insert_follows_torch():
    torch.compiler.reset()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: zero_insert(t, 3), (x,), check_forward_ad=True, check_batched_grad=True)
    torch.testing.assert_close(torch.vmap(lambda t: zero_insert(t, (3,)))(x), zero_insert(x, 3))

    class Insert(torch.nn.Module):
        def forward(self, input):
            return zero_insert(input, 3)

    compiled = torch.compile(Insert(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), zero_insert(x, 3))
    free = ({2: torch.export.Dim.AUTO},)
    program = torch.export.export(Insert(), (x.detach(),), dynamic_shapes=free)
    longer = torch.randn(2, 3, 9, dtype=torch.float64)
    torch.testing.assert_close(program.module()(longer), zero_insert(longer, 3))


@pytest.mark.parametrize(
    ("stride", "error", "message"),
    [
        (
            2,
            ShapeError,
            "zero_insert: stride: got 2 for a tensor of shape (3, 4), expected one integer for the axes beh",
        ),
        ((1, 2, 3), ShapeError, "zero_insert: stride: got (1, 2, 3) for a tensor of shape (3, 4)"),
        ((1, 0), GeometryError, "zero_insert: stride: got (1, 0), expected integers of at least 1"),
        ("same", GeometryError, "zero_insert: stride: got ('same',), expected integers of at least 1"),
    ],
)
def test_messages(stride, error, message):
    image = torch.zeros(3, 4, 5) if stride == "same" else torch.zeros(3, 4)
    with pytest.raises(error, match=re.escape(message)):
        zero_insert(image, stride)
