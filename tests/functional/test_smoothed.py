"""Smoothed dilated convolutions beside their phases, one by one."""

import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous import GeometryError, ShapeError
from atrous.functional import smoothed_conv2d

MODES = ("interaction", "shared")


def size_of(mode, dilation):
    rows, columns = dilation
    return (rows * columns,) * 2 if mode == "interaction" else (2 * rows - 1, 2 * columns - 1)


def start_of(mode, dilation):
    size = size_of(mode, dilation)
    if mode == "interaction":
        return torch.eye(size[0], dtype=torch.float64)
    start = torch.zeros(size, dtype=torch.float64)
    start[size[0] // 2, size[1] // 2] = 1
    return start


def draw(size, dilation, mode, channels=(4, 6), groups=1, kernel=(3, 3), batch=2):
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, channels[0], *size), (channels[1], channels[0] // groups, *kernel), size_of(mode, dilation)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in (*shapes, (channels[1],))]


def interacted(x, w, mixing, bias, dilation, groups):
    """Convolve every phase by itself, and mix pixel by pixel what of a block lies in the image."""
    rows, columns = dilation
    z = torch.zeros(len(x), len(w), *x.shape[2:], dtype=x.dtype)
    margin = [taps // 2 for taps in w.shape[2:]]
    for i, j in itertools.product(range(rows), range(columns)):
        phase = x[..., i::rows, j::columns]
        if phase.numel():
            z[..., i::rows, j::columns] = F.conv2d(phase, w, padding=margin, groups=groups)
    y = torch.zeros_like(z)
    for p, q in itertools.product(range(x.shape[2]), range(x.shape[3])):
        for i, j in itertools.product(range(rows), range(columns)):
            u, v = p - p % rows + i, q - q % columns + j
            if u < x.shape[2] and v < x.shape[3]:
                y[..., p, q] += mixing[p % rows * columns + q % columns, i * columns + j] * z[..., u, v]
    return y + bias[:, None, None]


def shared(x, w, kernel, bias, dilation, groups):
    rows, columns = kernel.shape
    alone = x.reshape(-1, 1, *x.shape[2:])
    smooth = F.conv2d(alone, kernel[None, None], padding=(rows // 2, columns // 2)).reshape(x.shape)
    padding = [d * (taps // 2) for d, taps in zip(dilation, w.shape[2:], strict=True)]
    return F.conv2d(smooth, w, bias, padding=padding, dilation=dilation, groups=groups)


REFERENCES = {"interaction": interacted, "shared": shared}
sides = st.integers(1, 9)


@settings(deadline=None, max_examples=25)
@given(
    size=st.tuples(sides, sides),
    dilation=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    kernel=st.sampled_from([(3, 3), (1, 3), (5, 1)]),
    groups=st.sampled_from([1, 2]),
    mode=st.sampled_from(MODES),
)
def test_the_definition(size, dilation, kernel, groups, mode):
    x, w, smoothing, bias = draw(size, dilation, mode, groups=groups, kernel=kernel)
    result = smoothed_conv2d(x, w, smoothing, bias, dilation, groups, mode=mode)
    expected = REFERENCES[mode](x, w, smoothing, bias, dilation, groups)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dilation", [(1, 1), (2, 2), (3, 3), (2, 5)], ids=str)
def test_what_changes_nothing_is_the_dilated_convolution_of_every_size(mode, dilation):
    for size in itertools.product((1, 2, 4, 7), (1, 3, 6, 11)):
        x, w, _, bias = draw(size, dilation, mode)
        result = smoothed_conv2d(x, w, start_of(mode, dilation), bias, dilation, mode=mode)
        expected = F.conv2d(x, w, bias, padding=dilation, dilation=dilation)
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_nothing_leaks_in_from_beside_the_image():
    """The output beside the last row would be 100, and a mean over blocks would add it to those of the last row."""
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[..., 1, 1], kernel[..., 0, 1] = 1, 100
    result = smoothed_conv2d(torch.ones(1, 3, 1), kernel, torch.ones(4, 4), dilation=2)
    assert result.flatten().tolist() == [2, 2, 101]


def test_a_phase_is_a_row_of_a_block_after_the_other():
    x = torch.arange(6.0).view(1, 2, 3)
    mixing = torch.zeros(6, 6)
    mixing[0, 5] = mixing[4, 1] = 1
    result = smoothed_conv2d(x, torch.ones(1, 1, 1, 1), mixing, dilation=(2, 3))
    assert result.flatten().tolist() == [5, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("mode", MODES)
def test_gradients(mode):
    x, w, smoothing, bias = draw((3, 3), (2, 2), mode, (1, 2), batch=1)
    leaves = [leaf.requires_grad_() for leaf in (x, w, smoothing, bias)]
    assert torch.autograd.gradcheck(lambda *given: smoothed_conv2d(*given, 2, mode=mode), leaves)
    assert torch.autograd.gradgradcheck(lambda *given: smoothed_conv2d(*given, 2, mode=mode), leaves)


@pytest.mark.parametrize("mode", MODES)
def test_compile_map_and_forward_mode(mode):
    torch.compiler.reset()
    leaves = draw((5, 6), (2, 3), mode)

    def call(*given):
        return smoothed_conv2d(*given, (2, 3), mode=mode)

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*leaves), call(*leaves))
    x, *rest = leaves
    xs = torch.stack([x, 2 * x, -x])
    torch.testing.assert_close(
        torch.vmap(lambda one: call(one, *rest))(xs), torch.stack([call(one, *rest) for one in xs])
    )
    _, tangent = torch.func.jvp(lambda one: call(one, *rest), (x,), (x,))
    torch.testing.assert_close(tangent, call(*leaves) - leaves[3][:, None, None])


@pytest.mark.parametrize("mode", MODES)
def test_other_layouts_and_no_batch(mode):
    x, *rest = draw((5, 7), (2, 2), mode)
    expected = smoothed_conv2d(x, *rest, 2, mode=mode)
    torch.testing.assert_close(smoothed_conv2d(x[0], *rest, 2, mode=mode), expected[0])
    torch.testing.assert_close(smoothed_conv2d(x.mT.contiguous().mT, *rest, 2, mode=mode), expected)
    weight, smoothing, bias = rest
    torch.testing.assert_close(smoothed_conv2d(x, weight, smoothing.T.contiguous().T, bias, 2, mode=mode), expected)
    assert smoothed_conv2d(x[:0], *rest, 2, mode=mode).shape == (0, 6, 5, 7)


@pytest.mark.parametrize("mode", MODES)
def test_autocast(mode):
    leaves = [leaf.float() for leaf in draw((5, 7), (2, 2), mode)]
    expected = smoothed_conv2d(*leaves, 2, mode=mode)
    with torch.autocast("cpu", torch.bfloat16):
        result = smoothed_conv2d(*leaves, 2, mode=mode)
    assert result.dtype == torch.bfloat16
    assert (result - expected).abs().max() < 0.03 * expected.abs().max()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mode": "both"}, GeometryError, "mode: got 'both', expected one of ('interaction', 'shared')"),
        ({"dilation": 0}, GeometryError, "smoothed_conv2d: dilation: got (0, 0), expected integers of at least 1"),
        (
            {"dilation": 3},
            ShapeError,
            "smoothing: got shape (4, 4), expected (9, 9) for mode 'interaction' and a dilat",
        ),
        ({"mode": "shared"}, ShapeError, "smoothing: got shape (4, 4), expected (3, 3) for mode 'shared'"),
        ({"smoothing": torch.ones(4, 4).double()}, ShapeError, "smoothed_conv2d: got tensors of torch.float32, torch."),
        ({"bias": torch.ones(2)}, ShapeError, "smoothed_conv2d: bias: got shape (2,), expected (1,)"),
        ({"input": torch.ones(3, 4, 4)}, ShapeError, "conv2d: got 3 input channels"),
        ({"input": torch.ones(4, 4)}, ShapeError, "smoothed_conv2d: input: got shape (4, 4), expected (B, C, H, W)"),
    ],
)
def test_messages(change, error, message):
    given = {"input": torch.ones(1, 1, 4, 4), "weight": torch.ones(1, 1, 3, 3), "smoothing": torch.ones(4, 4)}
    with pytest.raises(error, match=re.escape(message)):
        smoothed_conv2d(**{**given, "dilation": 2, **change})
