"""The script runs, and finds this library right."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "bfloat16_channels_last.py"


@pytest.mark.slow
def test_ours_is_right():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cases = runpy.run_path(str(SCRIPT))["CASES"]
    lines = done.stdout.splitlines()
    for name, line in zip(cases, lines, strict=False):
        assert line.startswith(f"{name}: torch ")
        assert line.endswith(", atrous right")
    stock_is_right = all(": torch right, " in line for line in lines[: len(cases)])
    assert lines[len(cases) :] == ["torch is right on this machine, as far as these cases show"] * stock_is_right


@pytest.mark.parametrize(
    ("output", "code", "expected"),
    [
        ("a\t0.001\nb\tinf\n", 0, {"a": "right", "b": "wrong by inf of the largest value"}),
        ("a\t0.5\nb\t", -11, {"a": "wrong by 0.5 of the largest value", "b": "crashed (signal 11)"}),
    ],
)
def test_what_became_of_a_case_is_said(output, code, expected, monkeypatch):
    module = runpy.run_path(str(SCRIPT))
    run = module["run"]
    monkeypatch.setitem(run.__globals__, "CASES", dict.fromkeys(expected))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], code, output, ""))
    assert run("torch") == expected
