import copy
import io
import math
import re

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from atrous import GeometryError, ShapeError, UnsupportedModule, functional, nn

TORCH = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}

# name: class, channels, shapes, options, size
LAYERS = {
    "1d": (nn.KroneckerConv1d, (4, 6), [(3, 2, 2), (2, 2, 3)], {"padding": "causal", "dilation": 2}, (19,)),
    "2d": (nn.KroneckerConv2d, (4, 6), [(2, 4, 3, 1), (3, 1, 1, 3)], {"rank": 2, "padding": 1, "stride": 2}, (9, 8)),
    "2d-circular": (nn.KroneckerConv2d, (4, 4), [(2, 4, 3, 3), (2, 1, 1, 1)], {"padding_mode": "circular"}, (8, 8)),
    "2d-depthwise": (nn.KroneckerConv2d, (4, 4), [(1, 1, 3, 3)] * 3, {"padding": "same", "groups": 4}, (20, 20)),
    "2d-even": (nn.KroneckerConv2d, (2, 4), [(2, 1, 2, 2), (2, 2, 2, 2)], {"padding": "same", "bias": False}, (9, 9)),
    "3d": (nn.KroneckerConv3d, (2, 2), [(1, 2, 3, 1, 1), (2, 1, 1, 3, 3)], {"padding": ("causal", 1, 1)}, (5, 6, 7)),
    "linear": (nn.KroneckerLinear, (6, 8), [(2, 3), (4, 2)], {"rank": 2}, ()),
    "linear-bare": (nn.KroneckerLinear, (6, 8), [(2, 3), (2, 1), (2, 2)], {"bias": False}, ()),
}  # fmt: skip
every_layer = pytest.mark.parametrize("name", LAYERS)


def make(name, **more):
    cls, channels, shapes, options, size = LAYERS[name]
    layer = cls(*channels, shapes, **{"dtype": torch.double, **options, **more})
    return layer, torch.randn(3, channels[0], *size, dtype=layer.factors[0].dtype)


@every_layer
def test_it_is_its_merged_layer(name):
    layer, x = make(name)
    merged = layer.merge()
    kind = torch.nn.Linear if name.startswith("linear") else TORCH[len(LAYERS[name][-1])]
    assert isinstance(merged, kind)
    assert (type(merged) is kind) == (name not in ("1d", "2d-even", "3d"))
    torch.testing.assert_close(merged.weight.detach(), layer.kernel().detach())
    torch.testing.assert_close(layer(x), merged(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x[0]), merged(x[0]), rtol=1e-12, atol=1e-12)
    merged.weight.data.zero_()
    assert layer(x).abs().max() > 0


@every_layer
def test_parameters_have_stable_names(name):
    layer, _ = make(name)
    shapes = LAYERS[name][2]
    expected = [f"factors.{place}" for place in range(len(shapes))] + (["bias"] if layer.bias is not None else [])
    assert sorted(layer.state_dict()) == sorted(expected)


@pytest.mark.parametrize("name", ["1d", "2d", "2d-depthwise", "linear"])
def test_life_of_a_module(name):
    torch.compiler.reset()
    layer, x = make(name)
    expected = layer(x)
    torch.testing.assert_close(copy.deepcopy(layer)(x), expected)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), expected)
    auto = torch.export.Dim.AUTO
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: auto},))
    torch.testing.assert_close(program.module()(x[:2]), expected[:2])
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other, _ = make(name)
    assert not torch.equal(other(x), expected)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    torch.testing.assert_close(other(x), expected)


@every_layer
def test_every_parameter_learns(name):
    layer, x = make(name)
    layer(x).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize(
    ("cls", "channels", "shapes"),
    [
        (nn.KroneckerConv2d, (64, 64), [(8, 4, 3, 1), (8, 16, 1, 3)]),
        (nn.KroneckerConv1d, (16, 32), [(4, 4, 3), (4, 2, 2), (2, 2, 2)]),
        (nn.KroneckerLinear, (256, 128), [(16, 16), (8, 16)]),
    ],
)
def test_the_weight_starts_as_torchs(cls, channels, shapes, rank):
    torch.manual_seed(0)
    layer = cls(*channels, shapes, rank)
    squares, means = [], []
    for _ in range(60):
        layer.reset_parameters()
        squares.append(layer.kernel().square().mean().item())
        means.append(layer.kernel().mean().item())
    fan_in = channels[0] * math.prod(math.prod(shape[2:]) for shape in shapes)
    variance = 1 / (3 * fan_in)
    # Entries of a product are not independent: means of 60 draws scatter by some 4 %.
    assert sum(squares) / 60 == pytest.approx(variance, rel=0.15)
    assert abs(sum(means) / 60) < 0.2 * math.sqrt(variance)
    assert 0.9 / math.sqrt(fan_in) < layer.bias.abs().max() <= 1 / math.sqrt(fan_in)


@pytest.mark.parametrize("name", [name for name in LAYERS if not name.startswith("linear")])
def test_from_conv_finds_its_own_merged_layer(name):
    layer, x = make(name)
    layer.eval()
    again = type(layer).from_conv(layer.merge(), layer.shapes, layer.rank)
    assert not again.training
    torch.testing.assert_close(again(x), layer(x), rtol=1e-4, atol=1e-4)
    assert repr(again).split("padding")[0] == repr(layer).split("padding")[0]


