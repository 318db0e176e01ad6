"""Where torch is wrong in bfloat16, its operator runs in float32; every way in is tried."""

import sys

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import grad, jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from atrous import Geometry, explain, functional
from atrous._backends import aten
from atrous.testing import assert_within_budget

CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
ATEN = {torch.conv1d, torch.conv2d, torch.conv3d}
LAYOUT = {2: torch.channels_last, 3: torch.channels_last_3d}

# Input, weight, options: what torch 2.13 was seen to get wrong.
FRAGILE = {
    "strided": ((4, 5, 12, 1), (3, 5, 2, 4), {"stride": (3, 2), "padding": (1, 2)}),
    "1 x 1": ((1, 8, 18, 15), (2, 8, 1, 1), {"stride": (2, 1)}),
    "one pixel": ((2, 6, 1, 1), (2, 6, 1, 1), {"stride": 2}),
    "asymmetric": ((2, 5, 9, 8), (3, 5, 2, 4), {"dilation": 2, "padding": ((0, 3), "causal")}),
    "dilated": ((4, 17, 19, 17), (40, 17, 5, 5), {"dilation": (2, 3), "padding": (3, 12)}),
    "grouped": ((2, 9, 14, 19), (24, 3, 1, 4), {"dilation": (3, 4), "padding": (0, 12), "groups": 3}),
    "depthwise": ((2, 16, 9, 9), (16, 1, 3, 3), {"dilation": 2, "padding": "same", "groups": 16}),
    "multiplier": ((2, 4, 14, 1), (20, 1, 1, 3), {"stride": (1, 2), "padding": (0, 1), "groups": 4}),
    "3-D": ((3, 64, 1, 5, 9), (40, 64, 2, 3, 3), {"padding": (1, 1, 2)}),
    "3-D multiplier": ((1, 2, 1, 18, 13), (8, 1, 3, 3, 2), {"stride": (2, 1, 2), "padding": (2, 0, 0), "groups": 2}),
}
every_call = pytest.mark.parametrize("call", FRAGILE.values(), ids=FRAGILE)


class Seen(TorchDispatchMode):
    """Collects the dtypes that reach torch's convolutions."""

    def __enter__(self):
        self.dtypes = set()
        return super().__enter__()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if "convolution" in str(operation):
            self.dtypes.add(args[0].dtype)
        return operation(*args, **(kwargs or {}))


def leaves(call, layouts=(True, True), dtype=torch.bfloat16):
    input, weight, _ = call
    layout = LAYOUT[len(input) - 2]
    pair = [torch.randn(shape).bfloat16().to(dtype) for shape in (input, weight)]
    chosen = [t.to(memory_format=layout) if last else t for t, last in zip(pair, layouts, strict=True)]
    return [t.requires_grad_() for t in chosen]


def run(call, *args, **options):
    return CONV[len(call[0]) - 2](*args, **call[2], **options)


def results(call, pair, **options):
    output = run(call, *pair, **options)
    return output, *torch.autograd.grad(output, pair, torch.ones_like(output))


def assert_right(found, pair, call):
    exact = results(call, [t.detach().double().requires_grad_() for t in pair], backend="reference")
    for name, one, other in zip(("output", "input", "weight"), found, exact, strict=True):
        worst = float(((one.double() - other).abs().max() / other.abs().max()).detach())
        assert worst < 0.02, f"{name}: off by {worst} of the largest value"


@every_call
@pytest.mark.parametrize("layouts", [(True, True), (True, False), (False, True), (False, False)], ids=str)
def test_in_float32_and_the_layout_stays(call, layouts):
    pair = leaves(call, layouts)
    with Seen() as seen:
        found = results(call, pair, backend="aten")
    assert seen.dtypes == {torch.float32}
    assert [one.dtype for one in found] == [torch.bfloat16] * 3
    if all(layouts):
        assert found[0].is_contiguous(memory_format=LAYOUT[found[0].ndim - 2])
    assert_right(found, pair, call)


@every_call
def test_second_derivatives(call):
    pair = leaves(call)
    output = run(call, *pair, backend="aten")
    seed = torch.randn_like(output).requires_grad_()
    with Seen() as seen:
        first = torch.autograd.grad(output, pair, seed, create_graph=True)
        torch.autograd.grad(first, [*pair, seed], [torch.randn_like(one) for one in first])
    assert seen.dtypes == {torch.float32}


@every_call
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast(call, dtype):
    pair = leaves(call, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16), Seen() as seen:
        found = results(call, pair, backend="aten")
    assert seen.dtypes == {torch.float32}
    assert [one.dtype for one in found] == [torch.bfloat16, dtype, dtype]
    assert_right(found, pair, call)


