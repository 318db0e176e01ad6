"""The budget is kept, its share-out is the best there is, and what stands around the layers stays."""

import copy
import io
import itertools
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import parametrizations

from atrous import GeometryError, UnsupportedModule, nn
from atrous.convert import Compression, FactorisedLayer, Row
from atrous.convert.factorise import _allocate, _Choice, _hull, factorise

METHODS = ("kronecker", "separable", "cp")
every_method = pytest.mark.parametrize("method", METHODS)
X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 7, padding=3, groups=8),
        torch.nn.Conv2d(8, 12, 3, stride=2, bias=False),
        torch.nn.BatchNorm2d(12),
        nn.Conv2d(12, 12, 1),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(12, 10),
    )


def count(model):
    return sum(one.numel() for one in model.parameters())


BUDGETS = [(method, budget) for method in METHODS[:2] for budget in (1.0, 0.9, 0.7, 1300, 10**9)]


@pytest.mark.parametrize(("method", "budget"), [*BUDGETS, ("cp", 1300)])
def test_the_budget_is_kept(method, budget):
    model = network()
    before = count(model)
    report = factorise(model, budget, method=method)
    assert report.model is model
    assert report.parameters == (before, count(model))
    assert count(model) <= (budget * before if isinstance(budget, float) else budget)
    saved = sum(row.parameters[0] - row.parameters[1] for row in report.changed)
    assert saved == before - count(model)
    assert bool(report.changed) == (budget not in (1.0, 10**9))
    assert model(X).shape == (2, 10)


@pytest.mark.parametrize("method", ["kronecker", "separable"])
def test_a_larger_budget_never_loses_more(method):
    errors = [factorise(network(), budget, method=method).error for budget in range(900, 1700, 50)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[-1]


@every_method
def test_errors_are_those_of_the_kernels(method):
    old = network()
    report = factorise(copy.deepcopy(old), 0.7, method=method)
    for row in report.changed:
        weight, layer = old.get_submodule(row.name).weight, report.model.get_submodule(row.name)
        error = (layer.kernel() - weight).norm().item() / weight.norm().item()
        assert row.error == pytest.approx(error, rel=1e-4)
        assert row.parameters == (weight.numel(), sum(one.numel() for one in layer.parameters()) - row_bias(layer))
        assert row.became.startswith(f"{type(layer).__name__} of rank {layer.rank}")
    kept = math.prod(1 - row.error**2 for row in report.changed)
    assert report.error == pytest.approx(math.sqrt(1 - kept))


def row_bias(layer):
    return 0 if layer.bias is None else layer.bias.numel()


def low_rank_network():
    torch.manual_seed(0)
    layers = [
        nn.SeparableConv2d(3, 8, 3, 2, padding=1),
        nn.SeparableConv2d(8, 8, 7, 1, padding=3, groups=8),
        nn.SeparableConv2d(8, 12, 3, 3, stride=2, bias=False),
    ]
    return torch.nn.Sequential(*(layer.merge() for layer in layers))


LOW_RANK = 2 * (9 + 24) + 8 * 14 + 3 * (24 + 36) + 16
"""The parameters that its layers need: ranks times rows and columns, and the biases."""


def test_what_has_a_low_rank_is_found_and_loses_nothing():
    model = low_rank_network()
    expected = model(X)
    report = factorise(model, LOW_RANK, method="separable")
    assert [row.became for row in report.changed] == [f"SeparableConv2d of rank {rank}" for rank in (2, 1, 3)]
    assert report.error < 1e-6
    torch.testing.assert_close(model(X), expected)


def test_what_is_a_kronecker_product_is_found():
    layer = nn.KroneckerConv2d(8, 12, [(3, 2, 1, 1), (4, 4, 3, 3)], padding="same")
    conv, x = layer.merge(), torch.randn(2, 8, 9, 9)
    report = factorise(copy.deepcopy(conv), count(layer), method="kronecker")
    assert report.changed[0].became == "KroneckerConv2d of rank 1, (3, 2, 1, 1) x (4, 4, 3, 3)"
    torch.testing.assert_close(report.model(x), conv(x))
    dense = torch.nn.Linear(16, 12)
    dense.weight = torch.nn.Parameter(torch.kron(torch.randn(3, 4), torch.randn(4, 4)))
    report = factorise(copy.deepcopy(dense), 40)
    assert type(report.model) is nn.KroneckerLinear
    torch.testing.assert_close(report.model(x[0, 0, 0, :1].expand(3, 16)), dense(x[0, 0, 0, :1].expand(3, 16)))


curves = st.lists(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0, 5)), max_size=5).map(
        lambda points: [_Choice(31, 0.0), *(_Choice(*point, (n,)) for n, point in enumerate(points, 1))]
    ),
    min_size=1,
    max_size=3,
)


