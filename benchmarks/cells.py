"""The grid of `python -m benchmarks taps`, as data.

Legend: N batch, C channels, H height and width of the input, P of the output, k kernel size, d dilation, T taps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

SHAPES = ((1, 64, 112), (8, 96, 56), (8, 384, 14), (1, 512, 60), (1, 32, 512), (2, 256, 65), (2, 24, 33))
"""(N, C, H): classifiers' and segmenters' planes, a long one, and sizes that no vector divides."""

STRIDED_SHAPES = ((8, 96, 56), (8, 384, 14), (2, 256, 65))
KERNELS = (3, 5, 7)
DILATIONS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Cell:
    """One depthwise float32 convolution with zero padding d (k - 1) / 2: 'same' where the stride is 1.

    Args:
        shape: (N, C, H) of the input, whose planes are square.
        kernel: k, odd.
        dilation: d.
        stride: of both axes.

    Example:
        >>> cell = Cell((2, 256, 65), 7, 4, 2)
        >>> cell.name, cell.padding, cell.output, cell.taps
        ('2x256x65-k7-d4-s2', 12, 33, 49)
    """

    shape: tuple[int, int, int]
    kernel: int
    dilation: int
    stride: int = 1

    @property
    def name(self) -> str:
        """What `--cells` matches."""
        stride = f"-s{self.stride}" if self.stride > 1 else ""
        return f"{'x'.join(map(str, self.shape))}-k{self.kernel}-d{self.dilation}{stride}"

    @property
    def padding(self) -> int:
        """Zeros on each side of each axis."""
        return self.dilation * (self.kernel - 1) // 2

    @property
    def output(self) -> int:
        """P."""
        return (self.shape[2] - 1) // self.stride + 1

    @property
    def taps(self) -> int:
        """T = k k."""
        return self.kernel**2

    @property
    def flop(self) -> int:
        """Of a forward pass, 2 T a pixel, taps in the margin included; a backward pass has twice as many."""
        return 2 * self.taps * self.shape[0] * self.shape[1] * self.output**2


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


def choose(patterns: Sequence[str], quick: bool = False) -> list[Cell]:
    """Return the cells whose name matches one of the patterns of `fnmatch`, or all of them without a pattern.

    Example:
        >>> [cell.name for cell in choose(["2x24x33-k7-d[12]", "*-k3-d1-s2"])][:2]
        ['2x24x33-k7-d1', '2x24x33-k7-d2']
    """
    cells = QUICK if quick else GRID
    return [cell for cell in cells if not patterns or any(fnmatchcase(cell.name, pattern) for pattern in patterns)]
