"""One wheel serves every torch from the oldest supported one on: the library needs torch's stable C interface alone."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_library_is_built_for_no_later_torch_than_the_oldest_supported():
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    target = int(re.search(r"TORCH_TARGET_VERSION=(0x\w{16})\b", cmake)[1], 16) >> 48
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = next(re.fullmatch(r"torch>=(\d+)\.(\d+)", name) for name in project["dependencies"] if "torch" in name)
    assert divmod(target, 256) <= (int(oldest[1]), int(oldest[2]))


@pytest.mark.skipif(sys.platform != "linux", reason="reads symbols as Linux writes them")
def test_the_library_asks_torch_for_nothing_else():
    """What the system's libraries provide has a version; so what has none comes from torch."""
    spec = importlib.util.find_spec("atrous._C")
    if spec is None:
        pytest.skip("installed without the compiled operations")
    done = subprocess.run(["nm", "-D", "--undefined-only", spec.origin], capture_output=True, text=True, check=True)
    symbols = [line.split() for line in done.stdout.splitlines()]
    unversioned = {name for kind, name in symbols if kind == "U" and "@" not in name}
    assert "torch_parallel_for" in unversioned
    assert not [name for name in unversioned if not re.match(r"(aoti_)?torch_", name)]
