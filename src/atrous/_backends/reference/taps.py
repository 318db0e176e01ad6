"""The definition of a sum over taps, and of its gradient in the weight: one gather per tap.

Legend: B batch, C channels in, D channels out, G groups, S input size, P output size, T taps, N axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from atrous._backends.reference.precision import rounded_once


def tap_conv(
    input: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    upsample: Sequence[int],
    output_size: Sequence[int],
) -> torch.Tensor:
    """Sum taps: `y[b, o, p] = bias[o] + sum over c, t of weight[o, c, t] xu[b, c, p stride + offsets[o, c, t]]`.

    `xu[i]` is `input[i / upsample]` where `upsample` divides i and the pixel exists; any other tap is left out, not
    multiplied by 0. `input` (B, C, *S), `weight` (D, C/groups, T), `offsets` (T, N) or (D, C/groups, T, N); returns
    (B, D, *output_size).
    """
    outputs, per_group, _ = weight.shape
    groups = input.shape[1] // per_group

    def total(input: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        weight = torch.unflatten(weight, 0, (groups, -1))
        result = _nothing(input, weight).expand(input.shape[0], groups, outputs // groups, math.prod(output_size))
        for tap, offset in enumerate(_grouped(offsets, groups).unbind(-2)):
            seen, inside = _see(input, offset, stride, upsample, output_size, groups)
            # An infinite weight must not meet the zeros that stand for what is not seen.
            kernel = weight[..., tap, None].where(inside, 0)
            result = result + torch.einsum("bgdcp,gdcp->bgdp", seen, kernel)
        return result.reshape(input.shape[0], outputs, *output_size)

    return rounded_once(total, input, weight, bias)


def tap_conv_weight(
    grad: torch.Tensor,
    input: torch.Tensor,
    offsets: torch.Tensor,
    stride: Sequence[int],
    upsample: Sequence[int],
    groups: int,
) -> torch.Tensor:
    """Correlate what the taps see: `w[o, c, t] = sum over b, p of grad[b, o, p] xu[b, c, p stride + offsets[o, c, t]]`.

    The gradient of `tap_conv` in its weight, for `grad` (B, D, *P); returns (D, C/groups, T).
    """
    size = grad.shape[2:]

    def total(grad: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
        grad = torch.unflatten(grad, 1, (groups, -1)).unsqueeze(3).flatten(4)
        shape = groups, grad.shape[2], input.shape[1] // groups, 0
        result = [_nothing(grad, input).expand(shape)]
        for offset in _grouped(offsets, groups).unbind(-2):
            seen, inside = _see(input, offset, stride, upsample, size, groups)
            result.append(torch.einsum("bgdcp,bgdcp->gdc", grad.where(inside, 0), seen).unsqueeze(-1))
        return torch.cat(result, -1).flatten(0, 1)

    return rounded_once(total, grad, input)


def _nothing(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return a 0 that depends on both, so that a sum over no taps has derivatives as any other."""
    return first.flatten()[:0].sum(dtype=first.dtype) + second.flatten()[:0].sum(dtype=second.dtype)


def _grouped(offsets: torch.Tensor, groups: int) -> torch.Tensor:
    """Return offsets as (G, D/G, C/G, T, N), the first three 1 where all pairs share them."""
    offsets = offsets.long()
    return offsets[None, None, None] if offsets.ndim == 2 else torch.unflatten(offsets, 0, (groups, -1))


def _see(
    input: torch.Tensor,
    offset: torch.Tensor,
    stride: Sequence[int],
    upsample: Sequence[int],
    output_size: Sequence[int],
    groups: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what every output sees of `input` through one tap, flat, and where it sees a pixel at all.

    `offset` is (G, D/G, C/G, N) or (1, 1, 1, N); the first result (B, G, D/G or 1, C/G, P), 0 where the second,
    (*offset.shape[:3], P), is false.
    """
    size = input.shape[2:]
    pairs, lead = offset.shape[:3], len(size) - 1
    inside = torch.ones((), dtype=torch.bool, device=input.device)
    pixel = torch.zeros((), dtype=torch.long, device=input.device)
    for axis, extent in enumerate(size):
        at = torch.arange(output_size[axis], device=input.device) * stride[axis] + offset[..., axis, None]
        at = at.view(*pairs, *[1] * axis, -1, *[1] * (lead - axis))
        source = at.div(upsample[axis], rounding_mode="floor")
        inside = inside & (source * upsample[axis] == at) & (source >= 0) & (source < extent)
        pixel = pixel * extent + source
    # What is outside reads one more pixel of 0, which also gives a plane without pixels something to read.
    nothing = math.prod(size)
    pixel, inside = pixel.where(inside, nothing).flatten(3), inside.flatten(3)
    plane = torch.unflatten(F.pad(input.flatten(2), (0, 1)), 1, (groups, 1, -1))
    shape = (*plane.shape[:2], pairs[1], plane.shape[3], -1)
    return plane.expand(shape).gather(-1, pixel.expand(shape)), inside
