"""`merge_dcls` leaves plain convolutions that compute the same, and carries over what stood around the layers."""

import copy

import pytest
import torch
from torch.nn.utils import parametrizations

import atrous
from atrous import UnsupportedModule, nn
from atrous.convert import merge_dcls
from atrous.recipe import share_positions


def layer(**options):
    options = {"padding": "same", "dilated_kernel_size": 7, "groups": 4, **options}
    return nn.Dcls2d(4, 4, 5, **options)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(layer(), torch.nn.GELU(), layer(interpolation="gaussian", stride=2, bias=False)).eval()


X = torch.randn(2, 4, 12, 13)


def test_the_model_computes_the_same_without_us(model):
    expected = model(X)
    assert merge_dcls(model) is model
    assert {type(module).__module__ for module in model.modules()} <= {
        "torch.nn.modules.conv",
        "torch.nn.modules.container",
        "torch.nn.modules.activation",
    }
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight"]
    torch.testing.assert_close(model(X), expected)


@pytest.mark.parametrize(
    "made",
    [
        lambda: nn.Dcls1d(4, 4, 3, padding="causal", dilated_kernel_size=5, groups=4),
        lambda: nn.Dcls3d(4, 4, 3, padding=1, dilated_kernel_size=3),
        lambda: nn.Dcls2_1d(4, 4, 3, padding="same", dense_kernel_size=3, dilated_kernel_size=6),
    ],
    ids=["1d-causal", "3d", "2_1d-even"],
)
def test_every_kind_of_layer(made):
    model = made()
    input = torch.randn(2, 4, *(9, 8, 7)[: model.ndim])
    merged = merge_dcls(model)
    assert merged is not model
    assert isinstance(merged, torch.nn.modules.conv._ConvNd)
    torch.testing.assert_close(merged(input), model(input))


def test_a_layer_under_two_names_becomes_one_convolution():
    one = layer()
    model = torch.nn.ModuleDict({"a": one, "b": torch.nn.Sequential(one)})
    merge_dcls(model)
    assert model["a"] is model["b"][0]
    assert type(model["a"]) is torch.nn.Conv2d


def test_what_stood_around_a_layer_stays(model):
    seen, old = [], model[0]
    handles = [
        old.register_forward_hook(lambda module, inputs, output: seen.append("forward")),
        old.register_forward_pre_hook(lambda module, args, kwargs: seen.append("before"), with_kwargs=True),
        old.register_full_backward_hook(lambda module, inputs, outputs: seen.append("backward")),
    ]
    old.weight.requires_grad_(False)
    model[2].train()
    merge_dcls(model)
    model(X.clone().requires_grad_()).sum().backward()
    assert seen == ["before", "forward", "backward"]
    assert (model[0].training, model[2].training) == (False, True)
    assert model[0].bias is old.bias
    assert not model[0].weight.requires_grad
    assert model[2].weight.requires_grad
    for handle in handles:
        handle.remove()
    seen.clear()
    model(X)
    assert not seen


def test_shared_positions_leave_no_trace():
    model = torch.nn.Sequential(layer(), layer())
    share_positions(model)
    expected = model(X)
    state = merge_dcls(model).state_dict()
    assert list(state) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    fresh = torch.nn.Sequential(*(torch.nn.Conv2d(4, 4, 7, padding=3, groups=4) for _ in range(2)))
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh(X), expected)


def test_then_it_is_a_model_like_any_other(model):
    expected = merge_dcls(model)(X)
    assert [row.name for row in atrous.accelerate(copy.deepcopy(model)).changed] == ["0", "2"]
    program = torch.export.export(model, (X,))
    assert "atrous" not in str(program.graph)
    torch.testing.assert_close(program.module()(X), expected)


def test_what_cannot_be_merged():
    with pytest.raises(UnsupportedModule, match=r"got a Linear without a layer of .*; replace_depthwise makes some"):
        merge_dcls(torch.nn.Linear(1, 1))
    with pytest.raises(UnsupportedModule, match=r"merge_dcls: got a int, expected a torch.nn.Module"):
        merge_dcls(1)
    model = torch.nn.Sequential(parametrizations.weight_norm(layer()))
    with pytest.raises(UnsupportedModule, match=r"merge_dcls: 0: got a layer with a parameter that .*; remove the par"):
        merge_dcls(model)
