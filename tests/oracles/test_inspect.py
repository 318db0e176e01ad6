"""`atrous inspect` says of networks of timm what is known of them."""

import json

import pytest
import timm
import torch

from atrous.cli import main


def inspected(capsys, *words):
    assert main(["inspect", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("name", "field"), [("resnet18", 435), ("resnet50", 427)])
def test_a_classifier(capsys, name, field):
    found = inspected(capsys, f"timm:create_model('{name}')", "--input", "1,3,224,224")
    layers = [layer for layer in found["receptive_field"]["layers"] if not any(layer["global"])]
    assert layers[-1]["receptive_field"] == [field, field]
    assert layers[-1]["stride"] == ["32", "32"]
    assert found["gridding"]["axes"][0]["is_global"]
    parameters = sum(weight.numel() for weight in timm.create_model(name).parameters())
    assert found["cost"]["total"]["parameters"] == parameters
    assert found["effective_receptive_field"]["receptive_field"] == [224, 224]
    assert found["skipped"] == {}


def test_the_tables_of_a_classifier(capsys):
    assert main(["inspect", "timm:create_model('mobilenetv3_small_050')", "--input", "1,3,128,128"]) == 0
    text = capsys.readouterr().out
    assert "all" in text
    assert "blocks.0.0.conv_dw" in text
    assert "skipped" not in text


def test_a_classifier_that_was_exported(capsys, tmp_path):
    network = timm.create_model("resnet18").eval()
    torch.export.save(torch.export.export(network, (torch.zeros(1, 3, 96, 96),)), tmp_path / "net.pt2")
    found = inspected(capsys, str(tmp_path / "net.pt2"))
    assert found["input"] == [1, 3, 96, 96]
    assert "layer4.1.conv2" in [layer["module"] for layer in found["receptive_field"]["layers"]]
    assert found["skipped"] == {}
