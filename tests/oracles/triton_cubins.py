"""Compile the Triton kernels for a GPU that need not be there, every branch of them in every dtype, and count them."""

import itertools

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from atrous._backends.triton import kernels

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
}
SUMS = {"fp32": "fp32", "bf16": "fp32", "fp16": "fp32", "fp64": "fp64"}


def cubin(kernel, element, constants):
    """Return the machine code of one variant."""
    total = SUMS[element]
    constants = {**constants, "SUM": getattr(tl, f"float{total[2:]}")}
    kinds = dict.fromkeys(("output", "input", "weight", "bias", "grad"), f"*{element}")
    kinds |= {"parts": f"*{total}", "offsets": "*i32"} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        kernel,
        {name: kinds.get(name, "i32") for name in kernel.arg_names},
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
    )
    return triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


if __name__ == "__main__":
    sizes = [
        len(cubin(kernel, element, {**COMMON, **variant, **TILES[kernel]}))
        for kernel, element, variant in itertools.product(TILES, SUMS, VARIANTS)
    ]
    print(len(sizes), min(sizes) > 0)
