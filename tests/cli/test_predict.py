import pytest
from PIL import Image

from atrous.cli import main
from atrous.train import NetworkConfig, save_network


@pytest.fixture
def folder(tmp_path):
    config = NetworkConfig("dilation_small", {"num_classes": 2, "in_channels": 3, "width": 1 / 16}, ("a", "b"))
    save_network(config.build(), config, tmp_path / "net.safetensors")
    Image.new("RGB", (40, 30)).save(tmp_path / "one.png")
    Image.new("RGB", (30, 40)).save(tmp_path / "two.jpg")
    return tmp_path


def call(folder, *images, weights="net.safetensors"):
    paths = [str(folder / image) for image in images]
    return main(["predict", *paths, "--weights", str(folder / weights), "--out", str(folder / "out")])


def test_writes_and_names_the_masks(folder, capsys):
    assert call(folder, "one.png", "two.jpg") == 0
    assert capsys.readouterr().out.splitlines() == [str(folder / "out" / name) for name in ("one.png", "two.png")]


def test_bad_input_exits_2_with_one_sentence(folder, capsys):
    (folder / "torn.png").write_bytes((folder / "one.png").read_bytes()[:40])
    (folder / "torn.safetensors").write_bytes((folder / "net.safetensors").read_bytes()[:400])
    for images, weights, named in (
        (["torn.png"], "net.safetensors", "torn.png"),
        (["absent.png"], "net.safetensors", "absent.png"),
        (["one.png"], "torn.safetensors", "torn.safetensors"),
        (["one.png"], "absent.safetensors", "absent.safetensors"),
    ):
        assert call(folder, *images, weights=weights) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"atrous: {folder / named}: ")
        assert error.count("\n") == 1
        assert not (folder / "out").exists() or not list((folder / "out").iterdir())