@pytest.mark.parametrize(
    ("call", "options"),
    [
        (((2, 5, 9, 8), (3, 5, 3, 3), {"padding": "same"}), {}),
        (((2, 5, 9, 8), (3, 5, 3, 3), {"stride": 2}), {"dtype": torch.float64}),
        (((2, 5, 9, 8, 7), (3, 5, 3, 3, 3), {"dilation": 2}), {"dtype": torch.float32}),
    ],
    ids=["undilated", "float64", "float32"],
)
def test_what_torch_gets_right_stays(call, options):
    pair = leaves(call, **options)
    with Seen() as seen:
        results(call, pair, backend="aten")
    assert seen.dtypes == {pair[0].dtype}


@pytest.mark.parametrize(("slow", "dtype"), [(True, torch.float32), (False, torch.float16)])
def test_float16_where_torch_has_no_kernels(slow, dtype, monkeypatch):
    monkeypatch.setattr(sys.modules[aten.conv.__module__], "_SLOW_IN_FLOAT16", slow)
    call = ((2, 5, 9, 8), (3, 5, 3, 3), {"padding": 1})
    pair = leaves(call, dtype=torch.float16)
    with Seen() as seen:
        found = results(call, pair, backend="aten")
    assert seen.dtypes == {dtype}
    assert [one.dtype for one in found] == [torch.float16] * 3
    assert_right(found, pair, call)
    assert ("as torch is slow in float16" in explain(functional.conv2d, *pair, padding=1, backend="aten")) == slow


@pytest.mark.parametrize(("options", "dtype"), [({}, torch.bfloat16), ({"stride": 2}, torch.float32)], ids=str)
def test_signals(options, dtype):
    x, w = torch.randn(2, 5, 30).bfloat16(), torch.randn(3, 4, 5).bfloat16().transpose(1, 2)
    with Seen() as seen:
        output = functional.conv1d(x, w, **options, backend="aten")
    assert seen.dtypes == {dtype}
    expected = functional.conv1d(x.double(), w.double(), **options).bfloat16()
    torch.testing.assert_close(output, expected, rtol=0.01, atol=0.05)


def test_autocast_leaves_complex_alone():
    x, w = torch.randn(2, 3, 9, 9, dtype=torch.complex64), torch.randn(4, 3, 3, 3, dtype=torch.complex64)
    with torch.autocast("cpu", torch.bfloat16):
        output = functional.conv2d(x, w, stride=2)
    torch.testing.assert_close(output, functional.conv2d(x, w, stride=2))


@every_call
def test_gradients_by_name(call):
    input, weight, options = call
    ndim, groups = len(input) - 2, options.get("groups", 1)
    steps = [options.get(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))]
    geometry = Geometry.resolve(weight[2:], *steps, ndim=ndim)
    pair = leaves(call)
    output = run(call, *pair, backend="aten")
    with Seen() as seen:
        found = aten.conv_gradients(torch.ones_like(output), *pair, geometry, groups, (True, True, False))
    assert seen.dtypes == {torch.float32}
    assert found[2] is None
    assert_right((output, *found[:2]), pair, call)


@pytest.mark.parametrize("name", ["asymmetric", "3-D multiplier"])
def test_compiled(name):
    call = FRAGILE[name]
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda *pair: run(call, *pair, backend="aten"), fullgraph=True, dynamic=True, backend=counter
    )
    for more in (0, 2, 5):
        input = (call[0][0] + more, call[0][1], *call[0][2:])
        pair = leaves((input, *call[1:]), (False, False))
        output = compiled(*pair)
        assert_right((output, *torch.autograd.grad(output.sum(), pair)), pair, call)
    assert counter.frame_count <= 2  # a batch of one has a graph of its own
    convolutions = [node for graph in counter.graphs for node in graph.graph.nodes if node.target in ATEN]
    assert {node.args[0].meta["example_value"].dtype for node in convolutions} == {torch.float32}


@pytest.mark.parametrize("autocast", [False, True])
def test_exported(autocast):
    class Layer(torch.nn.Module):
        def forward(self, input, weight):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                return run(call, input, weight)

    call = FRAGILE["asymmetric"]
    x, w = (t.detach() for t in leaves(call))
    program = torch.export.export(Layer(), (x, w), dynamic_shapes=({0: torch.export.Dim.AUTO}, {}))
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    nodes = [node for graph in graphs for node in graph.nodes if node.target is torch.ops.aten.conv2d.default]
    assert {node.args[0].meta["val"].dtype for node in nodes} == {torch.float32}
    more = torch.cat([x, x])
    torch.testing.assert_close(program.module()(more, w), run(call, more, w))