@settings(deadline=None, max_examples=100)
@given(curves, st.integers(0, 90))
def test_what_is_chosen_is_within_one_step_of_the_best(curves, surplus):
    """Against all combinations: it saves enough, or the most there is, and at most its last step was too much."""
    chosen = _allocate(curves, surplus)
    saved, loss = sum(31 - one.parameters for one in chosen), sum(one.loss for one in chosen)
    every = [
        (sum(31 - one.parameters for one in some), sum(one.loss for one in some)) for some in itertools.product(*curves)
    ]
    enough = min(surplus, max(saving for saving, _ in every))
    assert saved >= enough
    steps = [after.loss - before.loss for curve in curves for before, after in itertools.pairwise(_hull(curve))]
    best = min(lost for saving, lost in every if saving >= enough)
    assert best - 1e-9 <= loss <= best + max(steps, default=0.0) + 1e-9


@settings(deadline=None, max_examples=100)
@given(curves.map(lambda some: some[0]))
def test_the_hull_lies_below_its_curve(curve):
    hull = _hull(curve)
    assert hull[0] is curve[0]
    prices = [(b.loss - a.loss) / (a.parameters - b.parameters) for a, b in itertools.pairwise(hull)]
    assert prices == sorted(prices)
    assert hull[-1].parameters == min(one.parameters for one in curve)
    for one in curve[1:]:
        for a, b in itertools.pairwise(hull):
            if a.parameters >= one.parameters >= b.parameters:
                share = (a.parameters - one.parameters) / (a.parameters - b.parameters)
                assert one.loss >= a.loss + share * (b.loss - a.loss) - 1e-9


def test_the_last_step_goes_no_further_than_it_has_to():
    curve = [_Choice(31, 0.0), _Choice(20, 1.0, (2,)), _Choice(10, 1.2, (1,))]
    assert _hull(curve) == [curve[0], curve[2]]
    assert [_allocate([curve], surplus)[0].parameters for surplus in (0, 1, 11, 12, 99)] == [31, 20, 20, 10, 10]


