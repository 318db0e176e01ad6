"""Modules of low rank: their kernels, what they start from, and the ways from a convolution and back."""

import copy
import io
import math
import re

import pytest
import torch
from torch.nn.utils import parametrizations

from atrous import GeometryError, ShapeError, UnsupportedModule, nn
from atrous.functional import nearest_cp, nearest_separable

OPTIONS = {"stride": (2, 1), "padding": ("same", (2, 0)), "dilation": (1, 2)}


def make_separable(**options):
    return nn.SeparableConv2d(4, 6, (3, 5), 3, **{**OPTIONS, "groups": 2, **options})


def make_cp(**options):
    return nn.CPConv2d(4, 6, (3, 5), 7, **{**OPTIONS, **options})


every_make = pytest.mark.parametrize("make", [make_separable, make_cp])
every_class = pytest.mark.parametrize("cls", [nn.SeparableConv2d, nn.CPConv2d])
X = torch.randn(2, 4, 13, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@every_make
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("bias", [True, False])
def test_merged_it_computes_the_same(make, mode, bias):
    layer = make(bias=bias, padding_mode=mode, dtype=torch.float64).eval()
    merged = layer.merge()
    assert type(merged) is nn.Conv2d
    assert (merged.groups, merged.training, merged.bias is None) == (layer.groups, False, not bias)
    expected = merged(X)
    assert (layer(X) - expected).abs().max() <= 1e-12 * expected.abs().max()
    torch.testing.assert_close(merged.weight, layer.kernel())
    assert merged.weight.requires_grad
    assert not bias or merged.bias is not layer.bias


@every_make
def test_what_is_padded_alike_merges_into_torchs_own(make):
    layer = make(padding="same", stride=1, dtype=torch.float64)
    merged = layer.merge()
    assert type(merged) is torch.nn.Conv2d
    assert merged.padding == (1, 4)
    torch.testing.assert_close(merged(X), layer(X))


@every_class
@pytest.mark.parametrize("conv", [torch.nn.Conv2d, nn.Conv2d], ids=["torch", "atrous"])
def test_from_a_convolution_of_the_same_rank(cls, conv):
    """A kernel that has the rank is kept, with everything that stands around it."""
    options = {"stride": 2, "padding": (1, 4), "dilation": (1, 2), "padding_mode": "reflect", "dtype": torch.float64}
    source = cls(4, 6, (3, 5), 3, **options).merge().eval()
    old = conv(4, 6, (3, 5), **options).eval()
    old.load_state_dict(source.state_dict())
    layer = cls.from_conv(old, 3)
    assert type(layer) is cls
    assert (layer.rank, layer.training, layer.bias.requires_grad) == (3, False, True)
    assert layer.bias is not old.bias
    expected = old(X)
    assert (layer(X) - expected).abs().max() <= 1e-7 * expected.abs().max()
    torch.testing.assert_close(layer.merge()(X), expected)


def test_from_a_convolution_it_has_the_nearest_factors():
    conv = torch.nn.Conv2d(4, 6, 3, groups=2, bias=False)
    layer = nn.SeparableConv2d.from_conv(conv, 2)
    vertical, horizontal, error = nearest_separable(conv.weight, 2, groups=2)
    assert torch.equal(layer.vertical, vertical)
    assert torch.equal(layer.horizontal, horizontal)
    assert (layer.kernel() - conv.weight).norm().item() == pytest.approx(error, rel=1e-5)
    conv = torch.nn.Conv2d(4, 6, 3)
    layer, (factors, _) = nn.CPConv2d.from_conv(conv, 5), nearest_cp(conv.weight, 5)
    for parameter, factor in zip([layer.outputs, layer.inputs, layer.rows, layer.columns], factors, strict=True):
        assert torch.equal(parameter, factor)


def test_depthwise_at_full_rank_is_the_convolution():
    conv = torch.nn.Conv2d(4, 4, (3, 7), padding="same", groups=4, dtype=torch.float64)
    layer = nn.SeparableConv2d.from_conv(conv, 3)
    assert (layer.vertical.shape, layer.horizontal.shape) == ((12, 1, 3, 1), (4, 3, 1, 7))
    assert (layer(X) - conv(X)).abs().max() <= 1e-12


@every_class
def test_from_conv_draws_no_random_numbers(cls):
    conv = torch.nn.Conv2d(3, 3, 3)
    state = torch.get_rng_state()
    cls.from_conv(conv, 2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("rank", [1, 4, 16])
@every_class
def test_kernels_start_as_varied_as_torchs(cls, rank):
    """Over many layers, because the products of one are heavy in the tails."""
    torch.manual_seed(0)
    drawn = torch.stack([cls(8, 8, 3, rank).kernel().detach() for _ in range(200)])
    variance = 1 / (3 * 8 * 9)
    assert drawn.var().item() == pytest.approx(variance, rel=0.1)
    assert abs(drawn.mean().item()) < 0.02 * math.sqrt(variance)
    bound = 1 / math.sqrt(8 * 9)
    bias = torch.cat([cls(8, 8, 3, rank).bias.detach() for _ in range(50)])
    assert 0.95 * bound < bias.abs().max() <= bound


def test_groups_count_in_what_it_starts_from():
    torch.manual_seed(0)
    drawn = nn.SeparableConv2d(4096, 4096, 5, 2, groups=4096).kernel()
    assert drawn.var().item() == pytest.approx(1 / (3 * 25), rel=0.1)


@every_make
def test_state_copies_and_conversions(make):
    layer, other = make(), make()
    other.load_state_dict(layer.state_dict())
    x = X.float()
    expected = layer(x)
    torch.testing.assert_close(other(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(layer)(x), expected, rtol=0, atol=0)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=False)(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(layer.double()(X).float(), expected)
    assert {one.device.type for one in make(device="meta").parameters()} == {"meta"}
    assert {one.dtype for one in make(dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_names_and_shapes_of_parameters():
    shapes = {name: tuple(one.shape) for name, one in make_separable().named_parameters()}
    assert shapes == {"vertical": (6, 2, 3, 1), "horizontal": (6, 3, 1, 5), "bias": (6,)}
    shapes = {name: tuple(one.shape) for name, one in make_cp(bias=False).named_parameters()}
    assert shapes == {"outputs": (6, 7), "inputs": (4, 7), "rows": (3, 7), "columns": (5, 7)}


@every_make
def test_every_parameter_learns(make):
    layer = make()
    layer(X.float()).square().sum().backward()
    assert all(one.grad.abs().sum() > 0 for one in layer.parameters())


@every_make
def test_compile_export_and_autocast(make):
    torch.compiler.reset()
    layer, x = make(), X.float()
    expected = layer(x)
    torch.testing.assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), expected)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@every_make
def test_unbatched(make):
    layer = make(dtype=torch.float64)
    torch.testing.assert_close(layer(X[0]), layer(X)[0])


def test_a_factor_may_be_parametrized():
    layer = make_separable()
    expected = layer(X.float())
    parametrizations.weight_norm(layer, "vertical")
    torch.testing.assert_close(layer(X.float()), expected)
    torch.testing.assert_close(layer.merge()(X.float()), expected)


def test_how_they_print():
    assert str(make_separable(bias=False)) == (
        "SeparableConv2d(4, 6, kernel_size=(3, 5), rank=3, stride=(2, 1), padding=('same', (2, 0)), dilation=(1, 2), "
        "groups=2, bias=False)"
    )
    assert str(nn.CPConv2d(4, 6, 3, 7)) == "CPConv2d(4, 6, kernel_size=(3, 3), rank=7)"
    assert "padding_mode='reflect'" in str(nn.CPConv2d(4, 6, 3, 7, padding_mode="reflect"))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: make_separable(padding="full"), GeometryError, "padding: got 'full'"),
        (lambda: make_cp(stride=0), GeometryError, "stride: got (0, 0), expected integers of at least 1"),
        (
            lambda: nn.SeparableConv2d(4, 6, 3, 0),
            GeometryError,
            "SeparableConv2d: rank: got (0,), expected integers of",
        ),
        (lambda: nn.CPConv2d(4, 6, 3, 0.5), GeometryError, "CPConv2d: rank: got 0.5, expected integers"),
        (
            lambda: nn.CPConv2d.from_conv(torch.nn.Conv1d(4, 6, 3), 2),
            UnsupportedModule,
            "CPConv2d.from_conv: got a Conv1d, expected a torch.nn.Conv2d",
        ),
        (
            lambda: nn.CPConv2d.from_conv(torch.nn.Conv2d(4, 6, 3, groups=2), 2),
            GeometryError,
            "CPConv2d.from_conv: groups: got 2, expected 1; SeparableConv2d takes groups",
        ),
        (
            lambda: nn.SeparableConv2d.from_conv(torch.nn.Conv2d(4, 4, 3, groups=4), 4),
            GeometryError,
            "nearest_separable: rank: got 4 for weight (4, 1, 3, 3) with groups=4, expected at most 3",
        ),
        (lambda: make_cp()(X[:, :3].float()), ShapeError, "cp_conv2d: got 3 input channels, expected 4"),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
