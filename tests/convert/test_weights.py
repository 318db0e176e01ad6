"""Weights of other makes: where each entry goes, what the network then computes, and what is refused."""

import json
import pickle
import re
import sys
from pathlib import Path

import h5py
import pytest
import torch
from torch import nn

from atrous import CheckpointError, MissingExtra, UnsupportedModule
from atrous.convert import load_weights
from atrous.models import DilatedNet, FrontEnd, ResNet
from atrous.models.yu_koltun import SMALL
from atrous.nn import ContextModule

FEATURES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
CONVOLUTIONS = [f"conv{block}_{i + 1}" for block, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(count)]
WIDTH = 1 / 32
DEEPER = (1, 1, 1, 2)


def front_end(classes=3, **options):
    return FrontEnd(classes, width=WIDTH, **options)


def dilated(classes=3, layers=8):
    return DilatedNet(front_end(classes), ContextModule(classes, "basic", layers, "same"))


def residual(blocks=(1, 1, 1, 1), classes=3):
    return ResNet(classes, blocks, bottleneck=False, width=WIDTH)


def of_torchvision(classes=3):
    """Return names of torchvision's VGG-16 and the layers of a front end that they are."""
    net = front_end(classes)
    names = dict(zip(CONVOLUTIONS, (f"features.{at}" for at in FEATURES), strict=True))
    names |= {"fc6": "classifier.0", "fc7": "classifier.3", "final": "classifier.6"}
    state = {}
    for ours, theirs in names.items():
        layer = net.get_submodule(ours)
        state[f"{theirs}.weight"] = (
            layer.weight.detach().flatten(1) if "classifier" in theirs else layer.weight.detach()
        )
        state[f"{theirs}.bias"] = torch.randn_like(layer.bias)
    return state


def of_caffe(classes=3, final="final", net=None):
    """Return [weight, bias] by the names of Caffe, as arrays."""
    found = {}
    for name, layer in (net or front_end(classes)).named_modules():
        if isinstance(layer, nn.Conv2d):
            pair = [layer.weight.detach().numpy(), torch.randn_like(layer.bias).numpy()]
            name = name.rpartition(".")[2]
            found[final if name == "final" else name] = pair
    return found


def of_keras(style):
    """Return kernels (H, W, in, out) by the names of Keras, with a side output that no network of ours has."""
    found = {}
    for name, (weight, bias) in of_caffe().items():
        if name.startswith("conv"):
            block, index = int(name[4]), int(name[6]) - 1
            pair = (weight.transpose(2, 3, 1, 0).copy(), bias)
            if style == "layers":
                found[f"block{block}_conv{index + 1}"] = pair
            else:
                conv = "conv2d" + (f"_{index}" if index else "")
                found[f"block{block}/layers/{conv}/vars/0"], found[f"block{block}/layers/{conv}/vars/1"] = pair
    return found | {"dsn1/vars/0": torch.zeros(1, 1, 2, 1)}