def test_no_layer_is_given_up_for_the_others():
    """One large layer of full rank, many small ones: all of them give."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 5), *(torch.nn.Conv2d(8, 8, 3) for _ in range(4)))
    report = factorise(model, 0.2, method="separable")
    assert len(report.changed) == 5
    assert max(row.error for row in report.changed) < 0.99


def test_names_that_are_kept():
    def kept(keep):
        report = factorise(network(), 0.8, method="separable", keep=keep)
        return {row.name for row in report.kept if row.reason == "it is in `keep`"}

    assert kept(()) == set()
    assert kept(["3", "8"]) == {"3", "8"}
    assert kept(lambda name: name in ("0", "5")) == {"0", "5"}
    inner = torch.nn.Sequential(network(), torch.nn.Conv2d(16, 16, 5))
    report = factorise(inner, 0.8, method="separable", keep=["0"])
    assert [row.name for row in report.changed] == ["1"]


def test_a_module_of_two_names_is_changed_once_and_kept_by_either():
    one = torch.nn.Conv2d(8, 8, 3)
    model = torch.nn.ModuleDict({"a": one, "b": torch.nn.Sequential(one)})
    kept = factorise(copy.deepcopy(model), 1.0, method="separable", keep=["b.0"]).kept
    assert [(row.name, row.reason) for row in kept] == [("a", "it is in `keep`")]
    assert [row.name for row in factorise(model, 0.5, method="separable").changed] == ["a"]
    assert type(model["a"]) is nn.SeparableConv2d
    assert model["a"] is model["b"][0]


@every_method
def test_what_stands_around_a_layer_stays(method):
    seen = []
    old = torch.nn.Conv2d(8, 8, 3, stride=2, padding=2, dilation=2, padding_mode="reflect", dtype=torch.float64)
    model = torch.nn.Sequential(old, torch.nn.Conv2d(8, 8, 3, bias=False).double().eval())
    handle = old.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    old.weight.requires_grad_(False)
    bias = old.bias
    factorise(model, 0.4, method=method)
    new = model[0]
    assert new is not old
    assert (new.stride, new.padding, new.dilation, new.padding_mode) == ((2, 2), (2, 2), (2, 2), "reflect")
    assert new.bias is bias
    assert {name: one.requires_grad for name, one in new.named_parameters()}.pop("bias")
    assert not any(one.requires_grad for name, one in new.named_parameters() if name != "bias")
    assert all(one.requires_grad for one in model[1].parameters())
    assert (new.training, model[1].training, model[1].bias) == (True, False, None)
    model(torch.randn(1, 8, 12, 12, dtype=torch.float64))
    assert seen == [(1, 8, 6, 6)]
    handle.remove()


@every_method
def test_copies_files_and_training(method):
    model = factorise(network(), 0.6, method=method).model
    expected = model.eval()(X)
    torch.testing.assert_close(copy.deepcopy(model)(X), expected, rtol=0, atol=0)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=False)(X), expected, rtol=0, atol=0)
    again = factorise(network(), 0.6, method=method).model.eval()
    assert list(again.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(again(X), expected, rtol=0, atol=0)
    model.train()(X).square().sum().backward()
    assert all(one.grad is not None for one in model.parameters())


def test_nearly_the_same_network_where_a_low_rank_says_nearly_all():
    model = low_rank_network()
    with torch.no_grad():
        for layer in model:
            layer.weight += 0.01 * layer.weight.std() * torch.randn_like(layer.weight)
    expected = model(X)
    report = factorise(model, LOW_RANK, method="separable")
    assert len(report.changed) == 3
    assert 0.001 < report.error < 0.02
    assert (model(X) - expected).norm() < 0.02 * expected.norm()


class Doubled(torch.nn.Conv2d):
    """A convolution with a forward of its own."""

    def forward(self, input):
        return 2 * super().forward(input)


def broken():
    layer = torch.nn.Conv2d(8, 8, 3)
    layer.weight.data[0, 0, 0, 0] = math.nan
    return layer


@pytest.mark.parametrize(
    ("make", "method", "reason"),
    [
        (lambda: torch.nn.Conv2d(8, 8, 3), "cp", "it fits the budget as it is"),
        (lambda: torch.nn.Conv2d(1, 1, 1), "separable", "no factors of it have fewer parameters"),
        (lambda: torch.nn.Conv1d(6, 6, 7, groups=6), "kronecker", "no factors of it have fewer parameters"),
        (lambda: torch.nn.Conv1d(8, 8, 3), "cp", "method 'cp' is for Conv2d"),
        (lambda: torch.nn.Conv2d(8, 8, 3, groups=2), "cp", "it has groups; method 'separable' takes such"),
        (lambda: torch.nn.ConvTranspose2d(8, 8, 3), "separable", "it is transposed"),
        (lambda: Doubled(8, 8, 3), "separable", r"its class is .*Doubled, whose forward may be its own"),
        (lambda: parametrizations.weight_norm(torch.nn.Linear(8, 8)), "kronecker", "a parametrization or a hook"),
        (lambda: torch.nn.Conv2d(8, 8, 3, device="meta"), "separable", "its weight has no values, or some that are"),
        (broken, "separable", "its weight has no values, or some that are not finite"),
        (lambda: nn.CPConv2d(8, 8, 3, 2), "cp", r"its class is .*CPConv2d, whose forward"),
    ],
)
def test_what_is_kept(make, method, reason):
    model = torch.nn.Sequential(make())
    before = model[0]
    report = factorise(model, 1.0, method=method)
    assert not report.changed
    assert re.match(reason, report.kept[0].reason)
    assert model[0] is before


def test_tied_weights_stay_tied():
    model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
    model[1].weight = model[0].weight
    report = factorise(model, 0.8)
    assert [row.name for row in report.changed] == ["2"]
    assert {row.reason for row in report.kept} == {"another module has the same weight, and the two would come apart"}


def test_a_transformer_still_runs_in_evaluation():
    encoder = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = torch.nn.Sequential(encoder, torch.nn.Linear(16, 16)).eval()
    report = factorise(model, 0.97)
    assert [row.name for row in report.changed] == ["1"]
    reasons = {row.name: row.reason for row in report.kept}
    assert reasons["0.linear1"] == "its TransformerEncoderLayer reads its weight itself"
    assert model(torch.zeros(1, 4, 16)).shape == (1, 4, 16)


REPORT = Compression(
    torch.nn.Identity(),
    (200, 80),
    (FactorisedLayer("", "Conv2d(8, 8, 3)", "CPConv2d of rank 2", (180, 60), (180, 70), 0.6),),
    (Row("head", "Linear(8, 2)", "it is in `keep`"),),
)


def test_it_prints_as_a_table_and_is_plain_data():
    assert str(REPORT).split("\n") == [
        "200 parameters became 80, 40.0%; error 60.0%",
        "layer        was              is                     parameters  MACs       error",
        "(the model)  Conv2d(8, 8, 3)  CPConv2d of rank 2     180 -> 60   180 -> 70  60.0%",
        "head         Linear(8, 2)     kept: it is in `keep`",
    ]
    assert "Identity" not in repr(REPORT)
    data = REPORT.to_dict()
    assert data["parameters"] == [200, 80]
    assert data["error"] == pytest.approx(0.6)
    assert data["changed"][0]["macs"] == (180, 70)
    assert data["kept"] == [{"name": "head", "what": "Linear(8, 2)", "reason": "it is in `keep`"}]
    assert str(factorise(torch.nn.ReLU(), 1.0)).startswith("0 parameters became 0, 0.0%; error 0.0%")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0}, "factorise: budget: got 0, expected a float above 0 and up to 1.0, the share of the 1798 par"),
        ({"budget": 1.5}, "factorise: budget: got 1.5, expected a float above 0 and up to 1.0"),
        ({"budget": True}, "factorise: budget: got True, expected a float"),
        ({"budget": "half"}, "factorise: budget: got 'half', expected a float"),
        ({"budget": 0.01}, "factorise: budget: got 0.01, 17 of 1798 parameters, expected at least 313"),
        ({"method": "svd"}, "factorise: method: got 'svd', expected one of ('kronecker', 'separable', 'cp')"),
        ({"keep": ["head"]}, "factorise: keep: got ['head'], expected names of modules of the model"),
    ],
)
def test_an_error_leaves_the_model_as_it_was(arguments, message):
    model = network()
    before = list(model)
    with pytest.raises(GeometryError, match=re.escape(message)):
        factorise(model, **{"budget": 0.5, "method": "separable", **arguments})
    assert list(model) == before


def test_the_fewest_parameters_of_the_message_are_enough():
    with pytest.raises(GeometryError, match=r"expected at least (\d+), the fewest that method") as caught:
        factorise(network(), 1, method="separable")
    fewest = int(re.search(r"at least (\d+)", str(caught.value))[1])
    assert count(factorise(network(), fewest, method="separable").model) == fewest


def test_what_is_no_module_is_refused():
    with pytest.raises(UnsupportedModule, match=r"factorise: got a Tensor, expected a torch.nn.Module"):
        factorise(X, 0.5)


@pytest.mark.parametrize("method", ["kronecker", "separable", "cp"])
def test_a_weight_of_zeros_stays_because_its_factors_would_never_learn(method):
    model = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3, padding=1))
    torch.nn.init.zeros_(model[1].weight)
    report = factorise(model, 0.8, method=method)
    assert [row.name for row in report.changed] == ["0"]
    assert report.kept[0].reason == "its weight is 0, and products of zeros never learn"


def test_a_function_keeps_what_is_inside_too():
    model = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(30, 30)), torch.nn.Linear(30, 30))
    report = factorise(model, 0.9, keep=lambda name: name == "0")
    assert [row.name for row in report.changed] == ["1"]


def test_a_lazy_layer_is_named():
    model = torch.nn.Sequential(torch.nn.LazyConv2d(3, 3), torch.nn.Linear(30, 30))
    with pytest.raises(UnsupportedModule, match="factorise: got a LazyConv2d, whose channels are not known before"):
        factorise(model, 0.5)
