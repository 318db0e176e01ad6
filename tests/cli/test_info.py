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


BOTH = ("cpu", "triton")


@pytest.mark.parametrize(("reason", "backend"), [(None, "{}"), ("not built", "no {} (not built)")])
@pytest.mark.parametrize("name", BOTH)
def test_whether_the_compiled_operations_are_there(capsys, monkeypatch, reason, backend, name):
    for one in BOTH:
        monkeypatch.setattr(f"atrous._backends.{one}.UNAVAILABLE", reason if one == name else None)
    main(["info", "--json"])
    told = json.loads(capsys.readouterr().out)["backends"]
    # What registers the operations for a GPU is the library for the CPU.
    lacking = BOTH if name == "cpu" else BOTH[1:]
    assert told.split(", ") == ["reference", "aten", *(backend.format(one) if one in lacking else one for one in BOTH)]


def test_an_extra_that_is_absent(capsys, monkeypatch):
    monkeypatch.setattr("atrous._extras.find_spec", lambda name: None if name == "lightning" else object())
    main(["info", "--json"])
    assert json.loads(capsys.readouterr().out)["extras"] == {
        "export": "installed",
        "plots": "installed",
        "train": "lacks lightning",
    }