def test_from_conv_keeps_all_but_the_weight():
    conv = nn.Conv2d(4, 8, 3, stride=2, padding="same", dilation=2, groups=2, padding_mode="reflect", bias=False)
    layer = nn.KroneckerConv2d.from_conv(conv.double(), [(2, 1, 3, 1), (2, 2, 1, 3)], rank=6)
    x = torch.randn(1, 4, 15, 16, dtype=torch.double)
    torch.testing.assert_close(layer(x), conv(x))
    assert repr(layer) == (
        "KroneckerConv2d(\n"
        "  4, 8, shapes=((2, 1, 3, 1), (2, 2, 1, 3)), rank=6, stride=(2, 2), padding='same', dilation=(2, 2), "
        "groups=2, padding_mode='reflect', bias=False\n"
        f"  (factors): {repr(layer.factors).replace(chr(10), chr(10) + '  ')}\n)"
    )


def test_from_conv_is_the_nearest():
    conv = torch.nn.Conv2d(6, 4, 3)
    _, _, error = functional.nearest_kronecker(conv.weight, (2, 2, 1, 1), 2)
    layer = nn.KroneckerConv2d.from_conv(conv, [(2, 2, 1, 1), (2, 3, 3, 3)], rank=2)
    assert (layer.kernel() - conv.weight).norm().item() == pytest.approx(error, rel=1e-5)
    torch.testing.assert_close(layer.bias, conv.bias)
    layer.bias.data.zero_()
    assert conv.bias.abs().max() > 0


def test_from_linear():
    linear = torch.nn.Linear(6, 8, dtype=torch.double).eval()
    layer = nn.KroneckerLinear.from_linear(linear, [(2, 3), (4, 2)], rank=6)
    x = torch.randn(2, 5, 6, dtype=torch.double)
    torch.testing.assert_close(layer(x), linear(x))
    assert not layer.training
    assert "6, 8, shapes=((2, 3), (4, 2)), rank=6" in repr(layer)
    bare = nn.KroneckerLinear.from_linear(torch.nn.Linear(6, 8, bias=False), [(2, 3), (4, 2)])
    assert bare.bias is None
    assert "rank=1, bias=False" in repr(bare)


def test_a_chosen_shape_makes_a_layer():
    conv = torch.nn.Conv2d(16, 16, 3, padding=1)
    choice = functional.choose_kronecker(conv.weight, parameters=600)
    layer = nn.KroneckerConv2d.from_conv(conv, choice.shapes, choice.rank)
    assert parameters_to_vector(layer.factors).numel() == choice.parameters <= 600
    left = (layer.kernel() - conv.weight).norm() / conv.weight.norm()
    assert left.item() == pytest.approx(choice.error, rel=1e-5)


def test_dtype_and_device():
    layer = nn.KroneckerConv2d(4, 4, [(2, 2, 1, 1), (2, 2, 3, 3)], device="meta", dtype=torch.bfloat16)
    assert {(one.dtype, one.device.type) for one in layer.parameters()} == {(torch.bfloat16, "meta")}


CONV = nn.KroneckerConv2d


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: CONV(4, 4, [(2, 2, 3, 3), (2, 1, 1, 1)]),
            GeometryError,
            "KroneckerConv2d: shapes: got ((2, 2, 3, 3), (2, 1, 1, 1)), whose product is (4, 2, 3, 3), expected "
            "(4, 4, 3, 3), the shape of the weight in one group",
        ),
        (lambda: CONV(4, 4, [(4, 4, 3)]), GeometryError, "KroneckerConv2d: shapes: got 3 entries (4, 4, 3), expected"),
        (lambda: CONV(4, 4, []), GeometryError, "KroneckerConv2d: shapes: got (), whose product is ()"),
        (lambda: CONV(4, 4, [(4, 4, 0, 3)]), GeometryError, "shapes: got (4, 4, 0, 3), expected integers"),
        (lambda: CONV(4, 4, [(4, 4, 3, 3)], rank=0), GeometryError, "rank: got (0,), expected integers of at least 1"),
        (lambda: CONV(4, 4, [(4, 4, 3, 3)], stride=0), GeometryError, "stride: got"),
        (lambda: CONV(4, 4, [(4, 4, 3, 3)])(torch.ones(1, 3, 9, 9)), ShapeError, "kronecker_conv2d: got 3 input"),
        (
            lambda: CONV.from_conv(torch.nn.ConvTranspose2d(4, 4, 3), [(4, 4, 3, 3)]),
            UnsupportedModule,
            "KroneckerConv2d.from_conv: got a ConvTranspose2d, expected a torch.nn.Conv2d",
        ),
        (lambda: nn.KroneckerLinear(4, 4, [(2, 2), (2, 3)]), GeometryError, "whose product is (4, 6), expected (4, 4)"),
        (
            lambda: nn.KroneckerLinear.from_linear(torch.nn.Conv1d(4, 4, 1), [(2, 2), (2, 2)]),
            UnsupportedModule,
            "KroneckerLinear.from_linear: got a Conv1d, expected a torch.nn.Linear",
        ),
    ],
)  # fmt: skip
def test_messages(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_factors_of_a_layer_are_factors_of_the_functional():
    layer = nn.KroneckerConv2d(4, 4, [(2, 2, 1, 1), (2, 2, 3, 3)], rank=2, bias=False)
    x = torch.randn(1, 4, 7, 7)
    torch.testing.assert_close(functional.kronecker_conv2d(x, layer.factors), layer(x))
    torch.testing.assert_close(functional.kronecker_kernel(layer.factors), layer.kernel())
