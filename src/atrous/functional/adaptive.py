"""Convolutions whose dilation is a real number, for each pixel one if need be.

Legend: B batch, C channels in, D channels out, K kernel size, P output size, S input size.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch

from atrous._errors import ShapeError
from atrous._geometry import Geometry, Ints
from atrous.functional._check import check_bias, check_dtypes, check_groups, check_input, resolve
from atrous.functional.conv import conv2d

# A pixel of one axis under a tap, for every output, and its share.
_Corner = tuple[torch.Tensor, torch.Tensor]


def adaptive_conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    rate: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    groups: int = 1,
) -> torch.Tensor:
    """Correlate an image with a kernel whose taps lie a real number of pixels apart.

    `y[o, p] = bias[o] + sum over c, t of w[o, c, t] x[c, p stride + rate[p] (t - (K - 1) / 2)]`, where x is linear
    between pixels, along both axes, and 0 beside the image, falling off within the first pixel outside. At a rate that
    is an integer this is `conv2d` of that dilation with padding 'same'; at 0 all taps read one pixel.

    The derivative in the rate is exact where the rate times the distance of each tap is no integer. Where it is one, it
    is that for a growing rate. A rate below 0 counts as 0, in value and not in its derivative, so none is ever stuck.

    Taps are sampled one after the other. That takes the memory of a few inputs of the size of the output, however many
    taps there are; where derivatives follow, up to five for each tap are kept. As every tap is a sum of up to four
    pixels that lie anywhere, this takes several times as long as a convolution.

    Args:
        input: (B, C, H, W) or (C, H, W).
        weight: (D, C/groups, K_h, K_w), K odd.
        rate: in pixels of the input, () for all, or (B, 1, P_h, P_w) or (1, P_h, P_w), one for each pixel of the
            output. Computed in float32 at least.
        bias: (D,) or None.
        stride: one integer, or one per axis.
        groups: how many independent channel groups; divides C and D.

    Returns:
        (B, D, P_h, P_w) or (D, P_h, P_w), with P = ceil(S / stride), whatever the rate.

    Raises:
        ShapeError: tensors that do not fit one another, or an even kernel, which has no tap at its centre.
        GeometryError: a stride that cannot be.

    Source: pixel-wise adaptive dilation, as in PAD-Net (2019) and ADCNN (2022), which have published no code.

    Example:
        >>> signal, ends = torch.tensor([[[1.0, 2.0, 4.0, 8.0, 16.0]]]), torch.tensor([[[[1.0, 0.0, 1.0]]]])
        >>> adaptive_conv2d(signal, ends, torch.tensor(1.5))
        tensor([[[ 3.0000,  6.5000, 13.5000, 11.0000,  6.0000]]])
        >>> adaptive_conv2d(signal, ends, torch.tensor([[[2.0, 1.0, 1.0, 1.0, 0.0]]]))
        tensor([[[ 4.,  5., 10., 20., 32.]]])
    """
    geometry, size = _check(input, weight, rate, bias, stride, groups)
    batched = input if input.ndim == 4 else input[None]
    count, channels, height, width = batched.shape
    rate = rate.to(torch.promote_types(rate.dtype, torch.float32)).expand(count, 1, *size)[:, 0]
    # An infinite rate reads what a large one does: at no tap but the centre is there anything.
    rate = rate.clamp(torch.finfo(rate.dtype).min, torch.finfo(rate.dtype).max)
    fixed = rate.detach()
    # The difference is 0 with derivative 1.
    rate = fixed.clamp(min=0) + (rate - fixed)
    row, column = (torch.arange(n, device=input.device) * step for n, step in zip(size, geometry.stride, strict=True))
    down = [_corners(rate, tap - geometry.kernel[0] // 2, row[:, None], height) for tap in range(geometry.kernel[0])]
    across = [_corners(rate, tap - geometry.kernel[1] // 2, column, width) for tap in range(geometry.kernel[1])]
    # A pixel is a row of this table, with all its channels side by side.
    table = batched.permute(0, 2, 3, 1).reshape(-1, channels)
    first = torch.arange(count, device=input.device)[:, None, None] * (height * width)
    output: Any = 0
    for i, j in itertools.product(range(geometry.kernel[0]), range(geometry.kernel[1])):
        lines = [(first + line * width, share) for line, share in down[i]]
        read = _sampled(table, lines, across[j]).permute(0, 3, 1, 2)
        output = output + conv2d(read, weight[:, :, i, j, None, None], groups=groups)
    result: torch.Tensor = output.contiguous()
    if bias is not None:
        result = result + bias.to(result.dtype)[:, None, None]
    return result if input.ndim == 4 else result[0]


def _check(
    input: torch.Tensor,
    weight: torch.Tensor,
    rate: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Ints,
    groups: int,
) -> tuple[Geometry, tuple[int, ...]]:
    """Return the geometry at a rate of 1, and the size of the output."""
    if weight.ndim != 4 or any(taps % 2 == 0 for taps in weight.shape[2:]):
        raise ShapeError(
            f"adaptive_conv2d: weight: got shape {tuple(weight.shape)}, expected (D, C/groups, K_h, K_w) with both K "
            "odd, so that one tap is the centre"
        )
    check_input("adaptive_conv2d", input, 2)
    check_groups("adaptive_conv2d", input.shape[-3], weight, groups)
    check_bias("adaptive_conv2d", bias, weight.shape[0])
    check_dtypes("adaptive_conv2d", input, weight, bias)
    geometry = resolve(tuple(weight.shape[2:]), stride, "same", 1, 2)
    size = geometry.output_size(input.shape[-2:])
    whole = *input.shape[:-3], 1, *size
    if not isinstance(rate, torch.Tensor) or rate.shape not in ((), whole) or not rate.is_floating_point():
        got = f"{rate.dtype} of shape {tuple(rate.shape)}" if isinstance(rate, torch.Tensor) else repr(rate)
        raise ShapeError(
            f"adaptive_conv2d: rate: got {got}, expected real numbers of shape () "
            f"or {whole}: one for all, or one for each pixel of the output"
        )
    return geometry, size


def _corners(rate: torch.Tensor, tap: int, centre: torch.Tensor, size: int) -> list[_Corner]:
    """Return the pixels of one axis that a tap lies between, held inside of the image, and the share of each.

    Counted from the centre outwards, so that at a pixel the derivative is that for a growing rate on both sides.
    """
    if not tap:
        return [(centre, rate.new_ones(()))]
    # What lies farther reads nothing, and might not fit an integer.
    distance = (rate * abs(tap)).clamp(max=size)
    steps = distance.detach().floor()
    after = distance - steps
    side = 1 if tap > 0 else -1
    near = centre + side * steps.long()
    return [
        (pixel.clamp(0, size - 1), share * ((pixel >= 0) & (pixel < size)))
        for pixel, share in ((near, 1 - after), (near + side, after))
    ]


def _sampled(table: torch.Tensor, rows: list[_Corner], columns: list[_Corner]) -> torch.Tensor:
    """Return what one tap reads for every output, (B, P_h, P_w, C)."""
    total: Any = 0
    for (row, row_share), (column, column_share) in itertools.product(rows, columns):
        index = row + column
        value = torch.unflatten(table.index_select(0, index.flatten()), 0, index.shape)
        total = total + value * (row_share * column_share)[..., None]
    sampled: torch.Tensor = total.to(table.dtype)
    return sampled
