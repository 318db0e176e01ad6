import json

import torch

import atrous
from atrous.cli import main


def test_text(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"atrous  {atrous.__version__}" in text
    assert f"threads  {torch.get_num_threads()}" in text
    assert "train installed" in text


def test_json(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"] == torch.__version__
    assert facts["backends"] == "reference, aten"


def test_an_extra_that_is_absent(capsys, monkeypatch):
    monkeypatch.setattr("atrous._extras.find_spec", lambda name: None if name == "lightning" else object())
    main(["info", "--json"])
    assert json.loads(capsys.readouterr().out)["extras"] == {"plots": "installed", "train": "lacks lightning"}
