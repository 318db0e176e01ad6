"""`replace_depthwise` keeps all that a depthwise convolution was, from its output size to its hooks."""

import re

import pytest
import torch
from torch.nn.utils import parametrizations

import atrous
from atrous import GeometryError, UnsupportedModule, nn
from atrous.convert import replace_depthwise

KINDS = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
SPACED = {1: nn.Dcls1d, 2: nn.Dcls2d, 3: nn.Dcls3d}
OURS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

CASES = {
    "1d": (KINDS, 1, 5, {"padding": 2}),
    "1d-dilated": (KINDS, 1, 3, {"dilation": 2, "stride": 2, "bias": False}),
    "1d-causal": (OURS, 1, 4, {"padding": "causal"}),
    "2d-stride": (KINDS, 2, 3, {"padding": 1, "stride": 2}),
    "2d-dilated": (KINDS, 2, 3, {"padding": (2, 0), "dilation": (2, 1)}),
    "2d-even": (KINDS, 2, (2, 4), {"padding": 1}),
    "2d-same": (KINDS, 2, 3, {"padding": "same", "dilation": 2}),
    "2d-same-even": (OURS, 2, 4, {"padding": "same", "stride": 2}),
    "2d-valid": (KINDS, 2, 7, {"padding": "valid"}),
    "2d-pairs": (OURS, 2, 3, {"padding": ((2, 0), (0, 3))}),
    "2d-reflect": (KINDS, 2, 3, {"padding": 1, "padding_mode": "reflect"}),
    "2d-reflect-same": (KINDS, 2, 5, {"padding": "same", "padding_mode": "reflect"}),
    "2d-circular": (KINDS, 2, 3, {"padding": 1, "padding_mode": "circular"}),
    "2d-row": (KINDS, 2, (1, 7), {"padding": (0, 3), "stride": (2, 1)}),
    "2d-multiplied": (KINDS, 2, 3, {"padding": 1, "out_channels": 8}),
    "3d": (KINDS, 3, 3, {"padding": 1, "stride": (1, 2, 1), "dilation": (1, 1, 2)}),
}

every_case = pytest.mark.parametrize("case", CASES)


def convolution(case):
    kinds, ndim, size, options = CASES[case]
    return ndim, kinds[ndim](4, kernel_size=size, groups=4, **{"out_channels": 4, **options})


def depthwise(size=3, **options):
    return torch.nn.Conv2d(4, 4, size, padding="same", groups=4, **options)


def network():
    """Return blocks of two widths: the first width with one block that is dilated."""
    blocks = [depthwise(), depthwise(), depthwise(dilation=2), torch.nn.Conv2d(4, 8, 1)]
    return torch.nn.Sequential(*blocks, torch.nn.Conv2d(8, 8, 3, padding=1, groups=8))


@every_case
@pytest.mark.parametrize("interpolation", ["bilinear", "triangle", "bicubic"])
@pytest.mark.parametrize("window", [7, 8])
def test_keep_leaves_the_output_as_it_was(case, interpolation, window):
    ndim, layer = convolution(case)
    input = torch.randn(2, 4, *(11, 12, 13)[:ndim])
    expected = layer(input)
    model = replace_depthwise(layer, init="keep", dilated_kernel_size=window, interpolation=interpolation).model
    assert type(model) is SPACED[ndim]
    output = model(input)
    assert output.shape == expected.shape
    assert (output - expected).norm() <= 1e-6 * expected.norm()
    output.square().sum().backward()
    for size, gradient in zip(model.dilated_kernel_size, model.P.grad, strict=True):
        assert bool(gradient.any()) == (size > 1)


@every_case
def test_every_input_gives_an_output_of_its_old_size(case):
    ndim, layer = convolution(case)
    model = replace_depthwise(layer, dilated_kernel_size=9, kernel_count=2).model
    for size in range(8, 13):
        input = torch.zeros(1, 4, *[size] * ndim)
        assert model(input).shape == layer(input).shape


def test_words_and_equal_sides_stay_plain():
    def padding(**options):
        return replace_depthwise(nn.Conv2d(4, 4, groups=4, **options)).model.padding

    assert padding(kernel_size=3, padding="same", dilation=4) == "same"
    assert padding(kernel_size=7, padding=3) == (8, 8)
    assert padding(kernel_size=(3, 4), padding="valid") == (7, (6, 7))


def test_spare_elements_weigh_nothing():
    layer = depthwise()
    model = replace_depthwise(layer, init="keep", kernel_count=12).model
    assert model.weight.shape == (4, 1, 12)
    assert torch.equal(model.weight[..., :9], layer.weight.flatten(2))
    assert not model.weight[..., 9:].any()
    assert model.P[..., 9:].unique().numel() == 2 * 4 * 3
    torch.testing.assert_close(model(X), layer(X))


