"""`atrous.accelerate` changes what runs and nothing else; `atrous.restore` leaves no trace of it."""

import copy
import pickle
import re

import pytest
import torch
from torch.nn.utils import parametrizations, parametrize, prune

import atrous
from atrous import UnsupportedModule

OURS = "atrous.nn.conv"
X = torch.randn(2, 8, 12, 13)


class Separable(torch.nn.Module):
    """Depthwise between pointwise convolutions, with norms and a shortcut, as mobile networks have them."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(8, 16, 1, bias=False)
        self.blocks = torch.nn.ModuleList(self.block(stride) for stride in (1, 2))
        self.head = torch.nn.Linear(16, 5)

    def block(self, stride):
        return torch.nn.Sequential(
            torch.nn.Conv2d(16, 16, 3, stride, padding=2, dilation=2, groups=16, bias=False),
            torch.nn.BatchNorm2d(16),
            torch.nn.ReLU(inplace=True),
            torch.nn.Conv2d(16, 16, 1),
        )

    def forward(self, input):
        first, second = self.blocks
        features = self.stem(input)
        return self.head(second(features + first(features)).mean((2, 3)))


def depthwise(size=3):
    return torch.nn.Conv2d(8, 8, size, padding=1, groups=8)


def outcome(model, *inputs):
    """Return the output and every gradient of a call."""
    inputs = [input.clone().requires_grad_() for input in inputs]
    output = model(*inputs)
    leaves = [*inputs, *(parameter for parameter in model.parameters() if parameter.requires_grad)]
    return [output, *torch.autograd.grad(output.square().mean(), leaves)]


def runs_on_taps(model, *inputs):
    return bool(re.search(r"runs on [^,]*'cpu'", atrous.explain(model, *inputs)))


def state(model):
    """Return all that a module holds and what it is, of every module."""
    return [(name, type(module), sorted(vars(module))) for name, module in model.named_modules()]


CONVOLUTIONS = {
    "1d": (torch.nn.Conv1d, (4, 4, 3), {"padding": 4, "dilation": 4, "groups": 4}, (30,)),
    "2d": (torch.nn.Conv2d, (4, 4, 3), {"padding": 1, "groups": 4}, (9, 10)),
    "2d-groups": (torch.nn.Conv2d, (8, 8, 3), {"dilation": 2, "groups": 2, "bias": False}, (9, 10)),
    "2d-stride": (torch.nn.Conv2d, (4, 4, (3, 5)), {"padding": (1, 0), "stride": (2, 1), "groups": 4}, (9, 10)),
    "2d-same": (torch.nn.Conv2d, (4, 4, (2, 5)), {"padding": "same", "dilation": (3, 1), "groups": 4}, (9, 10)),
    "2d-valid": (torch.nn.Conv2d, (4, 4, 3), {"padding": "valid", "padding_mode": "reflect", "groups": 4}, (9, 10)),
    **{
        f"2d-{mode}-{padding}": (
            torch.nn.Conv2d,
            (4, 4, (4, 3)),
            {"padding": padding, "padding_mode": mode, "groups": 4},
            (9, 10),
        )
        for mode in ("reflect", "replicate", "circular")
        for padding in ("same", (3, 1))
    },
    "3d": (torch.nn.Conv3d, (3, 3, 3), {"padding": 1, "groups": 3}, (5, 6, 7)),
    "transposed-1d": (torch.nn.ConvTranspose1d, (4, 4, 3), {"padding": 2, "dilation": 4, "groups": 4}, (30,)),
    "transposed-2d": (torch.nn.ConvTranspose2d, (4, 4, 4), {"padding": 1, "stride": 2, "groups": 4}, (9, 10)),
    "transposed-3d": (torch.nn.ConvTranspose3d, (4, 3, 3), {"stride": 2, "output_padding": 1}, (4, 5, 6)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(("kind", "shape", "options", "size"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_a_convolution_computes_the_same(kind, shape, options, size):
    layer = kind(*shape, **options)
    input = torch.randn(2, shape[0], *size)
    expected = outcome(layer, input)
    before = state(layer)
    report = atrous.accelerate(layer)
    assert report.model is layer
    assert [row.name for row in report.changed] == [""]
    assert runs_on_taps(layer, input)
    torch.testing.assert_close(outcome(layer, input), expected)
    assert atrous.restore(layer) is layer
    assert state(layer) == before
    assert all(map(torch.equal, outcome(layer, input), expected))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Separable().eval()


def test_a_network(model):
    expected, before, keys = outcome(model, X), state(model), list(model.state_dict())
    parameters = {name: id(parameter) for name, parameter in model.named_parameters()}
    report = atrous.accelerate(model)
    assert [row.name for row in report.changed] == ["blocks.0.0", "blocks.1.0"]
    assert [row.name for row in report.kept] == ["stem", "blocks.0.3", "blocks.1.3"]
    assert {type(block[0]).__module__ for block in model.blocks} == {OURS}
    assert [name for name, _, _ in state(model)] == [name for name, _, _ in before]
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == parameters
    assert list(model.state_dict()) == keys
    torch.testing.assert_close(outcome(model, X), expected)
    assert state(atrous.restore(model)) == before


def test_a_state_dict_goes_both_ways(model):
    other = Separable().eval()
    atrous.accelerate(other).model.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(X), model(X))
    again = Separable().eval()
    again.load_state_dict(other.state_dict())
    torch.testing.assert_close(again(X), model(X))


def test_the_table():
    model = torch.nn.Sequential(depthwise(7), torch.nn.Conv2d(8, 3, (1, 3), padding=(0, 1), bias=False))
    model.append(torch.nn.Conv2d(128, 128, 3))
    report = atrous.accelerate(model)
    assert str(report).split("\n") == [
        "2 of 3 convolutions changed",
        "changed  0  Conv2d(8, 8, 7, padding=1, groups=8)  taps are faster for depthwise images (8x96x56-k7-d4)",
        "changed  1  Conv2d(8, 3, (1, 3), padding=(0, 1))  taps are faster for groups of up to 8 channels "
        "(4to4-4x96x56-k3-d1)",
        "kept     2  Conv2d(128, 128, 3)                   no row of the table says otherwise",
    ]
    assert report.to_dict()["kept"] == [
        {"name": "2", "what": "Conv2d(128, 128, 3)", "reason": "no row of the table says otherwise"}
    ]
    assert "Sequential" not in repr(report)
    assert str(atrous.accelerate(torch.nn.Linear(1, 1))) == "0 of 0 convolutions changed"


def test_once_is_enough(model):
    before = state(model)
    atrous.accelerate(model)
    report = atrous.accelerate(model)
    assert not report.changed
    assert report.kept[1].reason == "it is a module of atrous already"
    assert state(atrous.restore(model)) == before


def test_a_copy(model):
    before = state(model)
    parametrizations.weight_norm(model.blocks[0][0])
    report = atrous.accelerate(model, inplace=False)
    assert state(report.model) != before
    assert type(model.blocks[1][0]) is torch.nn.Conv2d
    assert parametrize.type_before_parametrizations(model.blocks[0][0]) is torch.nn.Conv2d
    torch.testing.assert_close(report.model(X), model(X))
    assert report.model.stem.weight is not model.stem.weight


def test_what_was_written_as_ours_is_not_restored():
    model = torch.nn.Sequential(atrous.nn.Conv2d(8, 8, 3, padding=((2, 0), 1), groups=8), depthwise())
    report = atrous.accelerate(model)
    assert [row.name for row in report.changed] == ["1"]
    atrous.restore(model)
    assert [type(layer) for layer in model] == [atrous.nn.Conv2d, torch.nn.Conv2d]


def test_hooks_and_flags_stay(model):
    seen = []
    layer = model.blocks[0][0]
    layer.register_forward_hook(lambda module, inputs, output: seen.append(module))
    layer.weight.requires_grad_(False)
    model.train()
    model.blocks[1].eval()
    atrous.accelerate(model)
    outcome(model, X)
    assert seen == [layer]
    assert not layer.weight.requires_grad
    assert (model.training, layer.training, model.blocks[1][0].training) == (True, True, False)


def test_a_module_that_stands_twice():
    layer = depthwise()
    model = torch.nn.Sequential(layer, torch.nn.ReLU(), layer)
    expected = model(X)
    report = atrous.accelerate(model)
    assert [row.name for row in report.changed] == ["0"]
    assert model[0] is model[2] is layer
    torch.testing.assert_close(model(X), expected)


class Doubled(torch.nn.Conv2d):
    """A convolution with a forward of its own."""

    def forward(self, input):
        return 2 * super().forward(input)


def replaced():
    layer = depthwise()
    forward = layer.forward
    layer.forward = lambda x: 2 * forward(x)
    return layer


def quantised():
    return torch.ao.nn.quantized.Conv2d(8, 8, 3, groups=8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Lazy modules", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Doubled(8, 8, 3, groups=8), "its class is .*.Doubled, whose forward may be its own"),
        (lambda: parametrizations.weight_norm(Doubled(8, 8, 3, groups=8)), "its class is .*.Doubled, whose"),
        (replaced, "its forward was replaced"),
        (lambda: torch.nn.LazyConv2d(8, 3, groups=8), "its channels are not known before its first call"),
        (lambda: torch.jit.script(depthwise()), "torch.jit has compiled it"),
        (lambda: torch.jit.trace(depthwise(), X), "torch.jit has compiled it"),
        (lambda: torch.nn.ConvTranspose2d(8, 8, 2), "torch is faster for transposed conv"),
        (quantised, "its class is torch.ao.nn.quantized.modules.conv.Conv2d, whose"),
    ],
)
def test_what_is_kept(make, reason):
    module = make()
    kind = type(module)
    report = atrous.accelerate(torch.nn.Sequential(module))
    assert not report.changed
    (row,) = report.kept
    assert row.name == "0"
    assert re.match(r"(Lazy)?Conv(Transpose)?2d\(|Doubled\(", row.what)
    assert re.match(reason, row.reason)
    assert type(module) is kind


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_lazy_module_that_ran():
    layer = torch.nn.LazyConv2d(8, 3, groups=8)
    layer(X)
    assert len(atrous.accelerate(layer).changed) == 1


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrizations(norm):
    layer = norm(depthwise())
    before, state = type(layer).__name__, copy.deepcopy(layer.state_dict())
    expected = outcome(copy.deepcopy(layer).eval(), X)
    assert len(atrous.accelerate(layer).changed) == 1
    assert isinstance(layer.eval(), atrous.nn.Conv2d)
    assert (type(layer).__name__, list(layer.state_dict())) == (before, list(state))
    assert all(torch.equal(one, state[name]) for name, one in layer.state_dict().items())
    torch.testing.assert_close(outcome(layer, X), expected)
    torch.testing.assert_close(copy.deepcopy(layer)(X), expected[0])
    atrous.restore(layer)
    assert not isinstance(layer, atrous.nn.Conv2d)
    torch.testing.assert_close(outcome(layer, X), expected)
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is torch.nn.Conv2d


def test_parametrizations_come_and_go_meanwhile():
    layer = parametrizations.weight_norm(depthwise())
    atrous.accelerate(layer)
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is atrous.nn.Conv2d
    parametrizations.weight_norm(layer)
    expected = layer(X)
    atrous.restore(layer)
    assert parametrize.type_before_parametrizations(layer) is torch.nn.Conv2d
    torch.testing.assert_close(layer(X), expected)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "norm",
    [
        torch.nn.utils.weight_norm,
        torch.nn.utils.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
    ids=["weight_norm", "spectral_norm", "prune"],
)
def test_weights_made_by_hooks(norm):
    layer = norm(depthwise())
    layer(X)  # the spectral norm is found call by call
    layer.eval()
    expected = outcome(layer, X)
    assert len(atrous.accelerate(layer).changed) == 1
    torch.testing.assert_close(outcome(layer, X), expected)


def test_copies_and_pickles(model):
    expected = atrous.accelerate(model).model(X)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other.blocks[0][0]) is atrous.nn.Conv2d
        torch.testing.assert_close(other(X), expected)
        assert type(atrous.restore(other).blocks[0][0]) is torch.nn.Conv2d


CONVERSIONS = {
    "float64": {"dtype": torch.float64},
    "bfloat16": {"dtype": torch.bfloat16},
    "channels_last": {"memory_format": torch.channels_last},
}


@pytest.mark.parametrize("conversion", CONVERSIONS.values(), ids=CONVERSIONS)
@pytest.mark.parametrize("first", [True, False])
def test_conversions_before_and_after(model, conversion, first):
    expected = copy.deepcopy(model).to(**conversion)(X.to(**conversion))
    if first:
        model.to(**conversion)
    atrous.accelerate(model)
    model.to(**conversion)
    result = model(X.to(**conversion))
    assert runs_on_taps(model, X.to(**conversion))
    close = {"rtol": 2e-2, "atol": 2e-2} if result.dtype == torch.bfloat16 else {}
    torch.testing.assert_close(result, expected, **close)
    assert len(atrous.accelerate(atrous.restore(model.float())).changed) == 2


def test_autocast(model):
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(X)
        atrous.accelerate(model)
        result = model(X)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("first", [True, False])
def test_compile(model, first):
    torch.compiler.reset()
    expected = outcome(model, X)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    if not first:
        compiled(X)
    report = atrous.accelerate(compiled if first else model)
    assert len(report.changed) == 2
    torch.testing.assert_close(outcome(compiled, X), expected)
    atrous.restore(compiled)
    torch.testing.assert_close(outcome(compiled, X), expected)


def test_export(model):
    expected = model(X)
    atrous.accelerate(model)
    program = torch.export.export(model, (X,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    assert "atrous.tap_conv" in str(program.graph)
    torch.testing.assert_close(program.module()(X), expected)
    torch.testing.assert_close(program.module()(X[:1]), expected[:1])


def test_what_changed_its_class_since_is_not_restored():
    layer = depthwise()
    atrous.accelerate(layer)
    layer.__class__ = type("Sharded", (atrous.nn.Conv2d,), {})
    with pytest.raises(
        UnsupportedModule, match=r"restore: the model: got a Sharded, which is not what .*; restore first"
    ):
        atrous.restore(layer)


@pytest.mark.parametrize("verb", [atrous.accelerate, atrous.restore])
def test_what_is_no_module_is_refused(verb):
    with pytest.raises(UnsupportedModule, match=r"got a Tensor, expected a torch.nn.Module"):
        verb(X)


def test_a_graph_of_fx(model):
    expected = model(X)
    graph = torch.fx.symbolic_trace(model)
    assert [row.name for row in atrous.accelerate(graph).changed] == ["blocks.0.0", "blocks.1.0"]
    torch.testing.assert_close(graph(X), expected)


def test_a_container_is_no_convolution():
    container = torch.nn.Sequential(depthwise())
    container.in_channels = container.out_channels = container.groups = 8
    container.kernel_size = (3, 3)
    report = atrous.accelerate(container)
    assert [row.name for row in report.changed] == ["0"]
    assert not report.kept


def test_what_torch_gets_wrong_changes_too():
    report = atrous.accelerate(torch.nn.Conv2d(64, 64, 3, stride=2).bfloat16())
    assert [row.reason for row in report.changed] == ["torch is wrong in bfloat16, and it runs in float32"]
