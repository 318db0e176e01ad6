"""Convolutions of real rates beside torch's at integer rates, and a slow sum of interpolated pixels elsewhere."""

import itertools
import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous import GeometryError, ShapeError
from atrous.functional import adaptive_conv2d


def draw(size=(5, 6), stride=1, groups=1, kernel=(3, 3), batch=2):
    generator = torch.Generator().manual_seed(0)
    output = [-(-n // stride) for n in size]
    x = torch.randn(batch, 4, *size, generator=generator, dtype=torch.float64)
    w = torch.randn(6, 4 // groups, *kernel, generator=generator, dtype=torch.float64)
    rate = 4 * torch.rand(batch, 1, *output, generator=generator, dtype=torch.float64)
    return x, w, rate, torch.randn(6, generator=generator, dtype=torch.float64)


def pixel(x, v, u):
    """Interpolate an image (C, H, W) at one place; it is 0 beside its pixels."""
    total = torch.zeros(len(x), dtype=x.dtype)
    for i, j in itertools.product((math.floor(v), math.floor(v) + 1), (math.floor(u), math.floor(u) + 1)):
        if 0 <= i < x.shape[1] and 0 <= j < x.shape[2]:
            total += (1 - abs(v - i)) * (1 - abs(u - j)) * x[:, i, j]
    return total


def slow(x, w, rate, bias, stride, groups):
    rows, columns = w.shape[2:]
    y = torch.zeros(len(x), len(w), *rate.shape[2:], dtype=x.dtype)
    for n, p, q in itertools.product(range(len(x)), range(y.shape[2]), range(y.shape[3])):
        d = rate[n, 0, p, q].item()
        patch = [
            [pixel(x[n], p * stride + d * (i - rows // 2), q * stride + d * (j - columns // 2)) for j in range(columns)]
            for i in range(rows)
        ]
        patch = torch.stack([torch.stack(row, -1) for row in patch], -2)
        y[n, :, p, q] = F.conv2d(patch[None], w, bias, groups=groups)[0, :, 0, 0]
    return y


@settings(deadline=None, max_examples=12)
@given(
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.integers(1, 3),
    groups=st.sampled_from([1, 2]),
    kernel=st.sampled_from([(3, 3), (1, 5), (3, 1)]),
)
def test_the_definition(size, stride, groups, kernel):
    x, w, rate, bias = draw(size, stride, groups, kernel)
    result = adaptive_conv2d(x, w, rate, bias, stride, groups)
    torch.testing.assert_close(result, slow(x, w, rate, bias, stride, groups), rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    rate=st.integers(1, 25),
    stride=st.integers(1, 3),
    kernel=st.sampled_from([(3, 3), (5, 3), (1, 7)]),
    groups=st.sampled_from([1, 2]),
)
def test_integer_rates_are_dilations(size, rate, stride, kernel, groups):
    x, w, rates, bias = draw(size, stride, groups, kernel)
    padding = [rate * (taps // 2) for taps in kernel]
    expected = F.conv2d(x, w, bias, stride, padding, rate, groups)
    for given_rate in (torch.tensor(float(rate)), torch.full_like(rates, rate)):
        result = adaptive_conv2d(x, w, given_rate, bias, stride, groups)
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_every_pixel_has_its_own_rate():
    x, w, rates, bias = draw((9, 11))
    rates = rates.floor() + 1
    every = {d: F.conv2d(x, w, bias, padding=int(d), dilation=int(d)) for d in rates.unique().tolist()}
    expected = sum(torch.where(rates == d, output, 0) for d, output in every.items())
    assert len(every) == 4
    torch.testing.assert_close(adaptive_conv2d(x, w, rates, bias), expected, rtol=1e-12, atol=1e-12)


def test_a_rate_of_0_reads_one_pixel_and_one_below_counts_as_0():
    x, w, rates, bias = draw()
    expected = F.conv2d(x, w.sum((2, 3), keepdim=True), bias)
    for rate in (torch.tensor(0.0), torch.tensor(-3.5), -rates, torch.tensor(-math.inf)):
        torch.testing.assert_close(adaptive_conv2d(x, w, rate, bias), expected)


@pytest.mark.parametrize("rate", [1e30, math.inf])
def test_a_huge_rate_reads_the_centre_alone(rate):
    x, w, _, bias = draw()
    rate = torch.tensor(rate, requires_grad=True)
    result = adaptive_conv2d(x, w, rate, bias)
    torch.testing.assert_close(result, F.conv2d(x, w[:, :, 1:2, 1:2], bias))
    assert torch.autograd.grad(result.sum(), rate)[0] == 0


def small(stride=1):
    """Return leaves of few numbers, with rates a quarter of a pixel or more away from every kink."""
    output = [-(-n // stride) for n in (3, 4)]
    shapes = (1, 2, 3, 4), (2, 1, 3, 3), (1, 1, *output), (2,)
    x, w, rate, bias = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return [leaf.requires_grad_() for leaf in (x, w, (2 * rate.abs()).floor() + rate.sigmoid() / 2 + 0.25, bias)]


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_at_rates_that_are_no_integers(stride):
    x, w, rates, bias = small(stride)
    assert torch.autograd.gradcheck(lambda *given: adaptive_conv2d(*given, stride, 2), (x, w, rates, bias))
    one = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda rate: adaptive_conv2d(x, w, rate, bias, stride, 2), one)


@pytest.mark.parametrize("start", [0.0, 1.0, 2.0])
def test_at_an_integer_the_derivative_is_that_for_a_growing_rate(start):
    x, w, _, _ = draw((9, 9))
    rate = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    derivative = torch.autograd.grad(adaptive_conv2d(x, w, rate).sum(), rate)[0]
    grown = adaptive_conv2d(x, w, rate.detach() + 1e-4).sum() - adaptive_conv2d(x, w, rate.detach()).sum()
    # Quadratic in what the rate grows by, as shares are products of two axes.
    torch.testing.assert_close(derivative, grown / 1e-4, rtol=1e-2, atol=1e-2)


def test_a_rate_below_0_is_drawn_back():
    x = torch.arange(49.0, dtype=torch.float64).view(1, 1, 7, 7) ** 2
    w = torch.ones(1, 1, 1, 3, dtype=torch.float64)
    for start in (-2.0, 0.0):
        rate = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        (derivative,) = torch.autograd.grad(adaptive_conv2d(x, w, rate)[..., 3].sum(), rate)
        torch.testing.assert_close(derivative, torch.tensor(14.0, dtype=torch.float64))


def test_derivatives_of_a_second_order_and_forward_mode():
    x, w, rates, bias = small(stride=2)
    w = w[:, :, :1].detach().requires_grad_()

    def call(*given):
        return adaptive_conv2d(*given, bias.detach(), 2, 2)

    assert torch.autograd.gradgradcheck(call, (x, w, rates))
    _, tangent = torch.func.jvp(lambda rate: call(x.detach(), w.detach(), rate), (rates.detach(),), (rates.detach(),))
    step = 1e-6 * rates.detach()
    grown = call(x, w, rates + step) - call(x, w, rates - step)
    torch.testing.assert_close(tangent, grown.detach() / 2e-6, rtol=1e-6, atol=1e-6)


def test_compile_map_and_no_batch():
    torch.compiler.reset()
    x, w, rates, bias = draw(kernel=(1, 3))
    expected = adaptive_conv2d(x, w, rates, bias)

    def call(x, rates):
        return adaptive_conv2d(x, w, rates, bias)

    torch.testing.assert_close(torch.compile(call, backend="aot_eager", fullgraph=True)(x, rates), expected)
    torch.testing.assert_close(torch.vmap(call)(x, rates), expected)
    torch.testing.assert_close(call(x[0], rates[0]), expected[0])
    torch.testing.assert_close(call(x[0], torch.tensor(1.5)), call(x, torch.tensor(1.5))[0])
    assert call(x[:0], rates[:0]).shape == (0, 6, 5, 6)
    torch.testing.assert_close(call(x.mT.contiguous().mT, rates.mT.contiguous().mT), expected)


def test_coarse_types_keep_fine_rates():
    """At 1000 pixels 16 bits know even numbers only; a rate in float32 is exact."""
    x = torch.zeros(1, 1, 1, 2001)
    x[..., 2000] = 1
    w = torch.tensor([[[[0.0, 0.0, 1.0]]]])
    result = adaptive_conv2d(x.bfloat16(), w.bfloat16(), torch.tensor(999.25))
    assert result.dtype == torch.bfloat16
    assert result.flatten().nonzero().flatten().tolist() == [1000, 1001]
    assert result.flatten()[1000:1002].tolist() == [0.25, 0.75]


def test_autocast():
    x, w, rates, bias = (leaf.float() for leaf in draw())
    expected = adaptive_conv2d(x, w, rates, bias)
    with torch.autocast("cpu", torch.bfloat16):
        result = adaptive_conv2d(x, w, rates, bias)
    assert result.dtype == torch.bfloat16
    assert (result - expected).abs().max() < 0.03 * expected.abs().max()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"weight": torch.ones(1, 1, 3, 2)},
            ShapeError,
            "weight: got shape (1, 1, 3, 2), expected (D, C/groups, K_h, K_",
        ),
        (
            {"weight": torch.ones(1, 1, 3)},
            ShapeError,
            "adaptive_conv2d: weight: got shape (1, 1, 3), expected (D, C/gr",
        ),
        ({"input": torch.ones(4, 4)}, ShapeError, "adaptive_conv2d: input: got shape (4, 4), expected (B, C, H, W) or"),
        ({"input": torch.ones(3, 4, 4)}, ShapeError, "adaptive_conv2d: got 3 input channels"),
        ({"bias": torch.ones(2)}, ShapeError, "adaptive_conv2d: bias: got shape (2,), expected (1,)"),
        ({"bias": torch.ones(1).double()}, ShapeError, "adaptive_conv2d: got tensors of torch.float32, torch.float64"),
        (
            {"rate": torch.ones(1, 4, 4)},
            ShapeError,
            "rate: got torch.float32 of shape (1, 4, 4), expected real numbers",
        ),
        (
            {"rate": torch.ones(2, 1, 4, 5)},
            ShapeError,
            "of shape () or (2, 1, 4, 4): one for all, or one for each pixel",
        ),
        ({"rate": torch.tensor(2)}, ShapeError, "adaptive_conv2d: rate: got torch.int64 of shape (), expected real"),
        ({"stride": 0}, GeometryError, "stride: got (0, 0), expected integers of at least 1"),
    ],
)
def test_messages(change, error, message):
    given = {"input": torch.ones(2, 1, 4, 4), "weight": torch.ones(1, 1, 3, 3), "rate": torch.tensor(1.0)}
    with pytest.raises(error, match=re.escape(message)):
        adaptive_conv2d(**{**given, **change})


def test_a_rate_is_a_tensor():
    with pytest.raises(ShapeError, match=r"adaptive_conv2d: rate: got 2.0, expected real numbers of shape \(\)"):
        adaptive_conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3), 2.0)
