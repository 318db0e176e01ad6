"""A convolution as one matrix product: right in every geometry, and only where nothing is recorded."""

import sys

import pytest
import torch

from atrous import Geometry, functional
from atrous._backends import reference
from atrous._backends.aten import columns
from atrous.testing import assert_within_budget

CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}

# Input, weight, options.
CASES = {
    "patches": ((2, 64, 6, 9), (5, 64, 2, 3), {"stride": (2, 3)}),
    "strided": ((3, 70, 9, 8), (4, 70, 3, 2), {"stride": 2, "padding": (1, 0)}),
    "dilated": ((2, 64, 11, 9), (64, 64, 3, 3), {"dilation": (3, 2), "padding": "same"}),
    "asymmetric": ((1, 64, 7, 6), (3, 64, 2, 4), {"dilation": 2, "padding": ((0, 3), "causal")}),
    "points": ((2, 64, 5, 4), (7, 64, 1, 1), {"stride": 3}),
    "no sample": ((0, 64, 5, 4), (7, 64, 3, 3), {"stride": 2}),
    "signal": ((3, 65, 40), (6, 65, 5), {"dilation": 7, "padding": "causal"}),
    "volume": ((2, 64, 5, 4, 6), (8, 64, 3, 2, 3), {"stride": (1, 2, 1), "padding": 1}),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture(autouse=True)
def processor_with_bfloat16(monkeypatch):
    monkeypatch.setattr(columns, "_FAST_IN_BFLOAT16", True)


def tensors(case, last=False):
    input, weight, _ = case
    made = torch.randn(input).bfloat16(), torch.randn(weight).bfloat16(), torch.randn(weight[0]).bfloat16()
    if last:
        return made[0].movedim(1, -1).contiguous().movedim(-1, 1), *made[1:]
    return made


def geometry_of(case):
    _, weight, options = case
    return Geometry.resolve(weight[2:], **options, ndim=len(weight) - 2)


@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("most", [1, 3000, 2**22])
@every_case
def test_is_the_reference(case, most, biased, monkeypatch):
    monkeypatch.setattr(columns, "_MOST_ELEMENTS", most)
    input, weight, bias = tensors(case)
    bias = bias if biased else None
    geometry = geometry_of(case)
    result = columns.conv_by_columns(input, weight, bias, geometry)
    wide = input.double(), weight.double(), None if bias is None else bias.double()
    rounded = reference.conv(input, weight, bias, geometry, 1)
    assert_within_budget(result, rounded, reference.conv(*wide, geometry, 1))
    assert result.dtype == torch.bfloat16


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "last"])
@every_case
def test_keeps_the_layout(case, last):
    input, weight, bias = tensors(case, last)
    result = columns.conv_by_columns(input, weight, bias, geometry_of(case))
    assert (result.movedim(1, -1) if last else result).is_contiguous()


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
def test_serves_what_is_not_recorded(autocast, monkeypatch):
    calls = []
    run = columns.conv_by_columns
    monkeypatch.setattr(
        sys.modules["atrous._backends.aten.conv"], "conv_by_columns", lambda *args: calls.append(1) or run(*args)
    )
    input, weight, bias = tensors(CASES["dilated"])
    if autocast:
        input, weight, bias = input.float(), weight.float(), bias.float()
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        with torch.no_grad():
            quick = functional.conv2d(input, weight, bias, **CASES["dilated"][2])
        assert len(calls) == 1
        slow = functional.conv2d(input, weight, bias, **CASES["dilated"][2])
    assert len(calls) == 1
    assert slow.requires_grad
    assert quick.dtype == slow.dtype == torch.bfloat16
    assert_within_budget(quick, slow.detach(), slow.detach().double())


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("few channels", lambda x, w: (x[:, :63], w[:, :63], 1)),
        ("groups", lambda x, w: (torch.cat([x, x], 1), w, 2)),
        ("float16", lambda x, w: (x.half(), w.half(), 1)),
        ("a subclass", lambda x, w: (x.as_subclass(type("Tagged", (torch.Tensor,), {})), w, 1)),
    ],
)
def test_leaves_the_rest_alone(what, change):
    input, weight, _ = tensors(CASES["strided"])
    assert columns.prefers_columns(input, weight, None, 1)
    *changed, groups = change(input, weight)
    assert not columns.prefers_columns(*changed, None, groups), what


def test_transforms_take_the_differentiable_way():
    input, weight, _ = tensors(CASES["strided"])
    taken = []

    def seen(x):
        taken.append(columns.prefers_columns(x, weight, None, 1))
        return x.sum()

    torch.func.grad(seen)(input)
    assert taken == [False]
