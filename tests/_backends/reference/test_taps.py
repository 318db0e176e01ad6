"""The definition against loops over pixels, and against torch where the two know the same operation."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from atrous._backends import reference
from atrous.functional import tap_conv
from atrous.testing import TAP_CASES

every_case = pytest.mark.parametrize("case", TAP_CASES, ids=lambda case: case.name)


def per_axis(value, ndim):
    return (value,) * ndim if isinstance(value, int) else value


def looped(case, input, weight, offsets, bias, output):
    """Return the first and the last channel of the output (B, D, *P), pixel by pixel from the formula."""
    stride, upsample = per_axis(case.stride, case.ndim), per_axis(case.upsample, case.ndim)
    outputs, per_group, taps = weight.shape
    pairs = offsets.tolist() if offsets.ndim == 4 else [[offsets.tolist()] * per_group] * outputs
    result = torch.zeros(input.shape[0], 2, *output.shape[2:], dtype=input.dtype)
    for slot, o in enumerate((0, outputs - 1)):
        first = o // (outputs // case.groups) * per_group
        result[:, slot] = 0 if bias is None else bias[o]
        for c, t, p in itertools.product(
            range(per_group), range(taps), itertools.product(*map(range, result.shape[2:]))
        ):
            at = [p[a] * stride[a] + pairs[o][c][t][a] for a in range(case.ndim)]
            if any(i % up or not 0 <= i // up < n for i, up, n in zip(at, upsample, input.shape[2:], strict=True)):
                continue
            pixel = tuple(i // up for i, up in zip(at, upsample, strict=True))
            result[(slice(None), slot, *p)] += weight[o, c, t] * input[(slice(None), first + c, *pixel)]
    return result


@every_case
def test_is_the_formula(case):
    input, weight, offsets, bias = case.tensors(torch.float64)
    output = tap_conv(input, weight, offsets, bias, **case.options, backend="reference")
    if case.batch is None:
        input, output = input[None], output[None]
    default = (
        math.ceil(((n - 1) * up + 1) / s) if n else 0
        for n, up, s in zip(
            case.size, per_axis(case.upsample, case.ndim), per_axis(case.stride, case.ndim), strict=True
        )
    )
    size = tuple(default) if case.output_size is None else per_axis(case.output_size, case.ndim)
    assert output.shape == (input.shape[0], case.outputs, *size)
    expected = looped(case, input, weight, offsets, bias, output)
    torch.testing.assert_close(output[:, [0, -1]], expected, rtol=1e-12, atol=1e-12)


@every_case
def test_the_weight_gradient_is_the_other_operation(case):
    input, weight, offsets, bias = case.tensors(torch.float64)
    input = input if case.batch is not None else input[None]
    output = tap_conv(input, weight.requires_grad_(), offsets, bias, **case.options, backend="reference")
    seed = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, weight, seed)
    steps = per_axis(case.stride, case.ndim), per_axis(case.upsample, case.ndim)
    result = reference.tap_conv_weight(seed, input, offsets, *steps, case.groups)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 3, 2), (3, 2, 4)])
def test_is_torchs_convolution(stride, dilation, groups):
    x, w, b = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, 4, 11, 12), (8, 4 // groups, 3, 3), (8,)))
    offsets = torch.tensor(list(itertools.product([index * dilation - 2 for index in range(3)], repeat=2)))
    expected = F.conv2d(x, w, b, stride, 2, dilation, groups)
    size = expected.shape[2:]
    result = tap_conv(x, w.flatten(2), offsets, b, stride=stride, output_size=size, backend="reference")
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 2, 1), (2, 1, 4), (3, 2, 2)])
def test_is_torchs_transposed_convolution(stride, dilation, groups):
    x, w = torch.randn(2, 4, 5, 6, dtype=torch.float64), torch.randn(4, 8 // groups, 3, 3, dtype=torch.float64)
    expected = F.conv_transpose2d(x, w, None, stride, 1, 0, groups, dilation)
    offsets = torch.tensor(list(itertools.product([1 - index * dilation for index in range(3)], repeat=2)))
    taps = w.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flatten(2)
    result = tap_conv(x, taps, offsets, upsample=stride, output_size=expected.shape[2:], backend="reference")
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("name", ["1d-stride-3-2", "2d-dense-stride", "2d-per-pair-groups", "2d-hostile-stride", "3d"])
def test_gradcheck(name):
    case = next(case for case in TAP_CASES if case.name == name)
    input, weight, offsets, bias = case.tensors(torch.float64)
    leaves = [tensor.requires_grad_() for tensor in (input, weight, bias) if tensor is not None]

    def run(input, weight, bias=None):
        return tap_conv(input, weight, offsets, bias, **case.options, backend="reference")

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


def test_integers_stay_integers():
    x, w = torch.arange(6).view(1, 1, 6), torch.tensor([[[1, -1]]])
    for dtype in (torch.int64, torch.int32, torch.int8):
        result = tap_conv(x.to(dtype), w.to(dtype), torch.tensor([[1], [0]]))
        assert result.dtype == dtype
        assert result.flatten().tolist() == [1, 1, 1, 1, 1, -5]


def test_complex_numbers():
    x, w = torch.randn(1, 2, 9, dtype=torch.complex128), torch.randn(2, 2, 3, dtype=torch.complex128)
    result = tap_conv(x, w, torch.tensor([[-1], [0], [1]]))
    torch.testing.assert_close(result, F.conv1d(x, w, padding=1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_rounded_once(dtype):
    x, w = torch.randn(1, 1, 300).to(dtype), torch.randn(1, 1, 99).to(dtype)
    offsets = torch.arange(-49, 50)[:, None]
    exact = tap_conv(x.double(), w.double(), offsets)
    result = tap_conv(x, w, offsets)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), exact, rtol=0.51 * torch.finfo(dtype).eps, atol=1e-5)
