"""Phases: the pixels of an image whose indices are alike modulo a block, and layers that run on them.

Legend: B batch, C channels, *S input size, *b block, *P = S / b cells of a phase, d dilation, N axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F

from atrous._backends.table import Limits, _within
from atrous._errors import GeometryError, ShapeError
from atrous._geometry import Ints, integers, plain

Sides: TypeAlias = Sequence[Sequence[int]]
"""(before, after) for every axis, in pixels."""


def space_to_batch(input: torch.Tensor, block: Ints, paddings: Sides | None = None) -> torch.Tensor:
    """Move the phases of every image into the batch.

    `y[f B + n, c, p] = x[n, c, p b + o]` per axis, where x is the padded input, o the offset of a phase inside of the
    block and f its index, the last axis running fastest. A convolution with dilation b on x is one without on y.

    Args:
        input: (B, C, *S), one axis or more.
        block: b, one integer, or one per axis.
        paddings: zeros (before, after) for every axis; None pads nothing. The padded size is a multiple of b.

    Returns:
        (prod(b) B, C, *P).

    Raises:
        ShapeError: an input without axes, or a padded size that b does not divide.
        GeometryError: a block below 1, or paddings that are not one pair of integers of at least 0 for every axis.

    Source: `tf.space_to_batch_nd`, in the layout of torch.

    Example:
        >>> space_to_batch(torch.arange(6.0).reshape(1, 1, 6), 2)
        tensor([[[0., 2., 4.]],
        <BLANKLINE>
                [[1., 3., 5.]]])
    """
    name, ndim = "space_to_batch", _axes("space_to_batch", input)
    block = integers(f"{name}: block", block, ndim, 1)
    padded = _padded(input, resolve_sides(f"{name}: paddings", paddings, ndim))
    if any(size % b for size, b in zip(padded.shape[2:], block, strict=True)):
        raise ShapeError(
            f"{name}: got {tuple(padded.shape[2:])} pixels, padding included, and blocks of {block}, expected whole "
            "blocks on every axis; pad more"
        )
    split = [part for size, b in zip(padded.shape[2:], block, strict=True) for part in (size // b, b)]
    cells, offsets = range(2, 2 + 2 * ndim, 2), range(3, 3 + 2 * ndim, 2)
    return padded.reshape(*padded.shape[:2], *split).permute(*offsets, 0, 1, *cells).flatten(0, ndim)


def batch_to_space(input: torch.Tensor, block: Ints, crops: Sides | None = None) -> torch.Tensor:
    """Put phases back into the images that they are from: the inverse of `space_to_batch`.

    Args:
        input: (prod(b) B, C, *P), one axis or more.
        block: b, one integer, or one per axis.
        crops: pixels to cut off (before, after) every axis; None cuts nothing. They are the paddings of the way there.

    Returns:
        (B, C, *S), with S = P b - before - after.

    Raises:
        ShapeError: an input without axes, a batch that prod(b) does not divide, or crops wider than the image.
        GeometryError: a block below 1, or crops that are not one pair of integers of at least 0 for every axis.

    Source: `tf.batch_to_space`, in the layout of torch.

    Example:
        >>> x = torch.randn(2, 3, 7, 9)
        >>> phases = space_to_batch(x, (2, 3), ((0, 1), (0, 0)))
        >>> phases.shape, torch.equal(batch_to_space(phases, (2, 3), ((0, 1), (0, 0))), x)
        (torch.Size([12, 3, 4, 3]), True)
    """
    name, ndim = "batch_to_space", _axes("batch_to_space", input)
    block = integers(f"{name}: block", block, ndim, 1)
    sides = resolve_sides(f"{name}: crops", crops, ndim)
    batch = input.shape[0] // math.prod(block)
    if input.shape[0] != batch * math.prod(block):
        raise ShapeError(
            f"{name}: got a batch of {input.shape[0]} and blocks of {block}, expected one entry for each of "
            f"{math.prod(block)} phases of every image"
        )
    whole = tuple(cells * b for cells, b in zip(input.shape[2:], block, strict=True))
    if any(sum(pair) > size for pair, size in zip(sides, whole, strict=True)):
        raise ShapeError(f"{name}: crops: got {sides} on an image of {whole} pixels, expected at most as many")
    pairs = [place for axis in range(ndim) for place in (ndim + 2 + axis, axis)]
    split = input.reshape(*block, batch, *input.shape[1:]).permute(ndim, ndim + 1, *pairs)
    return _padded(split.reshape(batch, input.shape[1], *whole), [(-before, -after) for before, after in sides])


def in_phases(
    input: torch.Tensor, layers: Iterable[Callable[[torch.Tensor], torch.Tensor]], dilation: Ints
) -> torch.Tensor:
    """Run layers on the phases of an image, exactly, whatever its size.

    A convolution of dilation d that pads zeros by a multiple of d reads one phase of its input for each phase of its
    output. So a row of them, with pointwise functions between them, can run on all phases at once with dilation 1:
    there once, layers, back once. Where d does not divide the size, the phases get cells beyond the image. A bias or an
    activation would fill these, and the next layer would read them in place of the zeros that it pads; here they are
    zeroed after every layer. Without that, 14.8 % of the outputs of two 3 x 3 layers are wrong for d = 2 on 13 x 13.

    Args:
        input: (B, C, *S).
        layers: each maps (prod(d) B, C, *P) to (prod(d) B, D, *P): a convolution of dilation 1 that pads (k - 1) / 2
            zeros, for one of dilation d on the image, or a pointwise function.
        dilation: d, one integer, or one per axis.

    Returns:
        (B, D, *S).

    Raises:
        ShapeError: an input without axes.
        GeometryError: a dilation below 1.

    Source: the documentation of `tf.nn.atrous_conv2d`, where sizes have to be multiples of d for the same result.

    Example:
        >>> from atrous.functional import conv1d
        >>> x, w = torch.randn(1, 4, 13), torch.randn(4, 4, 3)
        >>> y = in_phases(x, [lambda x: conv1d(x, w, padding="same"), torch.sigmoid], dilation=2)
        >>> torch.testing.assert_close(y, conv1d(x, w, padding="same", dilation=2).sigmoid())
    """
    block = integers("in_phases: dilation", dilation, _axes("in_phases", input), 1)
    margin = tuple((0, -size % d) for size, d in zip(input.shape[2:], block, strict=True))
    phases, beyond = space_to_batch(input, block, margin), None
    if any(after for _, after in margin):
        inside = torch.zeros(1, 1, *input.shape[2:], dtype=torch.bool, device=input.device)
        beyond = space_to_batch(_padded(inside, margin, True), block)[:, None]
    for layer in layers:
        phases = layer(phases)
        if beyond is not None:
            apart = phases.reshape(beyond.shape[0], input.shape[0], *phases.shape[1:])
            phases = apart.masked_fill(beyond, 0).flatten(0, 1)
    return batch_to_space(phases, block, margin)


def _axes(name: str, input: torch.Tensor) -> int:
    """Return how many axes an input has behind batch and channels, or raise if it has none."""
    if input.ndim < 3:
        raise ShapeError(f"{name}: input: got shape {tuple(input.shape)}, expected (B, C, *S), one axis or more")
    return input.ndim - 2


def resolve_sides(name: str, sides: Sides | None, ndim: int) -> tuple[tuple[int, int], ...]:
    """Return one pair of integers for every axis, or raise."""
    pairs = ((0, 0),) * ndim if sides is None else plain(name, sides)
    if not (isinstance(pairs, tuple) and len(pairs) == ndim and all(map(_is_pair, pairs))):
        raise GeometryError(
            f"{name}: got {sides}, expected a pair (before, after) of integers of at least 0 for each of {ndim} axes"
        )
    return pairs


def _is_pair(pair: object) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2 and not any(isinstance(n, (str, tuple)) or n < 0 for n in pair)


def _padded(input: torch.Tensor, sides: Sides, value: bool = False) -> torch.Tensor:
    """Add pixels on both sides of every axis, or take as many away as a number below 0 says."""
    flat = [side for pair in reversed(sides) for side in pair]
    return F.pad(input, flat, value=value) if any(flat) else input


class PhaseRow(NamedTuple):
    """One row: where layers of one dilation on a CPU are faster in phases, by the least and most that a column may be.

    Args:
        cell: the timing that says so, of four layers with ReLU between them: N x C x S - kernel - dilation.
        ndim: axes.
        channels: in and out, of every layer.
        dilation: of every axis.
        cells: of a phase, along the shortest axis.
        beyond: the most cells beyond the image, as a share of its pixels.
        recorded: True where it holds with derivatives alone.
    """

    cell: str
    ndim: int
    channels: Limits
    dilation: Limits
    cells: Limits
    beyond: float
    recorded: bool = False


# Medians of turns beside layer by layer, one thread of a CPU with AVX2, forward / forward and backward. torch's dense
# float32 kernels lose up to two thirds of their speed at dilations of 4 and more there; phases regain it. Slower, or
# faster by no more than noise: depthwise (0.02 to 1.07, as taps cost the same at any dilation), float64 (0.05 to 0.9
# forward), dilation 2 forward (0.6 to 1.1), 1-D forward (0.8 to 1.5), fewer than 16 channels, 256 channels in 2-D, and
# 2-D sizes that put 6 % of the cells beyond the image. Not measured: GPUs, AVX-512, 16 bits, channels last.
PHASES = (
    # 1.45 / 1.73; 4x64x56-k3-d4: 1.45 / 1.26; 1x128x64-k3-d4: 1.17 / 1.06
    PhaseRow("4x32x56-k3-d8", 2, (16, 128), (4, 8), (7, None), 0.03),
    # 2.71 / 3.28; 3d-1x64x16-k3-d4: 1.77 / 1.46
    PhaseRow("3d-1x32x24-k3-d4", 3, (16, 64), (4, 8), (2, None), 0.3),
    # 1.12 / 3.63; 3d-1x16x24-k3-d2: 0.92 / 1.52
    PhaseRow("3d-1x32x24-k3-d2", 3, (16, 64), (2, 3), (8, None), 0.3, recorded=True),
    # 1.00 / 1.44; 1d-4x32x4096-k3-d8: 1.00 / 1.37
    PhaseRow("1d-4x64x4096-k3-d4", 1, (16, 64), (4, 8), (64, None), 0.03, recorded=True),
)
"""The rows of dense float32 layers; nothing else was faster in phases."""


def find_phases(
    channels: Sequence[int], size: Sequence[int], dilation: Sequence[int], recorded: bool = False
) -> PhaseRow | None:
    """Return the row of `PHASES` that says that dense float32 layers are faster in phases on a CPU, or None.

    Args:
        channels: in and out, of all layers.
        size: *S in pixels.
        dilation: one integer per axis.
        recorded: whether derivatives are wanted.
    """
    cells = [-(-n // d) for n, d in zip(size, dilation, strict=True)]
    whole = math.prod(c * d for c, d in zip(cells, dilation, strict=True))
    for row in PHASES:
        columns = (
            (row.cells, min(cells)),
            *((row.channels, c) for c in channels),
            *((row.dilation, d) for d in dilation),
        )
        fits = row.ndim == len(size) and row.recorded <= recorded and whole <= (1 + row.beyond) * math.prod(size)
        if fits and all(_within(limits, value) for limits, value in columns):
            return row
    return None
