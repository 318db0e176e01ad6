"""How much of its result one program of a kernel works out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Tile(NamedTuple):
    """Powers of two."""

    size: int
    """Outputs of `tap_conv`, products of one step of `tap_conv_weight`."""
    channels: int
    """At most so many where they lie last in memory; elsewhere channels only fill up what pixels leave."""
    taps: int
    """At most so many, in `tap_conv_weight`."""
    warps: int


TILES = {
    ("tap_conv", False): Tile(1024, 1, 1, 4),
    ("tap_conv", True): Tile(1024, 64, 1, 4),
    ("tap_conv_weight", False): Tile(1024, 1, 16, 4),
    ("tap_conv_weight", True): Tile(1024, 64, 4, 4),
}
"""Operation, and whether channels lie last in memory -> tile. No card has run them: they are guesses."""

CANDIDATES = {
    ("tap_conv", False): [Tile(size, 1, 1, warps) for size, warps in ((256, 2), (512, 4), (1024, 4), (2048, 8))],
    ("tap_conv", True): [Tile(size, channels, 1, 4) for size in (512, 1024, 2048) for channels in (32, 64, 128)],
    ("tap_conv_weight", False): [Tile(size, 1, taps, 4) for size in (1024, 2048) for taps in (4, 8, 16)],
    ("tap_conv_weight", True): [Tile(size, 64, taps, 4) for size in (1024, 2048) for taps in (2, 4, 8)],
}
"""The tiles that `atrous.tune` compares."""


class Launch(NamedTuple):
    """A class of launches that have one tile."""

    operation: str
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
    return won.get(launch) or TILES[launch.operation, launch.last]


@contextmanager
def watched() -> Iterator[dict[Launch, None]]:
    """Yield what collects the launches of a block, each once and in order."""
    global _launched
    _launched = {}
    try:
        yield _launched
    finally:
        _launched = None
