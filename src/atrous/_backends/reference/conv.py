"""The definitions of a convolution and of a transposed one: one shifted, weighted sum per tap.

Legend: B batch, C channels in, D channels out, G groups, S input size, P output size, N axes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from atrous._autocast import all_converted
from atrous._backends.reference.precision import rounded_once
from atrous._geometry import Geometry


def conv(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry, groups: int
) -> torch.Tensor:
    """Correlate `input` (B, C, *S) with `weight` (D, C/groups, *K): `y[p] = bias + sum_t w[t] x[p s + t d - before]`.

    Sums in float32 below float32, and rounds once.
    """
    input, weight, bias = all_converted(input, weight, bias)
    return rounded_once(lambda x, w: _sum_of_taps(x, w, geometry, groups), input, weight, bias)


def conv_transpose(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    geometry: Geometry,
    groups: int,
    output_padding: Sequence[int],
) -> torch.Tensor:
    """Spread `input` (B, C, *S) by `weight` (C, D/groups, *K): every x[i] adds w[t] x[i] to y[i s + t d - before].

    The adjoint of `conv` in its input, with a bias. Sums in float32 below float32, and rounds once.
    """
    size = geometry.transposed_size(input.shape[2:], output_padding)
    input, weight, bias = all_converted(input, weight, bias)
    return rounded_once(lambda x, w: _spread(x, w, geometry, groups, size), input, weight, bias)


def _spread(
    input: torch.Tensor, weight: torch.Tensor, geometry: Geometry, groups: int, size: Sequence[int]
) -> torch.Tensor:
    before = [sides[0] for sides in geometry.padding]
    reach = [n * s + e for n, s, e in zip(input.shape[2:], geometry.stride, geometry.extent, strict=True)]
    # All that any tap writes, before the padding is cut off.
    canvas = [max(b + n, r) for b, n, r in zip(before, size, reach, strict=True)]
    outputs, per_group = weight.shape[1] * groups, weight.shape[0] // groups
    input = input.reshape(input.shape[0], groups, per_group, *input.shape[2:])
    weight = weight.reshape(groups, per_group, *weight.shape[1:])
    total = input.new_zeros(input.shape[0], outputs, *canvas)
    for tap in itertools.product(*map(range, geometry.kernel)):
        part = torch.einsum("bgc...,gcd->bgd...", input, weight[(slice(None),) * 3 + tap]).flatten(1, 2)
        for axis, index in enumerate(tap):
            # Zeros between the pixels, then around them.
            apart = F.pad(part.movedim(axis + 2, -1)[..., None], (0, geometry.stride[axis] - 1)).flatten(-2)
            start = index * geometry.dilation[axis]
            part = F.pad(apart, (start, canvas[axis] - start - apart.shape[-1])).movedim(-1, axis + 2)
        total = total + part
    for axis, (start, length) in enumerate(zip(before, size, strict=True), 2):
        total = total.narrow(axis, start, length)
    return total


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
