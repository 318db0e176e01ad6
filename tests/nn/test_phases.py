import copy
import io
import pickle
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous import GeometryError, ShapeError, accelerate, functional, nn
from atrous.analysis.gridding import gridding
from atrous.nn.phases import find_row, find_runs


def convolution(dilation=2, kernel=3, channels=2, ndim=2, **options):
    made = getattr(torch.nn, f"Conv{ndim}d")
    given = {"padding": "same", "dilation": dilation, **options}
    return made(channels, channels, kernel, **given)


def plain(stack):
    """Return the same layers as a sequence of torch."""
    return torch.nn.Sequential(*stack)


@pytest.fixture
def entered(monkeypatch):
    """Count what goes through phases."""
    calls = []
    run = functional.in_phases
    monkeypatch.setattr(functional, "in_phases", lambda *args: calls.append(len(args[1])) or run(*args))
    return calls


@settings(deadline=None, max_examples=25)
@given(
    axes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4), st.sampled_from([1, 3, 5])), min_size=1, max_size=3),
    layers=st.integers(1, 4),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
)
def test_a_stack_computes_what_its_layers_do(axes, layers, groups, bias):
    size, dilation, kernel = zip(*axes, strict=True)
    stack = nn.DilatedStack(
        2, kernel, layers, dilation, ndim=len(axes), groups=groups, bias=bias, activation=torch.nn.Softplus,
        phases=True, dtype=torch.float64,
    )  # fmt: skip
    x = torch.randn(3, 2, *size, dtype=torch.float64)
    expected = plain(stack)(x)
    torch.testing.assert_close(stack(x), expected)
    torch.testing.assert_close(stack(x[0]), expected[0])


@pytest.mark.parametrize("size", [12, 13])
@pytest.mark.parametrize("dilation", [2, 3])
def test_gradients(size, dilation, entered):
    stack = nn.DilatedStack(3, 3, 3, dilation, phases=True, dtype=torch.float64)
    leaves = [torch.randn(2, 3, size, size, dtype=torch.float64, requires_grad=True), *stack.parameters()]
    outputs = stack(leaves[0]), plain(stack)(leaves[0])
    assert entered == [5]
    grad = torch.randn_like(outputs[0])
    torch.testing.assert_close(*(torch.autograd.grad(output, leaves, grad) for output in outputs))


