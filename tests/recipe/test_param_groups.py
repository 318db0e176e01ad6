import pytest
import torch

from atrous import ShapeError
from atrous.models import ConvNeXt
from atrous.recipe import param_groups


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


@pytest.mark.parametrize("layer_decay", [0.0, -1.0, 1.5])
def test_a_layer_decay_that_cannot_be(layer_decay):
    with pytest.raises(ShapeError, match=r"param_groups: layer_decay: got .*, expected above 0 and at most 1"):
        param_groups(net(), 0.1, 0.0, layer_decay=layer_decay)