def test_transforms():
    call = FRAGILE["asymmetric"]
    x, w = (t.detach() for t in leaves(call))
    with Seen() as seen:
        mapped = vmap(lambda x: run(call, x, w))(torch.stack([x, -x]))
        slope = grad(lambda x: run(call, x, w).sum())(x)
        _, tangent = jvp(lambda x: run(call, x, w), (x,), (x,))
    assert seen.dtypes == {torch.float32}
    plain = run(call, x, w)
    torch.testing.assert_close(mapped, torch.stack([plain, -plain]))
    torch.testing.assert_close(tangent, plain)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(slope, torch.autograd.grad(run(call, leaf, w).sum(), leaf)[0])


def test_explain_says_it():
    x, w = torch.randn(2, 48, 9, 9).bfloat16(), torch.randn(48, 48, 3, 3).bfloat16()
    because = "in float32, as torch is wrong in bfloat16."
    assert explain(functional.conv2d, x, w, stride=2).endswith(because)
    assert explain(functional.conv2d, x, w, stride=2, backend="aten").endswith(f"because it was named, {because}")
    with torch.autocast("cpu", torch.bfloat16):
        assert explain(functional.conv2d, x.float(), w.float(), dilation=2).endswith(because)
    assert "float32, as" not in explain(functional.conv2d, x, w)


# What torch's operator gets in place of a margin of its own: kernel, whether gradients are wanted, channels, dilation.
MARGINS = {
    "copied": (5, True, 16, 16, True),
    "copied where nothing is recorded": (3, False, 16, 16, True),
    "gradients of few taps": (3, True, 16, 16, False),
    "few channels": (5, False, 15, 16, False),
    "many channels": (5, False, 129, 16, False),
    "small dilation": (5, False, 16, 15, False),
}


@pytest.mark.parametrize(("kernel", "recorded", "channels", "dilation", "copied"), MARGINS.values(), ids=MARGINS)
def test_wide_margins_of_one_axis(kernel, recorded, channels, dilation, copied, monkeypatch):
    # Torch takes longer for them than a copy does; the copy is no other convolution.
    seen = []
    monkeypatch.setitem(aten.CONV, 1, lambda x, *rest: seen.append(x.shape[2]) or torch.conv1d(x, *rest))
    leaves = [torch.randn(2, channels, 150), torch.randn(17, channels, kernel), torch.randn(17)]
    leaves = [t.requires_grad_(recorded) for t in leaves]
    wide = [t.detach().double().requires_grad_(recorded) for t in leaves]
    margins = {"padding": ((40, 90),), "dilation": dilation}
    result = functional.conv1d(*leaves, **margins, backend="aten")
    assert seen == [150 + 130 if copied else 150 + 50]
    plain = functional.conv1d(*leaves, **margins, backend="reference")
    exact = functional.conv1d(*wide, **margins, backend="reference")
    assert_within_budget(result.detach(), plain.detach(), exact.detach())
    if recorded:
        grad = torch.randn_like(plain)
        found, own = (torch.autograd.grad(y, leaves, grad) for y in (result, plain))
        for gradients in zip(found, own, torch.autograd.grad(exact, wide, grad.double()), strict=True):
            assert_within_budget(*gradients, what="gradient")


@pytest.mark.parametrize("recorded", [False, True])
def test_one_small_volume_runs_on_onednn_where_nothing_is_recorded(recorded, monkeypatch):
    # Torch's rule of sizes takes a slow loop there.
    ran = []
    quick = torch.ops.aten.mkldnn_convolution
    monkeypatch.setattr(torch.ops.aten, "mkldnn_convolution", lambda *args: ran.append(1) or quick(*args))
    input, weight, bias = torch.randn(1, 20, 6, 7, 9), torch.randn(17, 20, 3, 2, 3), torch.randn(17)
    options = {"padding": (1, 0, 2), "stride": (1, 2, 1), "dilation": (2, 1, 2)}
    exact = functional.conv3d(input.double(), weight.double(), bias.double(), **options, backend="reference")
    plain = functional.conv3d(input, weight, bias, **options, backend="reference")
    result = functional.conv3d(input, weight.requires_grad_(recorded), bias, **options, backend="aten")
    assert len(ran) == (not recorded)
    assert_within_budget(result.detach(), plain, exact)
