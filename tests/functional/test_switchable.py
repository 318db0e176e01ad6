"""Switchable atrous convolutions and standardised weights beside torch's operators and numpy."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous import GeometryError, ShapeError
from atrous.functional import standardized_weight, switchable_conv2d
from atrous.functional.switchable import weight_moments


def draw(size=(7, 9), stride=1, groups=1, kernel=(3, 3)):
    generator = torch.Generator().manual_seed(0)
    output = [-(-n // stride) for n in size]
    weight = 6, 4 // groups, *kernel
    shapes = (2, 4, *size), weight, weight, (2, 1, *output), (6,)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@settings(deadline=None, max_examples=25)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 4),
    groups=st.sampled_from([1, 2]),
    kernel=st.sampled_from([(3, 3), (1, 5)]),
)
def test_the_definition(size, stride, dilation, groups, kernel):
    x, w, dw, s, b = draw(size, stride, groups, kernel)
    result = switchable_conv2d(x, w, dw, s, b, stride, dilation, groups)
    padding = [dilation * (taps // 2) for taps in kernel]
    near = F.conv2d(x, w, None, stride, padding, dilation, groups)
    far = F.conv2d(x, w + dw, None, stride, [3 * side for side in padding], 3 * dilation, groups)
    expected = s * near + (1 - s) * far + b[:, None, None]
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_a_switch_of_1_is_the_narrow_convolution_and_one_of_0_the_wide_one():
    x, w, dw, s, b = draw()
    expected = F.conv2d(x, w, b, padding=2, dilation=2)
    torch.testing.assert_close(switchable_conv2d(x, w, dw, s.new_ones(s.shape), b, 1, 2), expected, rtol=0, atol=1e-14)
    far = F.conv2d(x, w + dw, b, padding=6, dilation=6)
    torch.testing.assert_close(switchable_conv2d(x, w, dw, s.new_zeros(s.shape), b, 1, 2), far, rtol=0, atol=1e-14)


def test_gradients():
    leaves = [leaf.requires_grad_() for leaf in draw((3, 4), groups=2)]
    leaves[0], leaves[3] = leaves[0][:1].detach().requires_grad_(), leaves[3][:1].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: switchable_conv2d(*given, groups=2), leaves)


def test_compile_map_and_no_batch():
    torch.compiler.reset()
    x, w, dw, s, b = draw()
    expected = switchable_conv2d(x, w, dw, s, b, dilation=2)

    def call(x, s):
        return switchable_conv2d(x, w, dw, s, b, dilation=2)

    torch.testing.assert_close(torch.compile(call, backend="aot_eager", fullgraph=True)(x, s), expected)
    torch.testing.assert_close(torch.vmap(call)(x, s), expected)
    torch.testing.assert_close(call(x[0], s[0]), expected[0])
    assert call(x[:0], s[:0]).shape == (0, 6, 7, 9)


@settings(deadline=None, max_examples=20)
@given(shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(2, 4)))
def test_standardized_weights_have_the_moments_wanted(shape):
    w = torch.randn(shape, dtype=torch.float64)
    scale, shift = torch.rand(shape[0], 1, 1, 1, dtype=torch.float64), torch.randn(shape[0], 1, 1, 1).double()
    rows = w.numpy().reshape(shape[0], -1)
    normal = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, ddof=1, keepdims=True) + 1e-5)
    expected = scale.numpy().reshape(-1, 1) * normal + shift.numpy().reshape(-1, 1)
    np.testing.assert_allclose(standardized_weight(w, scale, shift).numpy().reshape(shape[0], -1), expected, rtol=1e-10)
    torch.testing.assert_close(standardized_weight(w, *weight_moments(w)), w, rtol=1e-12, atol=1e-12)


def test_standardized_weights_differentiate():
    w = torch.randn(2, 2, 1, 3, dtype=torch.float64, requires_grad=True)
    scale, shift = torch.rand(2, 1, 1, 1).double(), torch.rand(2, 1, 1, 1).double()
    assert torch.autograd.gradcheck(lambda w: standardized_weight(w, scale, shift), w)
    flat = torch.zeros(1, 1, 1, 3, requires_grad=True)
    standardized_weight(flat, torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)).sum().backward()
    assert torch.isfinite(flat.grad).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"difference": torch.ones(3)},
            ShapeError,
            "difference: got shape (3,), expected (1, 1, 3, 3), that of weight",
        ),
        (
            {"switch": torch.ones(1, 4, 5)},
            ShapeError,
            "switchable_conv2d: switch: got shape (1, 4, 5), expected (2, 1, 4",
        ),
        (
            {"switch": torch.ones(1, 1, 4, 4)},
            ShapeError,
            "expected (2, 1, 4, 4), one share for each pixel of the output",
        ),
        ({"dilation": 0}, GeometryError, "switchable_conv2d: dilation: got (0, 0), expected integers of at least 1"),
        ({"input": torch.ones(2, 3, 4, 4)}, ShapeError, "conv2d: got 3 input channels"),
    ],
)
def test_messages(change, error, message):
    weight = torch.ones(1, 1, 3, 3)
    given = {"input": torch.ones(2, 1, 4, 4), "weight": weight, "difference": weight, "switch": torch.ones(2, 1, 4, 4)}
    with pytest.raises(error, match=re.escape(message)):
        switchable_conv2d(**{**given, **change})


def test_a_single_weight_has_no_deviation():
    one = torch.ones(4, 1, 1, 1)
    with pytest.raises(
        ShapeError, match=r"standardized_weight: got weight \(4, 1, 1, 1\), expected at least 2 weights"
    ):
        standardized_weight(one, one, one)


@pytest.mark.parametrize("what", ["scale", "shift"])
def test_every_output_channel_has_a_scale_and_a_shift(what):
    given = {"scale": torch.ones(4, 1, 1, 1), "shift": torch.ones(4, 1, 1, 1), what: torch.ones(3, 1, 1, 1)}
    with pytest.raises(ShapeError, match=rf"{what}: got shape \(3, 1, 1, 1\), expected \(4, 1, 1, 1\), one for each"):
        standardized_weight(torch.randn(4, 3, 3, 3), **given)


def test_every_tensor_has_one_dtype():
    x, weight, difference, switch, bias = draw()
    with pytest.raises(ShapeError, match=r"switchable_conv2d: got tensors of torch.float32, torch.float64"):
        switchable_conv2d(x, weight, difference, switch.float(), bias)
