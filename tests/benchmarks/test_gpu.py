"""The script for a GPU runs where there is none, so that it does not break on the day there is one."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_checks_and_times_on_a_cpu():
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick", "--dtypes", "float32"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "conv: 4 of 4 cases within their budget; served: " in done.stdout
    for check in (
        "learned positions",
        "same bits",
        "compiled under autocast",
        "recipe compiled under autocast",
        "tuned",
    ):
        assert f"{check}: holds\n" in done.stdout
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    times = {
        row[0]: [float(ms) for cell in row[1:] for ms in cell.split(" / ") if cell != "float32"]
        for row in rows
        if row[0] in ("2x8x9-k3-d1", "2x8x9-k3-d2", "k 3", "2x8x9", "ConvNeXt-T", "ConvNeXt-T with learned positions")
    }
    assert {name: len(found) for name, found in times.items()} == {
        "2x8x9-k3-d1": 11,
        "2x8x9-k3-d2": 11,
        "k 3": 5,
        "2x8x9": 6,
        "ConvNeXt-T": 2,
        "ConvNeXt-T with learned positions": 2,
    }
    assert all(ms > 0 for found in times.values() for ms in found)


def test_the_shell_around_it_is_well_formed():
    subprocess.run(["bash", "-n", ROOT / "benchmarks" / "gpu.sh"], check=True)
