"""Code compiled for one instruction set must not reach a processor without it."""

import re
from pathlib import Path

KERNELS = Path(__file__).parents[2] / "csrc" / "kernels"
INCLUDE = re.compile(r'^#include\s+[<"](.+)[>"]', re.MULTILINE)


def includes(name):
    return set(INCLUDE.findall((KERNELS / name).read_text(encoding="utf-8")))


def test_blocks_share_no_code():
    """An inline function from a shared header could be linked in from the file with the most special flags."""
    sets = {path.name for path in KERNELS.glob("blocks_*.cpp")}
    assert sets == {"blocks_avx2.cpp", "blocks_avx512.cpp", "blocks_portable.cpp"}
    for name in sets:
        assert includes(name) <= {"block_templates.h", "immintrin.h"}
    assert includes("block_templates.h") == {"blocks.h"}
    assert includes("blocks.h") == {"cstdint", "element.h"}
    assert includes("element.h") == {"cstdint"}
    elements = (KERNELS / "element.h").read_text(encoding="utf-8")
    functions = re.findall(r"^.*\)\s*(?:const\s*)?\{", elements, re.MULTILINE)
    assert len(functions) >= 6
    assert all(re.match(r"ATROUS_INLINE |  if ", line) for line in functions), "element.h has a function of its own"
    declarations = (KERNELS / "blocks.h").read_text(encoding="utf-8")
    assert not re.search(r"\)\s*(const\s*)?\{", declarations), "blocks.h defines a function"
