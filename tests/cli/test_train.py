import json

import pytest

from atrous.cli import main
from atrous.train import load_network
from atrous.train.config import RECIPES

LITTLE = ["--width", "0.0625", "--crop", "32", "--batch-size", "32", "--context", "none", "--accelerator", "cpu"]


@pytest.fixture
def little(monkeypatch):
    monkeypatch.setattr("atrous.train.build.MOSAICS", (4, 2, 2))


def test_help_lists_every_setting_and_its_defaults(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for recipe in RECIPES.values():
        for name in recipe.model_fields:
            assert text.count(f"--{name.replace('_', '-')} ") >= 2  # in the usage and in the list
    assert "settings of restore" in text


def test_train_resume_evaluate(tmp_path, capsys, little):
    words = ["train", "--task", "segment", "--data", "textures", "--out", str(tmp_path / "out"), *LITTLE]
    assert main([*words, "--epochs", "1", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert list(metrics) == ["val", "test"]
    assert main([*words, "--epochs", "1"]) == 2
    assert capsys.readouterr().err.startswith(f"atrous: {tmp_path / 'out'}: holds another run; resume it")
    assert main(["train", "--data", "textures", "--out", str(tmp_path / "out"), "--resume"]) == 0
    assert f"weights: {tmp_path / 'out' / 'weights.safetensors'}\n" in capsys.readouterr().out
    weights = str(tmp_path / "out" / "weights.safetensors")
    assert main(["evaluate", "--data", "textures", "--weights", weights, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == metrics["test"]
    assert main(["evaluate", "--data", "textures", "--weights", weights, "--split", "val"]) == 0
    text = capsys.readouterr().out
    assert f"mean_iou  {metrics['val']['mean_iou']:.4f}" in text
    assert "class_iou  brick  " in text


def test_kernels_with_learned_spacings(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("atrous.train.build.PATCHES", (8, 4, 4))
    options = ["--kernel", "dcls", "--share", "--kernel-count", "5", "--width", "0.0625", "--batch-size", "4"]
    out = tmp_path / "out"
    words = ["--data", "textures", "--out", str(out), "--epochs", "1", "--accelerator", "cpu"]
    assert main(["train", "--task", "classify", *words, *options]) == 0
    assert capsys.readouterr().out.startswith("val: accuracy ")
    network, config = load_network(out / "weights.safetensors")
    assert (config.arguments["kernel"], config.arguments["share"]) == ("dcls", True)
    first, second = (block.conv_dw for block in network.stages[0].blocks)
    assert first.kernel_count == 5
    assert first.P is second.P


def test_settings_of_a_file(tmp_path, capsys, little):
    (tmp_path / "mine.toml").write_text(
        'task = "segment"\nwidth = 0.0625\ncrop = 32\nepochs = 5\ncontext = "none"\nbatch_size = 32\n'
    )
    words = ["--config", str(tmp_path / "mine.toml"), "--accelerator", "cpu", "--epochs", "1"]
    assert main(["train", "--data", "textures", "--out", str(tmp_path / "out"), *words]) == 0
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert (recipe["epochs"], recipe["crop"], recipe["task"]) == (1, 32, "segment")
    assert capsys.readouterr().out.startswith("val: mean_iou ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "segment", "--data", "absent"], "atrous: absent: no such folder of images"),
        (["--data", "textures"], "atrous: task: got None, expected one of segment, restore, regress, classify"),
        (["--task", "segment", "--data", "textures", "--epochs", "x"], "atrous: epochs: got 'x', expected a valid int"),
        (["--task", "restore", "--data", "textures"], "atrous: data: got textures for restore, expected a folder"),
        (["--task", "segment", "--data", "textures", "--sigma", "3"], "atrous: sigma: no setting of segment; "),
    ],
)
def test_wrong_words_are_one_sentence(words, message, tmp_path, capsys):
    assert main(["train", *words, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(message)
    assert not (tmp_path / "out" / "weights.safetensors").exists()