def test_parameters_are_those_of_the_layers():
    stack = nn.DilatedStack(4, 3, 2, 2, ndim=1)
    assert list(stack.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    twin = torch.nn.Sequential(convolution(channels=4, ndim=1), torch.nn.ReLU(), convolution(channels=4, ndim=1))
    twin.load_state_dict(stack.state_dict())
    stack.phases = True
    x = torch.randn(1, 4, 11)
    torch.testing.assert_close(stack(x), twin(x))
    assert isinstance(stack[0], nn.Conv1d)
    assert [type(layer) for layer in stack[1:]] == [torch.nn.ReLU, nn.Conv1d]
    assert list(stack[1:].state_dict()) == ["2.weight", "2.bias"]
    assert stack[1:].phases is True


def test_life_of_a_module(entered):
    torch.compiler.reset()
    stack = nn.DilatedStack(2, 3, 2, 3, ndim=1, phases=True)
    x = torch.randn(2, 2, 13)
    expected = stack(x)
    assert entered == [3]
    assert repr(stack).startswith("DilatedStack(\n  phases=True\n  (0): Conv1d(2, 2")
    buffer = io.BytesIO()
    torch.save(stack.state_dict(), buffer)
    buffer.seek(0)
    other = nn.DilatedStack(2, 3, 2, 3, ndim=1)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for one in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack)), other, accelerate(stack).model):
        torch.testing.assert_close(one(x), expected)
    for phases in (True, None):
        stack.phases = phases
        compiled = torch.compile(stack, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected)
        program = torch.export.export(stack, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
        torch.testing.assert_close(program.module()(torch.cat([x, x])), torch.cat([expected, expected]))
    weight = nn.DilatedStack(1, 3, 1, 1, dtype=torch.float64, device="meta")[0].weight
    assert (weight.dtype, weight.device.type) == (torch.float64, "meta")


def test_autocast():
    stack = nn.DilatedStack(2, 3, 2, 3, phases=True)
    x = torch.randn(1, 2, 13, 13)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = stack(x), plain(stack)(x)
    assert outputs[0].dtype == torch.bfloat16
    torch.testing.assert_close(*outputs, rtol=5e-2, atol=5e-2)


RUNS = {
    "two": ([convolution(), convolution()], [(0, 2)]),
    "one": ([torch.nn.ReLU(), convolution()], []),
    "between": ([torch.nn.ReLU(), convolution(), torch.nn.GELU(), convolution(), torch.nn.ReLU()], [(1, 4)]),
    "two rates": ([convolution(), convolution(), convolution(3), torch.nn.ReLU(), convolution(3)], [(0, 2), (2, 5)]),
    "one of a rate between": ([convolution(), convolution(3), convolution()], []),
    "no holes": ([convolution(1), convolution(1)], []),
    "kernels": ([convolution(), convolution(kernel=5)], [(0, 2)]),
    "one tap": ([convolution(kernel=1), convolution(kernel=1)], []),
    "even": ([convolution(kernel=4), convolution(kernel=4)], []),
    "one axis": ([convolution((2, 1), kernel=(3, 1))] * 2, [(0, 2)]),
    "1 x 1 between": ([convolution(), torch.nn.Conv2d(2, 2, 1), convolution()], [(0, 3)]),
    "3 x 3 between": ([convolution(), torch.nn.Conv2d(2, 2, 3, padding=1), convolution()], []),
    "padded 1 x 1 between": ([convolution(), torch.nn.Conv2d(2, 2, 1, padding=1), convolution()], []),
    "pool between": ([convolution(), torch.nn.AvgPool2d(1), convolution()], []),
    "stride": ([convolution(stride=2, padding=2), convolution()], []),
    "padding": ([convolution(padding=1), convolution()], []),
    "causal": ([nn.Conv2d(2, 2, 3, padding="causal", dilation=2), convolution()], []),
    "same": ([nn.Conv2d(2, 2, 3, padding="same", dilation=2), convolution()], [(0, 2)]),
    "reflect": ([convolution(padding_mode="reflect"), convolution()], []),
    "batch norm": ([convolution(), torch.nn.BatchNorm2d(2).eval(), convolution()], [(0, 3)]),
    "batch norm in training": ([convolution(), torch.nn.BatchNorm2d(2), convolution()], []),
    "batch norm of the batch": (
        [convolution(), torch.nn.BatchNorm2d(2, track_running_stats=False).eval(), convolution()], [],
    ),
    "softmax": ([convolution(), torch.nn.Softmax(-1), convolution()], []),
    "transposed": ([torch.nn.ConvTranspose2d(2, 2, 3, padding=2, dilation=2), convolution()], []),
    "none": ([], []),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_runs(name, entered):
    layers, runs = RUNS[name]
    assert find_runs(layers) == runs
    if not layers or "one of a rate" in name:
        return
    x = torch.randn(2, 2, 13, 11)
    expected = torch.nn.Sequential(*layers)(x)
    torch.testing.assert_close(nn.PhasedSequential(*layers, phases=True)(x), expected)
    assert entered == [stop - start for start, stop in runs]


def test_a_layer_with_a_hook_sees_images(entered):
    model, shapes = nn.PhasedSequential(convolution(), torch.nn.ReLU(), convolution(), phases=True), []
    handle = model[1].register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    x = torch.randn(1, 2, 9, 9)
    expected = model(x)
    assert (shapes, entered) == ([(1, 2, 9, 9)], [])
    handle.remove()
    torch.testing.assert_close(model(x), expected)
    assert entered == [3]
    model[0].forward = lambda x: x
    torch.testing.assert_close(model(x), model[2](x.relu()))


def test_a_changed_dilation_counts(entered):
    model = nn.PhasedSequential(convolution(), convolution(), phases=True)
    model[1].dilation = model[1].padding = (4, 4)
    x = torch.randn(1, 2, 9, 9)
    torch.testing.assert_close(model(x), model[1](model[0](x)))
    assert not entered


def test_parametrizations_are_computed(entered):
    layers = [torch.nn.utils.parametrizations.weight_norm(convolution()) for _ in range(2)]
    x = torch.randn(1, 2, 9, 9)
    torch.testing.assert_close(nn.PhasedSequential(*layers, phases=True)(x), layers[1](layers[0](x)))
    assert entered == [2]


WINS = torch.zeros(1, 32, 64, 64)


def dense(**options):
    return [convolution(4, channels=32, **options) for _ in range(2)]


@pytest.mark.parametrize(
    ("layers", "input", "cell"),
    [
        (dense(), WINS, "4x32x56-k3-d8"),
        (dense(), WINS[0], "4x32x56-k3-d8"),
        (dense(), WINS[:, :, :20], None),
        (dense(), WINS.to(memory_format=torch.channels_last), None),
        (dense(dtype=torch.float64), WINS.double(), None),
        (dense(groups=2), WINS, None),
        (dense(groups=32), WINS, None),
    ],
    ids=["dense", "unbatched", "small", "channels last", "float64", "groups", "depthwise"],
)
def test_the_table_decides(layers, input, cell, entered):
    row = find_row(layers, input)
    assert (row and row.cell) == cell
    nn.PhasedSequential(*layers)(input)
    assert entered == ([2] if cell else [])


def test_what_is_compiled_inside_is_called(entered):
    torch.compiler.reset()
    inner = torch.nn.Sequential(*dense())
    inner.compile(backend="aot_eager")
    model = nn.PhasedSequential(inner, torch.nn.ReLU())
    torch.testing.assert_close(model(WINS), torch.relu(inner(WINS)))
    assert not entered


def test_who_watches_runs_layers(entered):
    model = nn.PhasedSequential(*dense())
    with torch.autocast("cpu", torch.bfloat16):
        model(WINS)
    torch.vmap(model)(WINS[None])
    nn.PhasedSequential(*dense(), phases=False)(WINS)
    assert not entered


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel_size": 4}, "DilatedStack: kernel_size: got 4, expected odd sizes"),
        ({"kernel_size": (3, 2)}, "DilatedStack: kernel_size: got (3, 2), expected odd sizes"),
        ({"layers": 0}, "DilatedStack: layers: got (0,), expected integers of at least 1"),
        ({"ndim": 4}, "DilatedStack: ndim: got 4, expected 1, 2 or 3"),
        ({"dilation": 0}, "dilation: got (0, 0), expected integers of at least 1"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"channels": 2, "kernel_size": 3, "layers": 2, "dilation": 2, **change}
    with pytest.raises(GeometryError, match=re.escape(message)):
        nn.DilatedStack(**arguments)


@pytest.mark.parametrize("phases", [None, True, False])
def test_an_input_that_does_not_fit(phases):
    stack = nn.DilatedStack(2, 3, 2, 2, phases=phases)
    with pytest.raises(ShapeError, match=r"conv2d: input: got shape \(2, 9\), expected \(B, C, H, W\)"):
        stack(torch.zeros(2, 9))
    with pytest.raises(ShapeError, match=r"conv2d: got 3 input channels, weight \(2, 2, 3, 3\)"):
        stack(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("phases", [None, True, False])
def test_the_footprint_is_that_of_the_layers(phases):
    """What a network reads does not depend on how it runs: three layers of dilation 2 leave every second pixel out."""
    stack, x = nn.DilatedStack(1, 3, 3, 2, phases=phases), torch.zeros(1, 1, 32, 32)
    assert [str(axis.coverage) for axis in gridding(stack, x).axes] == ["7/13", "7/13"]


def test_an_exported_stack_takes_other_sizes():
    stack, x = nn.DilatedStack(2, 3, 2, 2, phases=True), torch.randn(1, 2, 12, 12)
    free = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    exported = torch.export.export(stack, (x,), dynamic_shapes=(free,)).module()
    other = torch.randn(1, 2, 15, 11)
    torch.testing.assert_close(exported(other), stack(other))
