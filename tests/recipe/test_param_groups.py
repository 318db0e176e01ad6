import pytest
import torch

from atrous import ShapeError
from atrous.models import ConvNeXt
from atrous.nn import Dcls1d
from atrous.recipe import param_groups, share_positions


def net():
    return ConvNeXt(3, 1, (1, 2), (4, 8), patch=2)


def by_name(model, groups):
    """Return (learning rate, weight decay) of every parameter that is in a group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [(names[id(one)], (group["lr"], group["weight_decay"])) for group in groups for one in group["params"]]
    assert len(found) == len(dict(found)), "a parameter is in two groups"
    return dict(found)


def test_biases_norms_and_layer_scales_do_not_decay():
    model = net()
    groups = param_groups(model, 0.1, 0.05)
    found = by_name(model, groups)
    assert len(groups) == 2
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, settings in found.items():
        free = (
            name.endswith(("bias", "gamma"))
            or "norm" in name
            or name in ("stem.1.weight", "stages.1.downsample.0.weight")
        )
        assert settings == (0.1, 0.0 if free else 0.05)


def test_layers_near_the_image_learn_slower():
    model = net()
    found = by_name(model, param_groups(model, 1.0, 0.05, layer_decay=0.5))
    for start, rate in [
        ("stem", 1 / 16),
        ("stages.0", 1 / 8),
        ("stages.1.downsample", 1 / 4),
        ("stages.1.blocks.0", 1 / 4),
        ("stages.1.blocks.1", 1 / 2),
        ("head", 1.0),
    ]:
        assert {settings[0] for name, settings in found.items() if name.startswith(start)} == {rate}


def test_without_layers_of_its_own_each_child_is_one():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 1, bias=False))
    model.token = torch.nn.Parameter(torch.zeros(2, 2))  # of no layer
    found = by_name(model, param_groups(model, 1.0, 0.1, layer_decay=0.5))
    assert found == {"0.weight": (0.25, 0.1), "2.weight": (1.0, 0.1), "token": (1.0, 0.1)}


def test_a_child_called_layers_is_no_method():
    model = torch.nn.Module()
    model.layers = torch.nn.Linear(2, 2, bias=False)
    assert by_name(model, param_groups(model, 1.0, 0.1)) == {"layers.weight": (1.0, 0.1)}


def test_what_is_frozen_is_left_out():
    model = net()
    model.stem.requires_grad_(False)
    found = by_name(model, param_groups(model, 0.1, 0.05))
    assert found.keys() == {name for name, _ in model.named_parameters() if not name.startswith("stem")}


def test_shared_parameters_are_there_once():
    first, last = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    last.weight = first.weight
    model = torch.nn.Sequential(first, last)
    assert by_name(model, param_groups(model, 1.0, 0.1, layer_decay=0.5)).keys() == {"0.weight", "0.bias", "1.bias"}


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_takes_them(optimizer):
    model = net()
    head = model.head.fc.weight
    before = head.detach().clone(), model.stem[0].weight.detach().clone()
    chosen = optimizer(param_groups(model, 0.1, 0.0, layer_decay=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    chosen.step()
    torch.testing.assert_close(before[0] - head, torch.full_like(head, 0.1))
    torch.testing.assert_close(before[1] - model.stem[0].weight, torch.full_like(before[1], 1e-5), atol=1e-8, rtol=1e-3)


class Spaced(torch.nn.Module):
    """A weight and a parameter P that is no position, between two layers of learned spacings."""

    def __init__(self):
        super().__init__()
        spaced = {"kernel_count": 3, "padding": "same", "dilated_kernel_size": 5, "interpolation": "gaussian"}
        self.near, self.far = Dcls1d(2, 2, **spaced), Dcls1d(2, 2, **spaced)
        self.between = torch.nn.Module()
        self.between.P = torch.nn.Parameter(torch.ones(2, 2))

    def layers(self):
        return [[self.near], [self.between], [self.far]]


def test_positions_and_scales_learn_faster_and_do_not_decay():
    model = Spaced()
    found = by_name(model, param_groups(model, 0.5, 0.1))
    assert found == {
        **{f"{layer}.weight": (0.5, 0.1) for layer in ("near", "far")},
        **{f"{layer}.bias": (0.5, 0.0) for layer in ("near", "far")},
        **{f"{layer}.{name}": (2.5, 0.0) for layer in ("near", "far") for name in ("P", "SIG")},
        "between.P": (0.5, 0.1),
    }


def test_their_rate_survives_layer_decay():
    model = Spaced()
    found = by_name(model, param_groups(model, 1.0, 0.1, 100, layer_decay=0.5))
    assert found["near.P"] == found["near.SIG"] == (25.0, 0.0)
    assert found["near.weight"] == (0.25, 0.1)
    assert found["between.P"] == (0.5, 0.1)
    assert found["far.P"] == found["far.SIG"] == (100.0, 0.0)


def test_weight_decay_leaves_positions_alone():
    model = Spaced()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(param_groups(model, 0.1, 0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decayed = {"near.weight", "far.weight", "between.P"}
    assert {name for name, value in model.named_parameters() if not torch.equal(value, before[name])} == decayed


def test_shared_positions_are_there_once_and_frozen_ones_not():
    model = Spaced()
    share_positions(model)
    model.near.SIG.requires_grad_(False)
    assert {name for name in by_name(model, param_groups(model, 1.0, 0.1)) if "P" in name or "SIG" in name} == {
        "near.P",
        "between.P",
    }


@pytest.mark.parametrize("scale", [-1.0, float("nan")])
def test_a_scale_that_cannot_be(scale):
    with pytest.raises(ShapeError, match=r"param_groups: position_lr_scale: got .*, expected 0 or more"):
        param_groups(net(), 0.1, 0.0, position_lr_scale=scale)


def test_no_layer_decay_is_one():
    model = net()
    one, other = param_groups(model, 0.1, 0.05), param_groups(model, 0.1, 0.05, layer_decay=1.0)
    assert by_name(model, one) == by_name(model, other)


@pytest.mark.parametrize("layer_decay", [0.0, -1.0, 1.5])
def test_a_layer_decay_that_cannot_be(layer_decay):
    with pytest.raises(ShapeError, match=r"param_groups: layer_decay: got .*, expected above 0 and at most 1"):
        param_groups(net(), 0.1, 0.0, layer_decay=layer_decay)