def snapshot(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def unchanged(net, before):
    return all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def refused(net, content, message, **options):
    before = snapshot(net)
    with pytest.raises(CheckpointError, match=message):
        load_weights(net, content, **options)
    assert unchanged(net, before)


def test_the_network_computes_what_vgg16_does():
    """Against torchvision's layers one by one: fully connected ones on the 7 x 7 features four pixels apart."""
    state, net = of_torchvision(), front_end().eval()
    found = load_weights(net, state)
    assert (found.source, found.channels) == ("torchvision-vgg16", "RGB")
    assert (len(found.matched), found.missing, found.left_over, found.mismatched) == (32, (), (), {})
    image = torch.randn(1, 3, 380, 380)
    features = image
    for at in FEATURES:
        dilation = 2 if at > 21 else 1
        weight, bias = state[f"features.{at}.weight"], state[f"features.{at}.bias"]
        features = nn.functional.conv2d(features, weight, bias, dilation=dilation).relu()
        if at in (2, 7, 14):
            features = nn.functional.max_pool2d(features, 2)
    vector = features[..., ::4, ::4].flatten(1)
    for at in (0, 3, 6):
        vector = nn.functional.linear(vector, state[f"classifier.{at}.weight"], state[f"classifier.{at}.bias"])
        vector = vector.relu() if at < 6 else vector
    assert vector.count_nonzero() == vector.numel()
    torch.testing.assert_close(net(image).flatten(1), vector)


@pytest.mark.parametrize("matrices", [False, True])
def test_caffe_pairs(matrices):
    content, net = of_caffe(final="fc8"), front_end()
    if matrices:
        for name in ("fc6", "fc7"):
            content[name][0] = content[name][0].reshape(len(content[name][0]), -1)
    found = load_weights(net, content)
    assert (found.source, found.channels) == ("caffe", "BGR")
    assert found.matched["fc6.weight"] == "fc6.weight"
    assert found.matched["final.bias"] == "fc8.bias"
    for name in (*CONVOLUTIONS, "fc6", "fc7", "final"):
        weight, bias = content["fc8" if name == "final" else name]
        layer = net.get_submodule(name)
        assert torch.equal(layer.weight, torch.tensor(weight).reshape(layer.weight.shape))
        assert torch.equal(layer.bias, torch.tensor(bias))


def test_a_network_for_rgb_sees_what_one_for_bgr_does():
    content, bgr, rgb = of_caffe(), front_end().eval(), front_end().eval()
    assert load_weights(bgr, content).channels == "BGR"
    assert load_weights(rgb, content, rgb=True).channels == "RGB"
    image = torch.randn(1, 3, 380, 380)
    assert not torch.allclose(bgr.conv1_1(image), rgb.conv1_1(image))
    torch.testing.assert_close(bgr(image.flip(1)), rgb(image))


def test_weights_for_rgb_are_not_turned():
    state, net = of_torchvision(), front_end()
    assert load_weights(net, state, rgb=True).channels == "RGB"
    assert torch.equal(net.conv1_1.weight, state["features.0.weight"])


@pytest.mark.parametrize("style", ["layers", "groups"])
def test_keras_kernels(style):
    content, net = of_keras(style), front_end()
    before = snapshot(net)
    found = load_weights(net, content)
    assert (found.source, found.channels, len(found.matched)) == ("keras-vgg16", "BGR", 26)
    assert found.missing == tuple(f"{name}.{kind}" for name in ("fc6", "fc7", "final") for kind in ("weight", "bias"))
    assert found.left_over == ("dsn1/vars/0",)
    weight = content["block3_conv2"][0] if style == "layers" else content["block3/layers/conv2d_1/vars/0"]
    for out, row, column in ((0, 0, 0), (1, 2, 0), (2, 0, 1)):
        assert torch.equal(net.conv3_2.weight[out, :, row, column], torch.tensor(weight[row, column, :, out]))
    assert torch.equal(net.fc6.weight, before["fc6.weight"])


@pytest.mark.parametrize(
    ("layers", "final", "prefix"),
    [(7, "final", "ctx_"), (8, "fc-final", "ct_"), (8, "final", "ctx_"), (10, "final", "ctx_")],
)
def test_published_dilation_models(layers, final, prefix):
    content = of_caffe(net=dilated(layers=layers), final=final)
    content = {name.replace("ctx_", prefix): pair for name, pair in content.items()}
    if layers == 10:
        content["ctx_upsample"] = {"weight": torch.zeros(3, 1, 16, 16)}
    whole, part, context = dilated(layers=layers), front_end(), ContextModule(3, "basic", layers, "same")
    found = load_weights(whole, content)
    assert found.missing == ()
    assert found.left_over == (("ctx_upsample.weight",) if layers == 10 else ())
    assert found.matched["context.ctx_fc1.weight"] == f"{prefix}fc1.weight"
    assert torch.equal(whole.context.ctx_conv2_1.bias, torch.tensor(content[f"{prefix}conv2_1"][1]))
    assert not load_weights(part, content).missing
    assert not load_weights(context, content).missing
    assert all(torch.equal(value, whole.front_end.state_dict()[name]) for name, value in part.state_dict().items())
    assert all(torch.equal(value, whole.context.state_dict()[name]) for name, value in context.state_dict().items())


def test_a_context_alone():
    source = ContextModule(3, "large", 8)
    target = ContextModule(3, "large", 8)
    found = load_weights(target, source.state_dict())
    assert (len(found.matched), found.missing, found.left_over) == (16, (), ())
    assert unchanged(target, source.state_dict())


@pytest.mark.parametrize("classes", [3, 7])
def test_residual_networks(classes):
    source, target = residual(classes=classes), residual()
    before = snapshot(target)
    found = load_weights(target, source.state_dict())
    kept = {"fc.weight", "fc.bias"} if classes == 7 else set()
    assert (found.source, found.missing, found.left_over) == ("torchvision-resnet", (), ())
    assert set(found.mismatched) == kept
    for name, value in target.state_dict().items():
        assert torch.equal(value, before[name] if name in kept else source.state_dict()[name])


def test_residual_network_without_classifier_and_counters():
    state = {name: value for name, value in residual().state_dict().items() if "fc." not in name and "num_" not in name}
    found = load_weights(residual(), state)
    assert {name.rpartition(".")[2] for name in found.missing} == {"num_batches_tracked", "weight", "bias"}
    assert found.missing[-2:] == ("fc.weight", "fc.bias")


def test_the_report():
    net = front_end(classes=2)
    state = {name: value for name, value in of_torchvision().items() if name != "classifier.3.bias"}
    found = load_weights(net, state | {"avgpool.scale": torch.ones(1)})
    lines = str(found).splitlines()
    assert lines[0].split() == ["target", "torchvision-vgg16", "result"]
    assert lines[1].split() == ["conv1_1.weight", "features.0.weight", "loaded"]
    assert [re.split(r"\s{2,}", line) for line in lines[-4:]] == [
        ["final.weight", "classifier.6.weight", "kept: got (3, 128, 1, 1), expected (2, 128, 1, 1)"],
        ["final.bias", "classifier.6.bias", "kept: got (3,), expected (2,)"],
        ["fc7.bias", "-", "kept: missing in the file"],
        ["-", "avgpool.scale", "left over in the file"],
    ]
    fields = json.loads(json.dumps(found.to_dict()))
    assert fields["matched"]["fc6.weight"] == "classifier.0.weight"
    assert fields["missing"] == ["fc7.bias"]


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("kind", [str, Path])
def test_files(tmp_path, suffix, kind):
    path, source, target = tmp_path / f"net{suffix}", residual(), residual()
    if suffix == ".safetensors":
        path.write_bytes(pytest.importorskip("safetensors.torch").save(source.state_dict()))
    else:
        torch.save(source.state_dict(), path)
    assert load_weights(target, kind(path)).missing == ()
    assert unchanged(target, source.state_dict())


def test_h5_files(tmp_path):
    content, net = of_keras("groups"), front_end()
    with h5py.File(tmp_path / "hed.h5", "w") as file:
        for name, values in content.items():
            file[name] = values
        file["note"] = "not a weight"
    assert len(load_weights(net, tmp_path / "hed.h5").matched) == 26
    assert torch.equal(net.conv1_2.bias, torch.tensor(content["block1/layers/conv2d_1/vars/1"]))
    (tmp_path / "hed.h5").write_bytes((tmp_path / "hed.h5").read_bytes()[:600])
    with pytest.raises(CheckpointError, match=r"hed\.h5: not a whole HDF5 file \(.*\); copy it again"):
        load_weights(net, tmp_path / "hed.h5")


@pytest.mark.parametrize(("suffix", "module"), [(".h5", "h5py"), (".safetensors", "safetensors")])
def test_an_absent_reader_is_named(tmp_path, monkeypatch, suffix, module):
    path = tmp_path / f"net{suffix}"
    path.touch()
    for name in (module, f"{module}.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    message = f"net{suffix}: needs {module} to be read; install it by: pip install {module}"
    with pytest.raises(MissingExtra, match=re.escape(message)):
        load_weights(front_end(), path)


class Code:
    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("code.pth", lambda whole: pickle.dumps({"conv1_1": Code()}), r"code\.pth: holds Python code .* not run"),
        ("half.pt", lambda whole: whole[:4000], r"half\.pt: not a whole PyTorch file \(.*\); copy it again"),
        ("half.safetensors", lambda whole: b"\x20", r"half\.safetensors: not a whole safetensors file"),
        ("net.caffemodel", lambda whole: whole, r"net\.caffemodel: got a \.caffemodel, expected one of \('\.safet"),
        ("net", lambda whole: whole, r"net: got a name without suffix, expected one of"),
    ],
)
def test_files_that_are_not_weights(tmp_path, capsys, name, damage, message):
    path, net = tmp_path / name, residual()
    torch.save(net.state_dict(), path)
    path.write_bytes(damage(path.read_bytes()))
    before = snapshot(net)
    with pytest.raises(CheckpointError, match=message):
        load_weights(net, path)
    assert unchanged(net, before)
    assert capsys.readouterr().out == ""


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent\.pt: no such weights file"):
        load_weights(front_end(), tmp_path / "absent.pt")


