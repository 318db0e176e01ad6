"""What each method promises of a layer (parameters, error, MACs) is what the layer that it builds has."""

import pytest
import torch

from atrous import nn
from atrous.analysis import cost
from atrous.convert.factors import METHODS, method_of, unfit

CONVS = {
    "dense": lambda: torch.nn.Conv2d(8, 12, 3, padding=1),
    "depthwise": lambda: nn.Conv2d(6, 6, (3, 9), padding="same", groups=6),
    "grouped": lambda: torch.nn.Conv2d(8, 12, (5, 3), groups=2, stride=2),
    "pointwise": lambda: torch.nn.Conv2d(8, 12, 1, bias=False),
}
OTHERS = {
    "1d": lambda: torch.nn.Conv1d(6, 8, 9, groups=2),
    "3d": lambda: torch.nn.Conv3d(4, 6, 3, bias=False),
    "linear": lambda: torch.nn.Linear(12, 18),
}
CASES = [("separable", name) for name in CONVS] + [("kronecker", name) for name in (*CONVS, *OTHERS)]
CASES += [("cp", "dense"), ("cp", "pointwise"), ("cp", "linear"), ("separable", "linear")]


@pytest.mark.parametrize(("method", "name"), CASES)
def test_choices_are_what_is_built(method, name):
    layer = {**CONVS, **OTHERS}[name]().double()
    way = method_of(layer, method)
    assert type(layer) in way.eligible
    assert unfit(layer, method) is None
    choices = list(way.choices(layer))
    bias = 0 if layer.bias is None else layer.bias.numel()
    # One in 29 and the last: all of them take long.
    for parameters, error, arguments in [*choices[::29], choices[-1]]:
        built = way.build(layer, *arguments)
        assert sum(one.numel() for one in built.parameters()) == parameters + bias
        norm = (built.kernel() - layer.weight).norm().item()
        assert norm == pytest.approx(error, rel=1e-6, abs=1e-6)


def test_cp_tries_halves_of_the_largest_rank_that_saves():
    conv = torch.nn.Conv2d(8, 12, 3)
    ranks = [arguments for _, _, arguments in METHODS["cp"].choices(conv)]
    assert ranks == [(33,), (16,), (8,), (4,), (2,), (1,)]


def test_kronecker_looks_at_every_shape_that_saves():
    conv = torch.nn.Conv2d(4, 6, 1)
    shapes = {arguments[0][0][:2] for _, _, arguments in METHODS["kronecker"].choices(conv)}
    divisors = {(o, c) for o in (1, 2, 3, 6) for c in (1, 2, 4)}
    assert shapes == {(o, c) for o, c in divisors if 1 < o * c < 24 and o * c + 24 // (o * c) < 24}


@pytest.mark.parametrize("method", ["separable", "cp"])
def test_a_matrix_of_low_rank_is_found(method):
    linear = torch.nn.Linear(12, 18).double()
    with torch.no_grad():
        linear.weight.copy_(torch.randn(18, 2, dtype=torch.float64) @ torch.randn(2, 12, dtype=torch.float64))
    way = method_of(linear, method)
    ((parameters, error, arguments),) = [one for one in way.choices(linear) if one[2][1] == 2]
    built = way.build(linear, *arguments)
    x = torch.randn(5, 12, dtype=torch.float64)
    assert (parameters, way.macs(built)) == (60, 60)
    assert error < 1e-6
    torch.testing.assert_close(built(x), linear(x))


def test_what_is_no_product_has_no_choice():
    assert not [*METHODS["kronecker"].choices(torch.nn.Conv1d(6, 6, 7, groups=6))]


@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize(
    "make",
    [
        ("separable", lambda **options: nn.SeparableConv2d(8, 12, (3, 5), 4, **options)),
        ("separable", lambda **options: nn.SeparableConv2d(8, 8, (3, 5), 2, groups=8, **options)),
        ("cp", lambda **options: nn.CPConv2d(8, 12, (3, 5), 7, **options)),
    ],
    ids=["separable", "depthwise", "cp"],
)
def test_macs_are_those_of_a_call(make, stride):
    """With padding that keeps sizes, and sizes that the stride divides, every map has its share of the pixels."""
    method, build = make
    layer = build(stride=stride, padding="same", bias=False)
    x = torch.zeros(1, 8, 12, 12)
    pixels = layer(x)[0, 0].numel()
    assert METHODS[method].macs(layer) * pixels == cost(layer, x).macs


def test_macs_of_kronecker_factors():
    """By hand: B on the 4 channels of A, then A on the 2 that B made; or A first, on the 3 of B, and B on A's 5."""
    layer = nn.KroneckerConv2d(12, 10, [(5, 4, 1, 1), (2, 3, 3, 3)], rank=2)
    inner, outer = 2 * 3 * 9, 5 * 4
    assert METHODS["kronecker"].macs(layer) == 2 * min(4 * inner + 2 * outer, 3 * outer + 5 * inner)
    layer = nn.KroneckerLinear(12, 10, [(5, 4), (2, 3)], rank=3)
    assert METHODS["kronecker"].macs(layer) == 3 * min(4 * 6 + 2 * 20, 3 * 20 + 5 * 6)


def test_macs_of_kronecker_factors_with_a_stride():
    """Taps of A lie 3 apart, a multiple of the stride: B makes every third pixel alone."""
    layer = nn.KroneckerConv1d(4, 4, [(1, 1, 5), (1, 1, 3)], stride=3, groups=4)
    assert METHODS["kronecker"].macs(layer) == 4 * (3 + 5)


def test_what_a_method_does_not_take():
    assert unfit(torch.nn.Conv3d(2, 2, 3), "separable") == "method 'separable' is for Conv2d and Linear"
    assert unfit(torch.nn.Conv1d(2, 2, 3), "cp") == "method 'cp' is for Conv2d and Linear"
    assert {unfit(torch.nn.Linear(2, 2), method) for method in METHODS} == {None}
    assert unfit(torch.nn.Conv2d(2, 2, 3, groups=2), "cp") == "it has groups; method 'separable' takes such"
    assert {unfit(torch.nn.Conv2d(2, 2, 3), method) for method in METHODS} == {None}
