"""The definition of a convolution: one shifted, weighted sum per tap.

Legend: B batch, C channels in, D channels out, G groups, S input size, P output size, N axes.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F

from atrous._backends.reference.precision import rounded_once
from atrous._geometry import Geometry


def conv(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry, groups: int
) -> torch.Tensor:
    """Correlate `input` (B, C, *S) with `weight` (D, C/groups, *K): `y[p] = bias + sum_t w[t] x[p s + t d - before]`.

    Sums in float32 below float32, and rounds once.
    """
    device = input.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        low = torch.get_autocast_dtype(device)
        eligible = (torch.float32, torch.float16, torch.bfloat16)  # autocast leaves all other dtypes alone
        input, weight = (tensor.to(low) if tensor.dtype in eligible else tensor for tensor in (input, weight))
    return rounded_once(lambda x, w: _sum_of_taps(x, w, geometry, groups), input, weight, bias)


def _sum_of_taps(input: torch.Tensor, weight: torch.Tensor, geometry: Geometry, groups: int) -> torch.Tensor:
    size = geometry.output_size(input.shape[2:])
    padded = F.pad(input, [side for pair in reversed(geometry.padding) for side in pair])
    padded = padded.reshape(padded.shape[0], groups, weight.shape[1], *padded.shape[2:])
    weight = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    total = input.new_zeros(input.shape[0], weight.shape[0] * weight.shape[1], *size)
    for tap in itertools.product(*map(range, geometry.kernel)):
        seen = padded
        for axis, index in enumerate(tap):
            start, stride = index * geometry.dilation[axis], geometry.stride[axis]
            seen = seen.narrow(axis + 3, start, (size[axis] - 1) * stride + 1)
            seen = seen[(slice(None),) * (axis + 3) + (slice(None, None, stride),)]
        total = total + torch.einsum("bgc...,gdc->bgd...", seen, weight[(slice(None),) * 3 + tap]).flatten(1, 2)
    return total
