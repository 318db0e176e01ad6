import json
import pickle
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from atrous import CheckpointError, DataError, models
from atrous.nn import Dcls2d
from atrous.recipe import share_positions
from atrous.train import NetworkConfig, load_network, save_network

CONFIG = NetworkConfig("dilation_small", {"num_classes": 3, "in_channels": 1, "width": 1 / 16}, ("a", "b", "c"))


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('code from the weights file ran')",)


@pytest.fixture
def network():
    return CONFIG.build().eval()


@pytest.mark.parametrize("context", [True, False])
def test_round_trip(tmp_path, context):
    config = replace(CONFIG, context=context)
    network = config.build().eval()
    save_network(network, config, tmp_path / "net.safetensors")
    other, read = load_network(tmp_path / "net.safetensors")
    image = torch.randn(1, 1, 40, 50)
    assert torch.equal(other(image), network(image))
    assert read == config
    assert not other.training


def test_plain_pt_files_are_read(tmp_path, network):
    torch.save({"state_dict": network.state_dict(), "config": asdict(CONFIG)}, tmp_path / "net.pt")
    other, _ = load_network(tmp_path / "net.pt")
    assert torch.equal(other.front_end.final.weight, network.front_end.final.weight)


class Spaced(torch.nn.Module):
    """A stage of two layers that share their positions, and the head of a classifier."""

    def __init__(self, num_classes):
        super().__init__()
        self.stage = torch.nn.Sequential(*(Dcls2d(2, 2, 3, dilated_kernel_size=5) for _ in range(2)))
        self.head = torch.nn.ModuleDict({"fc": torch.nn.Linear(2, num_classes)})
        share_positions(self.stage)


def test_shared_positions_are_in_the_file_once_and_shared_when_read(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "convnext_pico", Spaced)
    config = NetworkConfig("convnext_pico", {"num_classes": 2}, ("a", "b"), task="classify")
    network, path = config.build(), tmp_path / "net.safetensors"
    save_network(network, config, path)
    with safetensors.safe_open(path, framework="pt") as file:
        assert [name for name in file.keys() if name.endswith("P")] == ["stage.0.P"]  # noqa: SIM118 - not a dict
    other, _ = load_network(path)
    assert other.stage[1].P is other.stage[0].P
    assert torch.equal(other.stage[1].P, network.stage[1].P)


def refused(path, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_network(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pickle_with_code_is_not_run(tmp_path):
    torch.save({"state_dict": Bomb(), "config": {}}, tmp_path / "net.pt")
    refused(tmp_path / "net.pt", "holds Python code or objects besides tensors")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / "bare.pth", "holds Python code or objects besides tensors")
    (tmp_path / "named.safetensors").write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / "named.safetensors", "not a whole safetensors file")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_junk(tmp_path, suffix):
    rng = np.random.default_rng(0)
    for content in (b"hello", b"\x80", *(rng.bytes(size) for size in range(1, 60))):
        (tmp_path / f"net{suffix}").write_bytes(content)
        refused(tmp_path / f"net{suffix}", "not a whole|or is damaged|expected a dict")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("part", [0, 0.1, 0.9])
def test_truncated(tmp_path, network, suffix, part):
    path = tmp_path / f"net{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": network.state_dict(), "config": asdict(CONFIG)}, path)
    else:
        save_network(network, CONFIG, path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    refused(path, "not a whole|or is damaged")


def written(path, weights, /, **changes):
    metadata = {"atrous": json.dumps({**asdict(CONFIG), **changes})}
    safetensors.torch.save_file(weights.state_dict(), path, metadata)
    return path


def test_weights_that_do_not_fit(tmp_path, network):
    path = tmp_path / "net.safetensors"
    five = {"num_classes": 5, "in_channels": 1, "width": 1 / 16}
    refused(written(path, network, arguments=five, classes=tuple("abcde")), "weights of 3 classes, expected 5")
    refused(written(path, network, classes=("a", "b")), "2 class names for 3 classes")
    wide = {"num_classes": 3, "in_channels": 1, "width": 1 / 8}
    refused(written(path, network, arguments=wide), r"entries do not fit dilation_small, the first front_end\.conv1_1")
    refused(written(path, network, network="resnet"), r"network: got 'resnet', expected one of")
    refused(written(path, network, arguments={"depth": 3}), "cannot be built from")
    refused(written(path, network, surprise=1), "its config is not one of atrous")
    refused(written(path, network, classes=None), "its config is not one of atrous")
    refused(written(path, network, classes="abc"), "its config is not one of atrous")
    refused(written(path, network, classes=[None] * 3), "its config is not one of atrous")
    refused(written(path, network, context="no"), "its config is not one of atrous")
    refused(written(path, network, arguments=[1]), "its config is not one of atrous")
    huge = {"num_classes": 10**9, "in_channels": 1}
    refused(written(path, network, arguments=huge), "cannot be built from")
    refused(written(path, network, arguments={**huge, "width": 1e308}), "cannot be built from")
    network.front_end.fc7.bias.data[0] = float("nan")
    refused(written(path, network), r"front_end\.fc7\.bias holds torch.float32 or no finite numbers")
    refused(written(path, network.double()), "expected finite float32")


def test_files_without_a_config(tmp_path, network):
    safetensors.torch.save_file(network.state_dict(), tmp_path / "net.safetensors")
    refused(tmp_path / "net.safetensors", "has no 'atrous' entry")
    torch.save(network.state_dict(), tmp_path / "net.pt")
    refused(tmp_path / "net.pt", "expected a dict of 'state_dict', tensors by name, and 'config'")
    for content in ([1, 2], {"state_dict": [1], "config": {}}, {"state_dict": {"a": 1}, "config": {}}):
        torch.save(content, tmp_path / "net.pt")
        refused(tmp_path / "net.pt", "expected a dict of 'state_dict'")
    refused(tmp_path / "absent.safetensors", "no such weights file")
    torch.save({}, tmp_path / "best.ckpt")
    refused(tmp_path / "best.ckpt", "is a checkpoint of a run; its weights are in weights.safetensors")
    refused(tmp_path, "no such weights file")


def test_a_folder_that_is_none(tmp_path, network):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"net.safetensors: cannot be written"):
        save_network(network, CONFIG, tmp_path / "file" / "net.safetensors")
    with pytest.raises(DataError, match=r"net.pt: expected a file name that ends in .safetensors"):
        save_network(network, CONFIG, tmp_path / "net.pt")


def test_killed_while_writing(tmp_path, network):
    """A process that dies between the first byte and the last leaves the old file under its name."""
    path = tmp_path / "net.safetensors"
    save_network(network, CONFIG, path)
    before = path.read_bytes()
    script = (
        "import os, signal, sys\n"
        "from atrous._files import whole_file\n"
        "with whole_file(sys.argv[1]) as part:\n"
        "    part.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, path], check=False).returncode == -9
    assert path.read_bytes() == before
    load_network(path)
