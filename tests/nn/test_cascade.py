"""A linear `Cascade` is one convolution, at borders too; with activations it is the layers that one would write."""

import copy
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from atrous import GeometryError, ShapeError, UnsupportedModule, nn

OPTIONS = {
    "depthwise": {"kernel_size": 3, "layers": 3, "base": 3},
    "doubling": {"kernel_size": 3, "layers": 3, "base": 2},
    "even": {"kernel_size": 2, "layers": 3, "base": 2},
    "one-layer": {"kernel_size": 5, "layers": 1, "base": 2},
    "anisotropic": {"kernel_size": (3, 2), "layers": 2, "base": (3, 4)},
    "dense": {"kernel_size": 3, "layers": 2, "base": 2, "groups": 1},
    "grouped": {"kernel_size": 3, "layers": 2, "base": 3, "groups": 2, "bias": False},
}
IMAGE = torch.randn(2, 4, 11, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def made(name, **more):
    return nn.Cascade(4, **{**OPTIONS[name], "dtype": torch.float64, **more})


@pytest.mark.parametrize("name", OPTIONS)
def test_a_linear_cascade_is_one_convolution(name):
    cascade = made(name)
    merged = cascade.merge()
    assert isinstance(merged, torch.nn.Conv2d)
    assert cascade(IMAGE).shape == IMAGE.shape
    torch.testing.assert_close(merged(IMAGE), cascade(IMAGE), rtol=1e-12, atol=1e-12)
    assert merged.kernel_size == cascade.geometry.kernel
    assert cascade.geometry.output_size(IMAGE.shape[2:]) == IMAGE.shape[2:]
    torch.testing.assert_close(merged.weight, cascade.kernel())
    symmetric = all(size % 2 for size in merged.kernel_size)
    assert type(merged) is (torch.nn.Conv2d if symmetric else nn.Conv2d)


@pytest.mark.parametrize("name", OPTIONS)
def test_layers_one_by_one(name):
    """The definition: one pad by the whole margin, then convolutions without padding."""
    cascade = made(name)
    height, width = (size - 1 for size in cascade.geometry.kernel)
    expected = F.pad(IMAGE, (width // 2, width - width // 2, height // 2, height - height // 2))
    for index, layer in enumerate(cascade):
        base = np.broadcast_to(OPTIONS[name]["base"], 2)
        dilation = tuple(int(step) ** index for step in base)
        expected = F.conv2d(expected, layer.weight, layer.bias, dilation=dilation, groups=cascade.groups)
    torch.testing.assert_close(cascade(IMAGE), expected)


def test_the_kernel_is_a_kronecker_product():
    cascade = made("depthwise")
    first, second, third = (layer.weight[1, 0].detach().numpy() for layer in cascade)
    np.testing.assert_allclose(cascade.kernel()[1, 0].detach().numpy(), np.kron(third, np.kron(second, first)))
    assert sum(p.numel() for p in cascade.parameters()) == 4 * 27 + 4
    assert cascade.kernel()[0].numel() == 27 * 27


def test_activations_stand_between_the_layers():
    cascade = made("doubling", activation=torch.nn.ReLU, padding="same")
    assert [type(layer).__name__ for layer in cascade] == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Conv2d"]
    assert [name for name, _ in cascade.named_parameters() if "bias" in name] == ["0.bias", "2.bias", "4.bias"]
    expected = IMAGE
    for index, layer in enumerate(cascade[::2]):
        gap = 2**index
        expected = F.conv2d(expected, layer.weight, layer.bias, padding=gap, dilation=gap, groups=4)
        expected = expected.relu() if index < 2 else expected
    torch.testing.assert_close(cascade(IMAGE), expected)
    once = made("doubling", activation=torch.nn.ReLU)
    once.load_state_dict(cascade.state_dict())
    inside = (..., slice(7, -7), slice(7, -7))
    wide = F.pad(IMAGE, (5,) * 4)
    torch.testing.assert_close(once(wide)[inside], cascade(wide)[inside])
    assert not torch.allclose(once(wide), cascade(wide))


def test_padding_every_layer_differs_at_borders_alone():
    once, same = made("doubling"), made("doubling", padding="same")
    same.load_state_dict(once.state_dict())
    wide = F.pad(IMAGE, (5,) * 4)
    inside = (..., slice(7, -7), slice(7, -7))
    torch.testing.assert_close(same(wide)[inside], once(wide)[inside])
    assert not torch.allclose(same(IMAGE), once(IMAGE))
    torch.testing.assert_close(same.kernel(), once.kernel())


def test_a_linear_cascade_starts_as_large_as_one_layer():
    """torch's default leaves a third of the variance of white input, at any depth that is once, not once a layer."""
    torch.manual_seed(0)
    image = torch.randn(1, 64, 96, 96)
    for layers in (1, 2, 4):
        with torch.no_grad():
            variance = nn.Cascade(64, 3, layers, 2, bias=False)(image)[..., 16:-16, 16:-16].var().item()
        assert variance == pytest.approx(1 / 3, rel=0.3)


def test_gradients_reach_every_layer_through_the_kernel():
    cascade = made("doubling")
    direct = torch.autograd.grad(cascade(IMAGE).square().sum(), list(cascade.parameters()))
    merged = F.conv2d(IMAGE, cascade.kernel(), cascade[-1].bias, padding=7, groups=4)
    through = torch.autograd.grad(merged.square().sum(), list(cascade.parameters()))
    torch.testing.assert_close(through, direct)


@pytest.mark.parametrize("activation", [None, torch.nn.GELU])
def test_life_of_a_module(activation):
    torch.compiler.reset()
    cascade = made("doubling", activation=activation)
    expected = cascade(IMAGE)
    torch.testing.assert_close(copy.deepcopy(cascade)(IMAGE), expected)
    again = made("doubling", activation=activation)
    again.load_state_dict(cascade.state_dict())
    torch.testing.assert_close(again(IMAGE), expected)
    torch.testing.assert_close(cascade(IMAGE[0]), expected[0])
    assert cascade(IMAGE[:0]).shape == IMAGE[:0].shape
    torch.testing.assert_close(cascade(IMAGE.mT.contiguous().mT), expected)
    torch.testing.assert_close(torch.compile(cascade, fullgraph=True, backend="aot_eager")(IMAGE), expected)
    program = torch.export.export(cascade, (IMAGE,))
    torch.testing.assert_close(program.module()(IMAGE), expected)
    assert {p.device.type for p in made("doubling", device="meta").parameters()} == {"meta"}
    with torch.autocast("cpu", torch.bfloat16):
        assert cascade.float()(IMAGE.float()).dtype == torch.bfloat16


def test_merged_layers_are_copies_in_the_same_mode():
    cascade = made("one-layer").eval()
    merged = cascade.merge()
    assert not merged.training
    with torch.no_grad():
        for parameter in merged.parameters():
            parameter.zero_()
    assert all(parameter.any() for parameter in cascade.parameters())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"channels": 0}, GeometryError, "Cascade: channels: got (0,), expected integers of at least 1"),
        ({"layers": 0}, GeometryError, "Cascade: layers: got (0,), expected integers of at least 1"),
        ({"base": 0}, GeometryError, "Cascade: base: got (0, 0), expected integers of at least 1"),
        ({"base": 1.5}, GeometryError, "Cascade: base: got 1.5, expected integers"),
        ({"kernel_size": 0}, GeometryError, "kernel size: got (0, 0), expected integers of at least 1"),
        ({"groups": 3}, GeometryError, "Cascade: groups: got 3 for 4 channels, expected a divisor"),
        ({"padding": "valid"}, GeometryError, "Cascade: padding: got 'valid', expected 'once' or 'same'"),
    ],
)
def test_arguments(change, error, message):
    with pytest.raises(error, match=re.escape(message)):
        nn.Cascade(**{"channels": 4, "kernel_size": 3, "layers": 2, "base": 2, **change})


def test_messages():
    with pytest.raises(UnsupportedModule, match="Cascade: kernel: got a cascade with activations, expected a linear"):
        made("doubling", activation=torch.nn.ReLU).kernel()
    with pytest.raises(UnsupportedModule, match="Cascade: kernel: got a cascade with activations, expected a linear"):
        made("doubling", activation=torch.nn.ReLU).merge()
    with pytest.raises(UnsupportedModule, match="Cascade: merge: got padding='same', expected 'once'; what a layer"):
        made("doubling", padding="same").merge()
    with pytest.raises(ShapeError, match="conv2d: got 3 input channels"):
        made("doubling")(torch.zeros(1, 3, 9, 9, dtype=torch.float64))