X = torch.randn(2, 4, 12, 13)


@pytest.mark.parametrize("interpolation", ["bilinear", "gaussian"])
@pytest.mark.parametrize("share", ["stage", None])
def test_random_keeps_the_norm_of_every_channel(interpolation, share):
    model = network()
    old = list(model)
    assert len(replace_depthwise(model, interpolation=interpolation, share=share).changed) == 4
    for number in (0, 1, 2, 4):
        assert model[number].weight.shape[-1] == 34
        norms = [kernel.flatten(1).norm(dim=1) for kernel in (old[number].weight, model[number].kernel())]
        torch.testing.assert_close(norms[1], norms[0])


def test_random_keeps_the_deviation_of_the_output():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(32, 32, 7, groups=32, padding=3, bias=False)
    input = torch.randn(4, 32, 40, 40)
    model = replace_depthwise(layer).model
    ratio = model(input).std() / layer(input).std()
    assert 0.95 < ratio < 1.05  # 0.74 without scaling, and the edges cost some


def test_all_that_stands_around_a_layer_stays():
    model, seen = torch.nn.Sequential(depthwise().double(), torch.nn.GELU(), depthwise(bias=False)), []
    old = model[0]
    handles = [
        old.register_forward_hook(lambda module, inputs, output: seen.append("forward")),
        old.register_forward_pre_hook(lambda module, inputs: seen.append("before")),
        old.register_full_backward_hook(lambda module, inputs, outputs: seen.append("backward")),
    ]
    old.weight.requires_grad_(False)
    model[2].eval()
    replace_depthwise(model, share=None)
    assert [type(layer) for layer in model] == [nn.Dcls2d, torch.nn.GELU, nn.Dcls2d]
    assert (model[0].weight.dtype, model[0].P.dtype, model[2].weight.dtype) == (torch.float64, torch.float64, X.dtype)
    assert (model[0].training, model[2].training) == (True, False)
    assert [(name, one.requires_grad) for name, one in model[0].named_parameters()] == [
        ("weight", False),
        ("P", False),
        ("bias", True),
    ]
    assert model[0].bias is old.bias
    assert model[2].bias is None
    model[0](X.double().requires_grad_()).sum().backward()
    assert seen == ["before", "forward", "backward"]
    for handle in handles:
        handle.remove()
    seen.clear()
    model[0](X.double())
    assert not seen


def test_sixteen_bits_and_other_devices():
    layer = replace_depthwise(depthwise(dtype=torch.bfloat16), init="keep").model
    assert (layer.weight.dtype, layer.P.dtype) == (torch.bfloat16, torch.float32)
    layer = replace_depthwise(depthwise(device="meta")).model
    assert {one.device.type for one in layer.parameters()} == {"meta"}


def test_a_module_under_two_names_is_replaced_by_one():
    one = depthwise()
    model = torch.nn.ModuleDict({"a": one, "b": torch.nn.Sequential(one)})
    report = replace_depthwise(model)
    assert [row.name for row in report.changed] == ["a"]
    assert model["a"] is model["b"][0]
    assert type(model["a"]) is nn.Dcls2d


def test_what_shares_positions():
    def shared(**options):
        model = network()
        replace_depthwise(model, **options)
        return [[i for i in (0, 1, 2, 4) if model[i].P is model[j].P] for j in (0, 1, 2, 4)]

    alone = [[0], [1], [2], [4]]
    assert shared() == [[0, 1, 2]] * 3 + [[4]]
    assert shared(init="keep") == [[0, 1], [0, 1], [2], [4]]
    assert shared(share=None) == alone
    by = {"0": "x", "2": "x"}.get
    assert shared(share=by) == [[0, 2], [1], [0, 2], [4]]
    assert shared(share=by, init="keep") == alone


@pytest.mark.parametrize("share", ["stage", lambda name: name == "4" or "rest"])
def test_keep_leaves_a_network_as_it_was(share):
    model = network()
    expected = model(X)
    replace_depthwise(model, init="keep", share=share, kernel_count=10)
    torch.testing.assert_close(model(X), expected)


def test_layers_that_were_there_keep_their_positions():
    model = torch.nn.Sequential(nn.Dcls2d(4, 4, 34, padding="same", dilated_kernel_size=17, groups=4), depthwise())
    before = model[0].P
    replace_depthwise(model)
    assert model[0].P is before
    assert model[1].P is not before


