"""Compile the Triton kernels for a GPU that need not be there, every branch of them in every dtype, and count them."""

import itertools

from atrous._backends.triton import kernels, tiles
from benchmarks.instructions import DEPTHWISE, SUMS, compiled

VARIANTS = (
    {},
    {"PER_PAIR": True},
    {"DEPTHWISE": False, "PER_GROUP": 4, "UPSAMPLED": True, "AXES": 3},
    {"WIDE": True, "PER_PAIR": True, "AXES": 1, "UPSAMPLED": True},
)
TILES = {
    kernels.tap_conv: {"TAPS": 9, "BIAS": True, "ROWS": 8, "COLUMNS": 8, "CHANNELS": 16},
    kernels.tap_conv_weight: {"TAPS": 4, "PIXELS": 16, "CHANNELS": 16},
    kernels.grid_conv: {"DOWN": 5, "ACROSS": 3, "BIAS": True, "SHARED": 4, "ROWS": 2, "COLUMNS": 8, "CHANNELS": 16},
}


def plain():
    """Yield every branch of the kernels in every dtype."""
    for kernel, element, variant in itertools.product(TILES, SUMS, VARIANTS):
        if kernel is not kernels.grid_conv or not variant:  # which has but one
            yield kernel, element, {**DEPTHWISE, **variant, **TILES[kernel]}


def tuned():
    """Yield the kernels with every tile that tuning may choose."""
    for (operation, last), candidates in tiles.CANDIDATES.items():
        for tile in candidates:
            kernel, channels = getattr(kernels, operation), tile.channels if last else 1
            pixels = tile.size // (channels * tile.shared)
            across = min(16 if last else 64, pixels)
            shape = {"ROWS": pixels // across, "COLUMNS": across, "SHARED": tile.shared}
            if operation == "tap_conv_weight":
                shape = {"PIXELS": pixels, "TAPS": tile.shared}
            yield kernel, "bf16", {**DEPTHWISE, **TILES[kernel], **shape, "CHANNELS": channels}, tile.warps


if __name__ == "__main__":
    sizes = [len(compiled(*arguments).asm["cubin"]) for arguments in itertools.chain(plain(), tuned())]
    print(len(sizes), min(sizes) > 0)
