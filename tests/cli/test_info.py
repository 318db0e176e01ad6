import json

import pytest
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
    assert facts["backends"].startswith("reference, aten, ")


@pytest.mark.parametrize(("reason", "backends"), [(None, "cpu"), ("not built", "no cpu (not built)")])
def test_whether_the_compiled_operations_are_there(capsys, monkeypatch, reason, backends):
    monkeypatch.setattr("atrous._backends.cpu.UNAVAILABLE", reason)
    main(["info", "--json"])
    assert json.loads(capsys.readouterr().out)["backends"] == f"reference, aten, {backends}"


def test_an_extra_that_is_absent(capsys, monkeypatch):
    monkeypatch.setattr("atrous._extras.find_spec", lambda name: None if name == "lightning" else object())
    main(["info", "--json"])
    assert json.loads(capsys.readouterr().out)["extras"] == {
        "export": "installed",
        "plots": "installed",
        "train": "lacks lightning",
    }
