"""How many instructions the kernels for GPUs take: `python -m benchmarks.instructions`; needs Triton and no card.

Counted in the machine code for compute capability 9.0: the longest loop, which runs over taps (or over samples, for the
gradient in the weight), divided by the products that a thread adds up in one pass of it.

Legend: B batch, C channels, H and W sizes, T taps.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from atrous._backends.triton import kernels
from atrous._backends.triton.tiles import TILES

SUMS = {"fp32": "fp32", "bf16": "fp32", "fp16": "fp32", "fp64": "fp64"}
"""Type of the numbers -> type of their sums."""

DEPTHWISE = {"PER_GROUP": 1, "AXES": 2, "PER_PAIR": False, "DEPTHWISE": True, "UPSAMPLED": False, "WIDE": False}
"""Constants of the kernels for depthwise images."""

ONES = {
    False: ("step0", "step1", "step2", "up0", "up1", "up2", "size0", "input2", "output2", "grad2", "weight_tap"),
    True: ("step0", "step1", "step2", "up0", "up1", "up2", "size0", "input_c", "output_c", "grad_c", "weight_pair"),
}
"""Whether channels lie last -> the arguments that are 1 for depthwise images of stride 1, which Triton compiles for."""


def compiled(kernel: Any, element: str, constants: Mapping[str, Any], warps: int = 4, last: bool | None = None) -> Any:
    """Return a kernel compiled for a GPU that need not be there; `last` says how images lie, None anyhow."""
    names = kernel.arg_names
    known = {**constants, "SUM": getattr(tl, f"float{SUMS[element][2:]}")}
    ones = () if last is None else [name for name in ONES[last] if name in names]
    known = {name: value for name, value in known.items() if name in names} | dict.fromkeys(ones, 1)
    pointers = dict.fromkeys(("output", "input", "weight", "bias", "grad"), f"*{element}")
    kinds = {**pointers, "parts": f"*{SUMS[element]}", "offsets": "*i32", **dict.fromkeys(known, "constexpr")}
    # Pointers are multiples of 16, and so are the strides of images whose channels are.
    even = {"output", "input", "weight", "bias", "grad", "parts", "offsets"}
    if last:
        even |= {"outputs", "weight_tap"} | {f"{tensor}{axis}" for tensor in pointers for axis in ("_b", 0, 1, 2)}
    source = ASTSource(
        kernel,
        {name: kinds.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in known.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if last is not None and name in even},
    )
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})


def longest_loop(cubin: bytes) -> int:
    """Return how many instructions the longest innermost or only loop of a program has."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tools / "nvdisasm", "-c", file.name], capture_output=True, text=True, check=True).stdout
    labels = {found[1]: found.start() for found in re.finditer(r"^(\.L_x_\d+):", text, re.MULTILINE)}
    loops = [
        (labels[found[1]], found.start())
        for found in re.finditer(r"BRA\S*\s+`\((\.L_x_\d+)\)", text)
        if labels.get(found[1], found.start()) < found.start()
    ]
    inner = [loop for loop in loops if not any(loop[0] < other[0] and other[1] < loop[1] for other in loops)]
    return max(len(re.findall(r"/\*[0-9a-f]{4,}\*/\s+\S", text[start:end])) for start, end in inner)


def table() -> Iterator[str]:
    """Yield a line for every kernel, layout and type: instructions for one product and sum."""
    yield "| kernel | channels | taps | bf16 | fp32 |"
    yield "|---" * 5 + "|"
    for kernel, last in TILES:
        for size in (3, 5, 7) if kernel == "grid_conv" else (7,):
            counts = (_per_product(kernel, last, size, element) for element in ("bf16", "fp32"))
            yield f"| {kernel} | {'last' if last else 'apart'} | {size} x {size} | {' | '.join(counts)} |"


def _per_product(kernel: str, last: bool, size: int, element: str) -> str:
    tile = TILES[kernel, last]
    channels = tile.channels if last else 1
    pixels = tile.size // (tile.shared * channels)
    across = min(16 if last else 64, pixels)
    constants = {**DEPTHWISE, "BIAS": True, "CHANNELS": channels, "COLUMNS": across, "ROWS": pixels // across}
    constants |= {"DOWN": size, "ACROSS": size, "SHARED": tile.shared, "TAPS": size**2, "PIXELS": pixels}
    if kernel == "tap_conv_weight":
        constants["TAPS"] = tile.shared
    made = compiled(getattr(kernels, kernel), element, constants, tile.warps, last)
    products = tile.size / (32 * tile.warps) * (size if kernel == "grid_conv" else 1)
    return f"{longest_loop(made.asm['cubin']) / products:.1f}"


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
    sys.exit()