def both():
    return of_torchvision() | residual().state_dict()


def vgg_with(name, value):
    return of_torchvision() | {name: value}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: [1], "weights: got a list, expected a dict of tensors by name"),
        (lambda: {"epoch": 3}, r"weights: epoch: got a int, expected a tensor, .*; pass the weights alone"),
        (
            lambda: {"a": torch.ones(1)},
            r"got 1 entries \(a\), expected the names of one of \('torchvision.*load_state_dict",
        ),
        (dict, "weights: got 0 entries, expected the names of one of"),
        (both, "has the names of torchvision-vgg16 and torchvision-resnet; say which by source"),
        (
            lambda: of_caffe() | of_caffe(final="fc8"),
            r"final\.weight and fc8\.weight are both final\.weight; take one out",
        ),
        (
            lambda: vgg_with("features.5.weight", torch.full((4, 2, 3, 3), torch.nan)),
            r"features\.5\.weight holds torch\.f",
        ),
        (
            lambda: vgg_with("classifier.3.bias", torch.ones(128).int()),
            r"holds torch\.int32 or no finite numbers, expected",
        ),
    ],
)
def test_weights_that_are_none_are_named_and_nothing_is_loaded(content, message):
    refused(front_end(), content(), message)


@pytest.mark.parametrize(
    ("target", "content", "message"),
    [
        (residual, of_caffe, r"none of its 32 entries \(.*\) has a place in the target, which has \d+ entries"),
        (residual, lambda: residual(DEEPER).state_dict(), r"0 entries missing, 10 entries \(layer4\.1.*\) without"),
        (lambda: residual(DEEPER), lambda: residual().state_dict(), r"10 entries \(layer4\.1.*\) missing.*as deep as"),
        (dilated, lambda: of_caffe(net=dilated(layers=10)), r"0 entries missing, 4 entries \(ctx_conv6_1\.weight"),
        (lambda: FrontEnd(3, stages=SMALL), of_torchvision, r"0 entries missing, 20 entries \(.*\) without a place"),
        (
            lambda: front_end(in_channels=1),
            of_caffe,
            r"1 entries do not fit, conv1_1\.weight: got \(2, 3, 3, 3\), expected",
        ),
        (lambda: FrontEnd(3, width=1 / 16), of_torchvision, r"30 entries do not fit.*build the target with the width"),
        (dilated, lambda: of_caffe(net=dilated(5)), r"16 entries do not fit, context\.ctx_conv1_1\.weight: got"),
    ],
)
def test_networks_that_differ_are_named_and_nothing_is_loaded(target, content, message):
    refused(target(), content(), message)


def test_a_source_that_is_unknown_or_another_is_named():
    refused(front_end(), of_caffe(), r"source: got 'vgg', expected None or one of \('torchvision-vgg16'", source="vgg")
    message = r"got 32 entries \(.*\), expected the names of keras-vgg16; "
    refused(front_end(), of_caffe(), message, source="keras-vgg16")


def test_a_named_source_settles_between_two():
    net, content = front_end(), both()
    found = load_weights(net, content, source="torchvision-vgg16")
    assert len(found.left_over) == len(residual().state_dict())
    assert torch.equal(net.conv1_1.weight, content["features.0.weight"])


def test_a_vgg_with_norms_is_not_taken_for_one_without():
    shifted = [name.replace("features.2.", "features.3.") for name in of_torchvision()]
    with pytest.raises(CheckpointError, match="expected the names of one of"):
        load_weights(front_end(), dict.fromkeys(shifted, torch.ones(1)))


def test_a_target_that_is_no_module_is_named():
    with pytest.raises(UnsupportedModule, match=r"target: got a dict, expected a torch\.nn\.Module"):
        load_weights({}, of_caffe())
