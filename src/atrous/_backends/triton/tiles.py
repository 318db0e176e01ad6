"""How much of its result one program of a kernel works out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Tile(NamedTuple):
    """Powers of two."""

    size: int
    """Outputs of `tap_conv` and `grid_conv`, products of one step of `tap_conv_weight`."""
    channels: int
    """At most so many where they lie last in memory; elsewhere channels only fill up what pixels leave."""
    shared: int
    """At most so many taps of `tap_conv_weight` share a slope, and rows of `grid_conv` a pixel."""
    warps: int


TILES = {
    ("tap_conv", False): Tile(1024, 1, 1, 4),
    ("tap_conv", True): Tile(2048, 64, 1, 4),
    ("grid_conv", False): Tile(1024, 1, 8, 4),
    ("grid_conv", True): Tile(4096, 64, 4, 4),
    ("tap_conv_weight", False): Tile(2048, 1, 16, 4),
    ("tap_conv_weight", True): Tile(2048, 64, 8, 4),
}
"""Kernel, and whether channels lie last in memory -> tile. No card has run them; they take the fewest instructions an
output that leave room for several programs in the registers."""

CANDIDATES = {
    ("tap_conv", False): [Tile(size, 1, 1, warps) for size, warps in ((256, 2), (512, 4), (1024, 4), (2048, 8))],
    ("tap_conv", True): [Tile(size, channels, 1, 4) for size in (512, 1024, 2048) for channels in (32, 64, 128)],
    ("grid_conv", False): [Tile(128 * rows * more, 1, rows, 4) for rows in (4, 8) for more in (1, 2)],
    ("grid_conv", True): [Tile(rows * size, 64, rows, 4) for rows in (2, 4) for size in (512, 1024)],
    ("tap_conv_weight", False): [Tile(size, 1, taps, 4) for size in (1024, 2048) for taps in (4, 8, 16)],
    ("tap_conv_weight", True): [Tile(size, 64, taps, 4) for size in (1024, 2048) for taps in (2, 4, 8)],
}
"""The tiles that `atrous.tune` compares."""


class Launch(NamedTuple):
    """A class of launches that have one tile."""

    kernel: str
    last: bool
    dtype: str
    taps: int
    outputs: int
    pixels: int
    """Of all samples, rounded up to a power of two."""


won: dict[Launch, Tile] = {}
"""What was measured here to be the fastest; `TILES` serves all others."""

_launched: dict[Launch, None] | None = None


def find(launch: Launch) -> Tile:
    """Return the tile of a launch."""
    if _launched is not None:
        _launched[launch] = None
    return won.get(launch) or TILES[launch.kernel, launch.last]


@contextmanager
def forced(launch: Launch, tile: Tile) -> Iterator[None]:
    """Let a launch have a tile in a block, and none of its own after it."""
    won[launch] = tile
    try:
        yield
    finally:
        del won[launch]


@contextmanager
def watched() -> Iterator[dict[Launch, None]]:
    """Yield what collects the launches of a block, each once and in order."""
    global _launched
    _launched = {}
    try:
        yield _launched
    finally:
        _launched = None
