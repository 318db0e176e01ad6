import json

import pytest

from atrous.analysis import Comparison, Contender
from atrous.cli import main

RESULT = Comparison((Contender("plain 7x7", 490, 1.5, {"clean": (0.75,)}),))


@pytest.fixture
def seen(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "atrous.train.experiment.run_experiment", lambda *words, **options: calls.append((words, options)) or RESULT
    )
    return calls


def test_passes_its_options_and_prints_the_table(seen, capsys, tmp_path):
    words = ["--data", "textures", "--out", str(tmp_path), "--seeds", "2", "--kernels", "plain", "gaussian"]
    assert main(["experiment", *words, "--jobs", "1"]) == 0
    assert seen == [(("textures", tmp_path), {"seeds": 2, "kernels": ["plain", "gaussian"], "jobs": 1})]
    text = capsys.readouterr().out
    assert "plain 7x7           490      1.5  75.00" in text
    assert f"look at {tmp_path / 'comparison.png'}" in text


def test_json(seen, capsys, tmp_path):
    assert main(["experiment", "--data", "fashion-mnist", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(RESULT.to_dict()))


def test_an_unknown_kernel(capsys, tmp_path):
    assert main(["experiment", "--data", "textures", "--out", str(tmp_path), "--kernels", "square"]) == 2
    assert "kernels: got 'square', expected some of plain" in capsys.readouterr().err
