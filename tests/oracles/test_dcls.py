"""Sums over taps against the layers of learned spacings of the `dcls` package, version 'v1': bilinear."""

import itertools

import pytest
import torch
from DCLS.construct.modules import Dcls1d, Dcls2d, Dcls3d

from atrous.functional import tap_conv
from atrous.testing import assert_within_budget

LAYERS = {1: Dcls1d, 2: Dcls2d, 3: Dcls3d}
EXTENT = 7


def _tap_conv(layer, input):
    """Return what the layer computes, each position as the 2^N pixels around it."""
    # (D, C, P) and (D, C, P, N); this version stores the last axis first.
    weight, positions = layer.weight.flatten(2), layer.P.flatten(3).flip(0).movedim(0, -1)
    corner, part = positions.floor().int(), positions - positions.floor()
    weights, offsets = [], []
    for side in itertools.product((0, 1), repeat=positions.shape[-1]):
        step = torch.tensor(side, dtype=torch.int32)
        weights.append(weight * torch.where(step.bool(), part, 1 - part).prod(-1))
        offsets.append(corner + step)
    return tap_conv(input, torch.cat(weights, 2), torch.cat(offsets, 2), layer.bias)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_output_and_gradients(ndim, groups):
    size = [EXTENT] * ndim if ndim > 1 else EXTENT
    layer = LAYERS[ndim](
        4, 8, 5, padding=EXTENT // 2, dilated_kernel_size=size, groups=groups, version="v1",
        **({"use_implicit_gemm": False} if ndim == 2 else {}),
    )  # fmt: skip
    with torch.no_grad():
        layer.P.uniform_(-2.9, 1.9)  # every neighbour inside of the kernel, which the layer cuts off
    input = torch.randn(2, 4, *[9] * ndim, requires_grad=True)
    leaves = [input, layer.weight, layer.P, layer.bias]
    reference = layer(input)
    grad = torch.randn_like(reference)
    expected = [reference, *torch.autograd.grad(reference, leaves, grad)]
    result = _tap_conv(layer, input)
    found = [result, *torch.autograd.grad(result, leaves, grad)]
    layer.double()
    leaves = [input.detach().double().requires_grad_(), layer.weight, layer.P, layer.bias]
    exact = layer(leaves[0])
    truth = [exact, *torch.autograd.grad(exact, leaves, grad.double())]
    for name, *values in zip(("output", "input", "weight", "positions", "bias"), found, expected, truth, strict=True):
        assert_within_budget(*(value.detach() for value in values), what=name)
