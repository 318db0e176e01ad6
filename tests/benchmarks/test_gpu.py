"""The script for a GPU runs where there is none, so that it does not break on the day there is one."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_checks_and_times_on_a_cpu():
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick", "--dtypes", "float32"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "conv: 4 of 4 cases within their budget; served: " in done.stdout
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| 2x8x9-")]
    assert [row[:2] for row in rows] == [["2x8x9-k3-d1", "float32"], ["2x8x9-k3-d2", "float32"]]
    assert all(float(ms) > 0 for row in rows for ms in row[2:])


def test_the_shell_around_it_is_well_formed():
    subprocess.run(["bash", "-n", ROOT / "benchmarks" / "gpu.sh"], check=True)
