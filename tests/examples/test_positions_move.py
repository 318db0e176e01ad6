"""The example trains, moves its elements, and writes an animation."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "examples" / "positions_move.py"


@pytest.mark.slow
def test_elements_move_from_frame_to_frame(tmp_path, monkeypatch, capsys):
    file = tmp_path / "moving.gif"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--out", str(file), "--frames", "2", "--steps", "1", "--size", "32"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    table = capsys.readouterr().out.splitlines()[-3:]
    assert table[0].split() == ["layer", "window", "first", "fastest", "last", "path", "net", "with", "rate"]
    assert [row.split()[:2] for row in table[1:]] == [["1.spatial", "17x17"], ["2.spatial", "17x17"]]
    with Image.open(file) as animation:
        # The title and the speed change at least, and equal frames at the end are one.
        assert animation.n_frames >= 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moving.gif", "moving.png"]
