"""Dilated convolutions whose neighbouring outputs, or inputs, are mixed, so that their phases know of one another.

Legend: B batch, C channels in, D channels out, K kernel size, d dilation (d_h, d_w), H, W image size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from atrous._errors import GeometryError, ShapeError
from atrous._geometry import Ints, integers
from atrous.functional._check import check_bias, check_dtypes, check_input
from atrous.functional.conv import conv2d

SMOOTHINGS = ("interaction", "shared")
"""What is mixed: the phases of the output, or the pixels of the input."""


def smoothed_conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    smoothing: torch.Tensor,
    bias: torch.Tensor | None = None,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    mode: str = "interaction",
) -> torch.Tensor:
    """Correlate an image with a kernel with holes, and mix what the holes keep apart.

    A convolution of dilation d is d_h d_w plain convolutions, one on each phase of the image: the pixels at equal
    remainders of row and column divided by d. With z the convolution without its bias, padding 'same',

        interaction:  y[o, d u + i] = bias[o] + sum over phases j of smoothing[i, j] z[o, d u + j]
        shared:       y = bias + conv2d(smoothing * x, weight, dilation=d), smoothing * x padding 'same' as well

    An interaction mixes each block of d_h x d_w outputs, the first block at the first pixel. Where d does not divide H
    or W, the last blocks are cut off by the border: a phase that has no pixel in such a block adds 0 to the others, not
    what a convolution beside the image would give. Mixing by the identity, or smoothing by a kernel of a single 1 at
    its centre, is `conv2d` for every size.

    Args:
        input: (B, C, H, W) or (C, H, W).
        weight: (D, C/groups, K_h, K_w).
        smoothing: for 'interaction' (d_h d_w, d_h d_w), phases in the order of the pixels of a block, row by row; for
            'shared' (2 d_h - 1, 2 d_w - 1), one kernel for all channels.
        bias: (D,) or None.
        dilation: pixels between taps, one integer or one per axis.
        groups: how many independent channel groups; divides C and D.
        mode: 'interaction' or 'shared'.

    Returns:
        (B, D, H, W) or (D, H, W).

    Raises:
        ShapeError: tensors that do not fit one another, or the dilation.
        GeometryError: a dilation or mode that cannot be.

    Source: Wang and Ji, Smoothed dilated convolutions for improved dense prediction, KDD 2018, section 3.3. Their code
    lets the last blocks mix what the convolution gives beside the image.

    Example:
        >>> image, centre = torch.eye(4)[None], torch.tensor([[[[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]]])
        >>> smoothed_conv2d(image, centre, torch.full((4, 4), 0.25), dilation=2)
        tensor([[[0.5000, 0.5000, 0.0000, 0.0000],
                 [0.5000, 0.5000, 0.0000, 0.0000],
                 [0.0000, 0.0000, 0.5000, 0.5000],
                 [0.0000, 0.0000, 0.5000, 0.5000]]])
    """
    dilation = integers("smoothed_conv2d: dilation", dilation, 2, 1)
    expected = smoothing_size(mode, dilation)
    if smoothing.shape != expected:
        raise ShapeError(
            f"smoothed_conv2d: smoothing: got shape {tuple(smoothing.shape)}, expected {expected} for mode {mode!r} "
            f"and a dilation of {dilation}"
        )
    check_input("smoothed_conv2d", input, 2)
    check_dtypes("smoothed_conv2d", input, weight, smoothing, bias)
    if mode == "shared":
        channels = input.shape[-3]
        input = conv2d(input, smoothing.expand(channels, 1, -1, -1), padding="same", groups=channels)
        return conv2d(input, weight, bias, padding="same", dilation=dilation, groups=groups)
    output = _mixed(conv2d(input, weight, padding="same", dilation=dilation, groups=groups), smoothing, dilation)
    if bias is None:
        return output
    check_bias("smoothed_conv2d", bias, weight.shape[0])
    return output + bias.to(output.dtype)[:, None, None]


def smoothing_size(mode: str, dilation: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape of what smooths, or raise if there is no such mode."""
    if mode not in SMOOTHINGS:
        raise GeometryError(f"smoothed_conv2d: mode: got {mode!r}, expected one of {SMOOTHINGS}")
    rows, columns = dilation
    return (rows * columns, rows * columns) if mode == "interaction" else (2 * rows - 1, 2 * columns - 1)


def _mixed(output: torch.Tensor, mixing: torch.Tensor, dilation: tuple[int, ...]) -> torch.Tensor:
    """Mix the phases in each block of pixels; those beside the image are 0."""
    rows, columns = dilation
    right, down = -output.shape[-1] % columns, -output.shape[-2] % rows
    whole = F.pad(output, (0, right, 0, down))
    blocks = torch.unflatten(torch.unflatten(whole, -1, (-1, columns)), -3, (-1, rows))
    mixed = torch.einsum("...hrwc,ijrc->...hiwj", blocks, mixing.reshape(*dilation, *dilation)).reshape(whole.shape)
    # Not a slice: an exporter would hold on to whether the example has whole blocks.
    return F.pad(mixed, (0, -right, 0, -down))
