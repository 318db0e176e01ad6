"""The grids of `python -m benchmarks taps`, `routes` and `wide`, as data, and the names of their cells.

Legend: N batch, C channels, S sizes of the input, H of a square plane, P of the output, k kernel size, d dilation,
T taps, A and B channels in and out of one group.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Self

SHAPES = ((1, 64, 112), (8, 96, 56), (8, 384, 14), (1, 512, 60), (1, 32, 512), (2, 256, 65), (2, 24, 33))
"""(N, C, H): classifiers' and segmenters' planes, a long one, and sizes that no vector divides."""

STRIDED_SHAPES = ((8, 96, 56), (8, 384, 14), (2, 256, 65))
KERNELS = (3, 5, 7)
DILATIONS = (1, 2, 4, 8, 16)

SUFFIXES = {"float32": "", "bfloat16": "-bf16", "float16": "-f16", "float64": "-f64"}
"""Data type -> how the name of its cells ends."""

TOLERANCES = {"float32": 1e-3, "bfloat16": 2.0**-6, "float16": 2.0**-7, "float64": 1e-10}
"""Data type -> what a result may be off by, as a share of the largest value: some roundings, and room for torch, which
sums up in 16 bits here and there."""

_NAME = re.compile(
    r"(t-)?(?:([13])d-)?(?:(\d+)to(\d+)-)?(\d+(?:x\d+){2,4})-k(\d+)-d(\d+)(?:-s(\d+))?(-last)?(-bf16|-f16|-f64)?"
)


@dataclass(frozen=True)
class Cell:
    """One convolution with zero padding d (k - 1) / 2: 'same' where the stride is 1; or a transposed one to S x stride.

    Its name is `[t-][1d-|3d-][AtoB-]NxCxS-kK-dD[-sS][-last][-bf16|-f16|-f64]`. Left out are what is not transposed, 2d,
    1to1 (depthwise), a stride of 1, contiguous tensors and float32. S is one size where all axes have the same, and
    sizes joined by x where they differ.

    Args:
        shape: (N, C, *S) of the input, S as in the name.
        kernel: k of all axes, odd if not transposed.
        dilation: d, of all axes.
        stride: of all axes.
        ndim: how many axes, 1 to 3.
        inputs: A, divides C.
        outputs: B.
        last: whether channels lie last in memory.
        dtype: name of the data type, a key of `SUFFIXES`.
        transposed: whether it is a transposed convolution, whose stride is between pixels of the output.

    Example:
        >>> cell = Cell((2, 256, 65), 7, 4, 2)
        >>> cell.name, cell.padding, cell.output, cell.taps
        ('2x256x65-k7-d4-s2', 12, (33, 33), 49)
        >>> cell = Cell.parse("3d-8to4-1x16x9x24x24-k3-d2")
        >>> cell.ndim, cell.groups, cell.channels, cell.sizes
        (3, 2, 8, (9, 24, 24))
        >>> cell = Cell.parse("t-8x96x28-k3-d1-s2")
        >>> cell.output, cell.padding, cell.output_padding
        ((56, 56), 1, 1)
    """

    shape: tuple[int, ...]
    kernel: int
    dilation: int
    stride: int = 1
    ndim: int = 2
    inputs: int = 1
    outputs: int = 1
    last: bool = False
    dtype: str = "float32"
    transposed: bool = False

    @classmethod
    def parse(cls, name: str) -> Self:
        """Return the cell that has this name.

        Raises:
            ValueError: no cell can have it.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"cell: got {name!r}, expected a name such as '3d-8to8-2x8x24-k3-d2-s2'")
        transposed, ndim, inputs, outputs, shape, kernel, dilation, stride, last, dtype = match.groups()
        return cls(
            tuple(map(int, shape.split("x"))),
            int(kernel),
            int(dilation),
            int(stride or 1),
            int(ndim or 2),
            int(inputs or 1),
            int(outputs or 1),
            last is not None,
            {suffix: name for name, suffix in SUFFIXES.items()}[dtype or ""],
            transposed is not None,
        )

    @property
    def name(self) -> str:
        """What `--cells` matches."""
        kind = "t-" if self.transposed else ""
        axes = f"{self.ndim}d-" if self.ndim != 2 else ""
        group = f"{self.inputs}to{self.outputs}-" if (self.inputs, self.outputs) != (1, 1) else ""
        stride = f"-s{self.stride}" if self.stride > 1 else ""
        last = "-last" if self.last else ""
        shape = "x".join(map(str, self.shape))
        return f"{kind}{axes}{group}{shape}-k{self.kernel}-d{self.dilation}{stride}{last}{SUFFIXES[self.dtype]}"

    @property
    def sizes(self) -> tuple[int, ...]:
        """S of every axis."""
        sizes = self.shape[2:]
        return sizes * self.ndim if len(sizes) == 1 else sizes

    @property
    def padding(self) -> int:
        """Zeros on each side of each axis; or what is cut off there of a transposed convolution."""
        if self.transposed:
            return max(0, (self.dilation * (self.kernel - 1) + 2 - self.stride) // 2)
        return self.dilation * (self.kernel - 1) // 2

    @property
    def output_padding(self) -> int:
        """What a transposed convolution lacks of S x stride at the end of each axis."""
        return 2 * self.padding + self.stride - self.dilation * (self.kernel - 1) - 1

    @property
    def output(self) -> tuple[int, ...]:
        """P of every axis."""
        if self.transposed:
            return tuple(size * self.stride for size in self.sizes)
        return tuple((size - 1) // self.stride + 1 for size in self.sizes)

    @property
    def groups(self) -> int:
        """C / A."""
        return self.shape[1] // self.inputs

    @property
    def channels(self) -> int:
        """Of the output."""
        return self.groups * self.outputs

    @property
    def narrow(self) -> bool:
        """Whether numbers have 16 bits."""
        return self.dtype in ("bfloat16", "float16")

    @property
    def taps(self) -> int:
        """T, k for every axis."""
        return int(self.kernel**self.ndim)

    @property
    def flop(self) -> int:
        """Of a forward pass, taps in the margin included; a backward pass has twice as many.

        It is 2 T A an output; transposed, 2 T B an input.
        """
        pixels = self.sizes if self.transposed else self.output
        return 2 * self.taps * self.inputs * self.shape[0] * self.channels * math.prod(pixels)


TINY = Cell((1, 8, 8), 3, 1)
"""What a call costs when there is nothing to compute."""

GRID = (
    *(Cell(shape, k, d) for shape in SHAPES for k in KERNELS for d in DILATIONS),
    *(Cell(shape, k, d, 2) for shape in STRIDED_SHAPES for k in KERNELS for d in (1, 2)),
    TINY,
)

QUICK = (
    *(Cell(shape, k, d) for shape in ((8, 384, 14), (2, 24, 33)) for k in (3, 7) for d in (1, 2, 8)),
    Cell((8, 384, 14), 3, 2, 2),
    TINY,
)

_ROUTES = """
1d-4x256x500-k3-d4 1d-4x256x500-k3-d1 1d-4x256x500-k3-d2 1d-4x256x500-k3-d16 1d-4x256x500-k3-d2-s2
1d-2x64x4096-k3-d1 1d-2x64x16384-k3-d1 1d-2x64x16384-k3-d2 1d-2x64x4096-k31-d1
1d-8to8-4x8x4096-k3-d1 1d-8to8-4x8x4096-k3-d2 1d-8to8-4x8x4096-k3-d1-s2 1d-16to16-4x16x4096-k3-d1
1d-4to32-4x4x4096-k3-d2 1d-4to32-4x4x4096-k3-d1 1d-8to64-4x8x4096-k3-d2
1d-64to4-4x64x4096-k3-d2 1d-64to4-4x64x4096-k3-d1 1d-64to8-4x64x4096-k3-d2
1d-32to32-8x32x4000-k7-d16 1d-64to64-1x64x16000-k3-d64

8x96x56-k7-d4 8x96x56-k7-d1 8x96x56-k1-d1
8to8-4x96x56-k3-d2 8to16-4x32x56-k3-d2
4to4-4x96x56-k3-d1 4to4-4x96x56-k3-d2 8to8-4x96x56-k3-d1 8to8-4x8x56-k3-d1 8to16-4x32x56-k3-d1
12to12-4x12x56-k3-d1 12to12-4x12x56-k3-d2 16to16-4x16x56-k3-d1
3to64-2x3x112-k3-d2 3to64-2x3x112-k3-d1 8to256-2x8x56-k3-d2
64to8-4x64x56-k3-d1 64to8-4x64x56-k3-d2 64to12-4x64x56-k3-d1

8x384x14-k3-d1-s2 8x384x14-k3-d2-s2 8x192x20-k3-d1-s2 8x96x32-k3-d1-s2 8x96x56-k3-d1-s2
8x384x14-k7-d2-s2 8x384x14-k7-d1-s2 8x192x20-k7-d1-s2 8x96x32-k7-d2-s2
2to2-4x64x56-k3-d1-s2 2to2-4x64x56-k3-d2-s2 2to2-4x64x30-k3-d1-s2 4to4-8x128x28-k3-d1-s2
8to8-8x256x28-k3-d2-s2 8to8-8x256x28-k3-d1-s2 8to8-8x64x56-k3-d2-s2
16to16-8x256x28-k3-d2-s2 16to16-8x256x28-k3-d1-s2
3to64-1x3x224-k7-d1-s2 3to64-1x3x224-k7-d2-s2 3to64-8x3x28-k7-d1-s2 3to128-1x3x112-k7-d1-s2
96to192-8x96x56-k2-d1-s2 64to128-4x64x56-k3-d1-s2 256to256-2x256x28-k3-d2

1x576x28-k3-d2-last 1x960x28-k3-d1-last 8x96x56-k3-d1-last 8x384x14-k3-d1-last 1x32x512-k3-d2-last
8x96x56-k7-d4-last 8x96x56-k7-d1-last 8x96x56-k3-d8-last
8x96x56-k3-d1-s2-last 8x384x14-k3-d1-s2-last 2x256x65-k3-d1-s2-last
8x384x14-k5-d2-s2-last 8x96x56-k3-d2-s2-last
8x96x56-k7-d1-s2-last 2x24x33-k5-d1-s2-last
1d-4x256x500-k3-d1-last 1d-4x64x2000-k3-d16-last 1d-4x256x500-k3-d2-s2-last
3d-1x32x24-k3-d2-last 3d-4x32x24-k3-d2-s2-last
3d-1x32x24-k3-d1-last 3d-4x32x24-k3-d1-s2-last

3d-4x32x24-k3-d1 3d-4x32x24-k3-d2 3d-8to8-2x8x24-k3-d1 3d-16to16-2x16x16-k3-d1
3d-2x32x24-k3-d2-s2 3d-2x32x24-k3-d1-s2
3d-1to16-2x1x24-k3-d2 3d-1to16-2x1x24-k3-d1 3d-8to8-2x8x24-k3-d2-s2 3d-8to64-1x8x16-k3-d2
3d-64to4-1x64x16x24x24-k3-d2 3d-64to4-1x64x16x24x24-k3-d1 3d-64to8-1x64x16x24x24-k3-d2 3d-64to64-1x64x16-k3-d1
"""
"""A line for every row of float32 in `atrous._backends.table`, in its order: the cell that the row names, the same at
another dilation, and cells on either side of the row's limits. Other dtypes measure the same. The dense ones are of
`atrous._backends.aten`: wide margins of one axis, and what bfloat16 must keep from torch."""

_TRANSPOSED = """
t-1d-4x256x500-k4-d1-s2 t-1d-4x256x500-k2-d1-s2 t-1d-4x256x500-k3-d1 t-1d-4x256x500-k3-d4
t-1d-4to4-4x64x1000-k3-d1 t-1d-4to4-4x64x1000-k4-d1-s2 t-1d-8to8-4x64x1000-k3-d1 t-1d-8to8-4x64x1000-k4-d1-s2

t-8x96x28-k4-d1-s2 t-8x96x28-k2-d1-s2 t-8x96x28-k3-d1-s2 t-8x96x28-k3-d2-s2 t-8x96x56-k3-d1 t-8x384x14-k3-d2
t-1x64x56-k4-d1-s2 t-1x64x56-k3-d1-s2 t-1x21x32-k16-d1-s8 t-8x96x56-k1-d1
t-2to2-4x64x28-k4-d1-s2 t-4to4-4x64x28-k4-d1-s2 t-4to4-4x64x28-k2-d1-s2 t-4to4-4x64x56-k3-d1
t-8to8-4x64x28-k4-d1-s2 t-8to8-4x64x28-k2-d1-s2 t-8to8-4x64x56-k3-d1 t-8to8-4x64x56-k3-d2
t-16to16-4x64x28-k4-d1-s2 t-16to16-4x16x28-k4-d1-s2 t-16to16-4x64x28-k2-d1-s2
t-64to3-4x64x32-k4-d1-s2 t-3to64-4x3x32-k4-d1-s2 t-64to64-4x64x14-k4-d1-s2
t-3to32-4x3x32-k4-d1-s2 t-1to64-8x1x56-k4-d1-s2 t-3to64-8x3x56-k3-d1 t-4to64-8x4x56-k3-d2 t-8to64-8x8x32-k4-d1-s2

t-3d-4x32x12-k4-d1-s2 t-3d-2x32x24-k3-d1 t-3d-2to2-2x32x12-k2-d1-s2
t-3d-4to4-2x32x12-k4-d1-s2 t-3d-4to4-2x32x12-k2-d1-s2 t-3d-4to4-2x32x16-k3-d1
t-3d-8to8-2x32x12-k4-d1-s2 t-3d-8to8-2x32x12-k2-d1-s2
"""
"""Transposed convolutions: the cells that rows of any dtype name, and cells on either side of the rows' limits."""

ROUTES = tuple(
    replace(Cell.parse(name), dtype=dtype)
    for dtype in ("float32", "float64", "bfloat16")
    for name in (*_ROUTES.split(), *_TRANSPOSED.split())
)


@dataclass(frozen=True)
class Row:
    """Cells that `wide` sums up in one line.

    Args:
        title: what they have in common.
        cells: all of them.
        forward: wanted geometric mean of stock / ours, None where it is only reported.
        backward: the same.
    """

    title: str
    cells: tuple[Cell, ...]
    forward: float | None = None
    backward: float | None = None


def _cells(
    shapes: Sequence[tuple[int, ...]], kernels: Sequence[int], dilations: Sequence[int], ndim: int = 2
) -> tuple[Cell, ...]:
    return tuple(Cell(shape, k, d, ndim=ndim) for shape in shapes for k in kernels for d in dilations)


def _as(cells: Sequence[Cell], *, last: bool = False, dtype: str = "float32") -> tuple[Cell, ...]:
    return tuple(replace(cell, last=last, dtype=dtype) for cell in cells)


_DEPTHWISE = tuple(cell for cell in GRID if cell != TINY)
_UNEVEN = (
    *_cells(((4, 72, 56), (2, 40, 65), (8, 200, 14), (2, 21, 60)), (3, 7), (1, 2, 8)),
    *(Cell((4, 72, 56), k, 1, 2) for k in (3, 7)),
)
"""C is no multiple of 16."""
_SOME = _cells(((8, 96, 56), (8, 384, 14), (2, 24, 33)), (3, 7), (1, 4))
_STRIDED = tuple(Cell((8, 96, 56), k, 1, 2) for k in (3, 7))
_LARGE = (
    *_cells(((1, 32, 112), (1, 96, 56), (2, 128, 28), (2, 256, 14)), (17, 31), (1, 2)),
    *_cells(((1, 32, 112), (1, 96, 56)), (17,), (4,)),
    Cell((1, 32, 112), 31, 4),
)
_VOLUMES = _cells([(n, 32, *size) for n in (1, 8) for size in ((24,), (32, 64, 64))], (3,), (1, 2, 4), ndim=3)
_LINES = _cells(((1, 256, 16000),), (3,), (1, 16, 64, 512), ndim=1)

WIDE = (
    Row("float32 channels_last", _as((*_DEPTHWISE, *_UNEVEN), last=True), 3.5, 12),
    Row("bfloat16 contiguous", _as(_DEPTHWISE, dtype="bfloat16"), 6, 25),
    Row("bfloat16 channels_last", _as((*_SOME, *_STRIDED), last=True, dtype="bfloat16")),
    Row("17x17 and 31x31", _LARGE, 10, 15),
    Row("17x17 and 31x31, channels_last", _as(_LARGE, last=True), None, 8),
    Row("3-D", _VOLUMES, 8, 20),
    Row("1-D", _LINES, 15, 12),
    Row("float64", _as((*_SOME, *_STRIDED), dtype="float64")),
    Row("float16", _as((*_SOME, *_STRIDED), dtype="float16")),
)
"""Two-dimensional, depthwise, float32 and contiguous, where the title does not say otherwise."""

GRIDS = {"taps": GRID, "quick": QUICK, "routes": ROUTES, "wide": tuple(cell for row in WIDE for cell in row.cells)}


def choose(grid: str, patterns: Sequence[str]) -> list[Cell]:
    """Return the cells whose name matches one of the patterns of `fnmatch`, or all of them without a pattern.

    Example:
        >>> [cell.name for cell in choose("taps", ["2x24x33-k7-d[12]", "*-k3-d1-s2"])][:2]
        ['2x24x33-k7-d1', '2x24x33-k7-d2']
    """
    cells = GRIDS[grid]
    return [cell for cell in cells if not patterns or any(fnmatchcase(cell.name, pattern) for pattern in patterns)]
