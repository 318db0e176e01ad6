"""Compile the Triton kernels for a GPU that need not be there, every branch of them in every dtype, and count them."""

import itertools

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from atrous._backends.triton import kernels, tiles

COMMON = {"PER_GROUP": 1, "AXES": 2, "PER_PAIR": False, "DEPTHWISE": True, "UPSAMPLED": False, "WIDE": False}
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
SUMS = {"fp32": "fp32", "bf16": "fp32", "fp16": "fp32", "fp64": "fp64"}


def cubin(kernel, element, constants, warps=4):
    """Return the machine code of one variant."""
    total = SUMS[element]
    constants = {**constants, "SUM": getattr(tl, f"float{total[2:]}")}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    kinds = dict.fromkeys(("output", "input", "weight", "bias", "grad"), f"*{element}")
    kinds |= {"parts": f"*{total}", "offsets": "*i32"} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        kernel,
        {name: kinds.get(name, "i32") for name in kernel.arg_names},
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
    )
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps}).asm["cubin"]


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
            yield kernel, "bf16", {**COMMON, **TILES[kernel], **shape, "CHANNELS": channels}, tile.warps


if __name__ == "__main__":
    variants = (
        (kernel, element, variant)
        for kernel, element, variant in itertools.product(TILES, SUMS, VARIANTS)
        if kernel is not kernels.grid_conv or not variant  # which has but one
    )
    plain = ((kernel, element, {**COMMON, **variant, **TILES[kernel]}) for kernel, element, variant in variants)
    sizes = [len(cubin(*arguments)) for arguments in itertools.chain(plain, tuned())]
    print(len(sizes), min(sizes) > 0)