def test_what_is_frozen_shares_with_what_is_frozen():
    model = torch.nn.Sequential(*(depthwise().requires_grad_(number > 1) for number in range(4)))
    replace_depthwise(model)
    first, second = model[0].P, model[2].P
    assert [layer.P is first for layer in model] == [True, True, False, False]
    assert model[3].P is second
    assert (first.requires_grad, second.requires_grad) == (False, True)


class Doubled(torch.nn.Conv2d):
    """A convolution with a forward of its own."""

    def forward(self, input):
        return 2 * super().forward(input)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:Lazy modules")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.nn.Conv2d(4, 4, 3), "it is not depthwise"),
        (lambda: torch.nn.Conv2d(1, 4, 3), "it is not depthwise"),
        (lambda: torch.nn.Conv2d(4, 4, 1, groups=4), "it has one tap"),
        (lambda: torch.nn.ConvTranspose2d(4, 4, 3, groups=4), "it is transposed"),
        (lambda: Doubled(4, 4, 3, groups=4), "its class is .*Doubled, whose forward may be its own"),
        (lambda: torch.nn.LazyConv2d(4, 3, groups=4), "its channels are not known before its first call"),
        (lambda: torch.jit.script(depthwise()), "torch.jit has compiled it"),
        (
            lambda: parametrizations.weight_norm(depthwise()),
            "a parametrization or a hook computes its weight or bias; ",
        ),
        (lambda: torch.nn.utils.weight_norm(depthwise()), "a parametrization or a hook computes its weight or bias; "),
        (lambda: depthwise(dtype=torch.complex64), "its weight is torch.complex64"),
    ],
)
def test_what_is_kept(make, reason):
    model = torch.nn.Sequential(make())
    before = model[0]
    report = replace_depthwise(model)
    assert not report.changed
    assert re.match(reason, report.kept[0].reason)
    assert model[0] is before


def test_the_table():
    model = torch.nn.Sequential(depthwise(), nn.Conv1d(4, 8, 5, groups=4))
    assert str(replace_depthwise(model, dilated_kernel_size=9, kernel_count=3)).split("\n") == [
        "2 of 2 convolutions changed",
        "changed  0  Conv2d(4, 4, 3, padding='same', groups=4)  Dcls2d with 3 elements in 9x9 pixels",
        "changed  1  Conv1d(4, 8, 5, groups=4)                  Dcls1d with 3 elements in 9 pixels",
    ]


def test_what_accelerate_changed_is_replaced():
    model = torch.nn.Sequential(depthwise(7))
    expected = model(X)
    atrous.accelerate(model)
    assert len(replace_depthwise(model, init="keep").changed) == 1
    torch.testing.assert_close(atrous.restore(model)(X), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "zeros"}, r"init: got 'zeros', expected 'random' or 'keep'"),
        (
            {"init": "keep", "interpolation": "gaussian"},
            r"interpolation: got 'gaussian' with init='keep', .*'triangle'",
        ),
        ({"share": "block"}, r"share: got 'block', expected 'stage', a function of a name, or None"),
        ({"share": lambda name: "all"}, r"share_positions: 4: got Dcls2d .* as 0, which has the same key; give them"),
        ({"kernel_count": 0}, r"replace_depthwise: kernel_count: got \(0,\), expected integers of at least 1"),
        ({"interpolation": "cubic"}, r"interpolation: got 'cubic', expected None or one of"),
        (
            {"dilated_kernel_size": 4},
            r"2: dilated_kernel_size: got \(4, 4\) for .* over \(5, 5\) pixels, .*; enlarge it",
        ),
        ({"dilated_kernel_size": (9, 9, 9)}, r"0: dilated_kernel_size: got 3 entries \(9, 9, 9\), expected one or 2"),
        (
            {"init": "keep", "kernel_count": 8},
            r"0: kernel_count: got 8 for a kernel of 9 taps, .*; expected at least 9",
        ),
    ],
)
def test_an_error_leaves_the_model_as_it_was(options, message):
    model = network()
    before = list(model)
    with pytest.raises(GeometryError, match=message):
        replace_depthwise(model, **options)
    assert list(model) == before


def test_what_is_no_module_is_refused():
    with pytest.raises(UnsupportedModule, match=r"replace_depthwise: got a Tensor, expected a torch.nn.Module"):
        replace_depthwise(X)


def test_tied_weights_stay_tied():
    model = torch.nn.Sequential(*(torch.nn.Conv2d(4, 4, 3, padding=1, groups=4) for _ in range(3)))
    model[1].weight = model[0].weight
    report = replace_depthwise(model, init="keep")
    assert [row.name for row in report.changed] == ["2"]
    assert {row.reason for row in report.kept} == {"another module has the same weight, and the two would come apart"}
    assert model[0].weight is model[1].weight
