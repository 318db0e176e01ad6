"""Taps that form a grid: what a convolution says of its offsets, which only the device can read."""

from __future__ import annotations

from typing import NamedTuple, Self

from atrous._geometry import Geometry

_FAR = 2**29
"""Offsets nearer than this count rows in 32 bits, whatever rows share a thread."""


class Grid(NamedTuple):
    """The shape of a grid of taps, in the order of a kernel or reversed."""

    down: int
    across: int
    gap: int
    """Pixels between rows of taps."""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return what `describe` wrote, None for nothing."""
        return cls(*map(int, text.split())) if text else None


def describe(geometry: Geometry) -> str:
    """Return the shape of the taps of an image's convolution in words that an operator takes, '' for others.

    Example:
        >>> describe(Geometry.resolve((3, 5), dilation=2, ndim=2))
        '3 5 2'
    """
    if geometry.ndim != 2 or geometry.kernel[0] < 2:
        return ""
    reach = [extent + max(sides) for extent, sides in zip(geometry.extent, geometry.padding, strict=True)]
    if max(reach) >= _FAR:
        return ""
    down, across = geometry.kernel
    return " ".join(map(str, Grid(down, across, geometry.dilation[0])))
