"""Every route of a convolution: who runs it, and that its derivatives of every kind are right."""

import copy
import functools
import itertools
import pickle

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import grad, hessian, jacfwd, jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from atrous import BackendError, functional, nn
from atrous._backends import Route, _look_up
from atrous._backends.table import TABLES, find
from atrous._ops import conv as home
from atrous.testing import CONV_CASES, assert_within_budget

CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
MIXED = [Route("aten", "cpu", "a test"), Route("cpu", "aten", "a test")]
OPERATIONS = {
    "aten.convolution.default": ("aten", None),
    **{f"aten.conv{ndim}d.default": ("aten", None) for ndim in CONV},
    "atrous.tap_conv.default": ("cpu", None),
    "aten.convolution_backward.default": (None, "aten"),
    "atrous.tap_conv_weight.default": (None, "cpu"),
}

# (input, weight, options), who runs the forward and the backward: at least one call for every row of the table.
ROUTES = {
    "a signal": (((2, 4, 30), (4, 1, 3), {"groups": 4, "dilation": 8}), "cpu", "cpu"),
    "a signal of few channels": (((2, 6, 30), (4, 3, 3), {"groups": 2, "dilation": 2}), "cpu", "cpu"),
    "a signal, few to many": (((2, 4, 30), (20, 4, 3), {}), "aten", "cpu"),
    "a signal, many to few": (((2, 20, 30), (4, 20, 3), {}), "cpu", "cpu"),
    "a dense signal": (((2, 20, 30), (20, 20, 3), {}), "aten", "aten"),
    "depthwise": (((2, 4, 9, 9), (4, 1, 3, 3), {"groups": 4, "padding": "causal"}), "cpu", "cpu"),
    "multiplier": (((2, 2, 9, 9), (40, 1, 3, 3), {"groups": 2}), "cpu", "cpu"),
    "one tap": (((2, 4, 9, 9), (4, 1, 1, 1), {"groups": 4}), "cpu", "cpu"),
    "8 to 8": (((2, 8, 9, 9), (8, 8, 3, 3), {}), "cpu", "cpu"),
    "8 to 8, dilated": (((2, 8, 9, 9), (8, 8, 3, 3), {"dilation": 2}), "aten", "cpu"),
    "8 to 16": (((2, 8, 9, 9), (16, 8, 3, 3), {}), "aten", "aten"),
    "12 to 12": (((2, 12, 9, 9), (12, 12, 3, 3), {}), "cpu", "cpu"),
    "few to many": (((2, 3, 9, 9), (32, 3, 3, 3), {"padding": ((0, 2), 1)}), "aten", "cpu"),
    "many to one": (((2, 32, 9, 9), (1, 32, 3, 3), {}), "cpu", "cpu"),
    "dense": (((2, 48, 9, 9), (48, 48, 3, 3), {}), "aten", "aten"),
    "dense, one tap": (((2, 4, 9, 9), (4, 4, 1, 1), {}), "aten", "aten"),
    "a small map": (((2, 4, 14, 14), (4, 1, 3, 3), {"groups": 4, "stride": 2}), "aten", "aten"),
    "a dilated small map": (
        ((2, 4, 14, 14), (4, 1, 3, 3), {"groups": 4, "stride": 2, "dilation": 2, "padding": "same"}), "aten", "cpu",
    ),
    "a large map": (
        ((1, 2, 60, 60), (2, 1, 3, 3), {"groups": 2, "stride": 2, "padding": ((2, 0), 1)}), "cpu", "cpu",
    ),
    "a strided dilated map": (((1, 6, 40, 40), (5, 6, 3, 3), {"stride": 2, "dilation": 2}), "cpu", "cpu"),
    "a strided dilated map of more": (((1, 9, 40, 40), (9, 9, 3, 3), {"stride": 2, "dilation": 2}), "aten", "cpu"),
    "a strided map, few to many": (((1, 3, 40, 40), (9, 3, 3, 3), {"stride": 2}), "aten", "cpu"),
    "a volume": (((1, 2, 5, 6, 7), (2, 2, 3, 3, 3), {}), "cpu", "cpu"),
    "a strided dilated volume": (
        ((1, 2, 7, 7, 7), (2, 1, 3, 3, 3), {"groups": 2, "stride": 2, "dilation": 2}), "cpu", "cpu",
    ),
    "a volume, few to many": (((1, 2, 5, 6, 7), (9, 2, 3, 3, 3), {}), "aten", "cpu"),
    "a volume, many to few": (((1, 9, 5, 6, 7), (2, 9, 3, 3, 3), {}), "cpu", "cpu"),
    "a dense volume": (((1, 9, 5, 6, 7), (9, 9, 3, 3, 3), {}), "aten", "aten"),
}  # fmt: skip

every_route = pytest.mark.parametrize(("call", "forward", "backward"), ROUTES.values(), ids=ROUTES)


class Seen(TorchDispatchMode):
    """Collects the backends that ran, forward and backward."""

    def __enter__(self):
        self.forward, self.backward = set(), set()
        return super().__enter__()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        forward, backward = OPERATIONS.get(str(operation), (None, None))
        self.forward |= {forward} - {None}
        self.backward |= {backward} - {None}
        return operation(*args, **(kwargs or {}))


def tensors(call, dtype=torch.float32, **options):
    input, weight, _ = call
    return [torch.randn(shape, dtype=dtype, **options) for shape in (input, weight, weight[:1])]


def run(call, *args, **options):
    return CONV[len(call[0]) - 2](*args, **call[2], **options)


@every_route
def test_who_runs(call, forward, backward):
    leaves = tensors(call, requires_grad=True)
    with Seen() as seen:
        output = run(call, *leaves)
    assert (seen.forward, seen.backward) == ({forward}, set())
    seed = torch.randn_like(output)
    with Seen() as seen:
        results = torch.autograd.grad(output, leaves, seed)
    assert seen.backward == {backward}
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    reference = [leaf.detach().requires_grad_() for leaf in leaves]
    outputs = [run(call, *given, backend="reference") for given in (reference, exact)]
    assert_within_budget(output, *outputs, what="output")
    expected = [
        torch.autograd.grad(y, given, seed.to(y.dtype)) for y, given in zip(outputs, (reference, exact), strict=True)
    ]
    for name, *values in zip(("input", "weight", "bias"), results, *expected, strict=True):
        assert_within_budget(*values, what=name)


@every_route
def test_without_gradients_the_forward_alone_counts(call, forward, backward):
    with torch.inference_mode(), Seen() as seen:
        run(call, *tensors(call))
    assert (seen.forward, seen.backward) == ({forward}, set())


def test_every_row_is_tried():
    tried = set()
    for (input, weight, options), _, _ in ROUTES.values():
        ndim, groups = len(input) - 2, options.get("groups", 1)
        output = CONV[ndim](torch.zeros(input), torch.zeros(weight), **options)
        taps, pixels = weight[2:], output[0, 0].numel()
        steps = options.get("dilation", 1), options.get("stride", 1)
        tried.add(find(torch.float32, ndim, weight[1], weight[0] // groups, torch.Size(taps).numel(), *steps, pixels))
    # tests/_backends/test_table.py tries the rest.
    assert tried == {row for row in TABLES[torch.float32] if not row.last} | {None}


@pytest.mark.parametrize("route", MIXED, ids=lambda route: "-".join(route[:2]))
@pytest.mark.parametrize("case", CONV_CASES, ids=lambda case: case.name)
def test_two_backends_in_one_call(case, route, monkeypatch):
    """On every case, whatever the table says."""
    monkeypatch.setattr("atrous.functional.conv.choose_conv", lambda *_: route)
    results = {}
    for dtype, backend in ((torch.float32, None), (torch.float32, "reference"), (torch.float64, "reference")):
        if backend:
            monkeypatch.setattr("atrous.functional.conv.choose_conv", lambda *_: Route("reference", "reference", ""))
        leaves = [t.to(dtype).requires_grad_() for t in case.tensors(torch.float32) if t is not None]
        output = CONV[case.ndim](*leaves, **case.options)
        seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32).to(dtype)
        results[dtype, backend] = output, *torch.autograd.grad(output, leaves, seed)
    for values in zip(*results.values(), strict=True):
        assert_within_budget(*values, what=case.name)


def tiny():
    """Return small integers, as which float32 computes without rounding: differences over half a unit are exact."""
    return [torch.randint(-3, 4, shape).double() for shape in ((2, 4, 3, 3), (4, 2, 2, 2), (4,))]


OPTIONS = {"stride": (1, 2), "padding": ((2, 0), 1), "dilation": (2, 1), "groups": 2}
ROUTINGS = [Route("cpu", "cpu", "a test"), *MIXED]
every_routing = pytest.mark.parametrize("routing", ROUTINGS, ids=lambda route: "-".join(route[:2]))


def single(x, w, b):
    return functional.conv2d(x.float(), w.float(), b.float(), **OPTIONS).double()


def through(monkeypatch, routing):
    """Let eager calls that nobody transforms take this route, as a row of the table would."""
    row = TABLES[torch.float32][0]._replace(forward=routing.forward, backward=routing.backward)
    monkeypatch.setattr("atrous._backends.table.find", lambda *_: row)
    monkeypatch.setattr("atrous._backends._look_up_cached", _look_up)


@every_routing
def test_every_order_of_derivatives(routing, monkeypatch):
    through(monkeypatch, routing)
    leaves = [leaf.requires_grad_() for leaf in tiny()]
    # An undefined tangent is compared with a zero one to more digits than float32 has.
    options = {"eps": 0.5, "atol": 1e-3, "check_undefined_grad": False}
    batched = {"check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(single, leaves, check_forward_ad=True, **batched, **options)
    assert torch.autograd.gradgradcheck(single, leaves, check_fwd_over_rev=True, **options)


@every_routing
def test_transforms(routing, monkeypatch):
    through(monkeypatch, routing)
    x, w, b = tiny()

    def exact(x, w):
        return functional.conv2d(x, w, b, **OPTIONS, backend="reference").sin()

    def ours(x, w):
        return functional.conv2d(x.float(), w.float(), b.float(), **OPTIONS).double().sin()

    x, w = x[:1, :, :2, :2] / 4, w / 4
    for transform in (
        lambda f: grad(lambda x, w: f(x, w).sum(), (0, 1)),
        lambda f: lambda x, w: jvp(f, (x, w), (x.sin(), w.cos())),
        lambda f: lambda x, w: hessian(lambda w: f(x, w).sum())(w),
        lambda f: lambda x, w: jacfwd(lambda w: grad(lambda x: f(x, w).sum())(x))(w),
        lambda f: lambda x, w: vmap(f)(torch.stack([x, -x]), torch.stack([w, 2 * w])),
        lambda f: lambda x, w: vmap(grad(lambda x, w: f(x, w).sum()), (0, None))(torch.stack([x, -x]), w),
    ):
        for result, expected in zip(transform(ours)(x, w), transform(exact)(x, w), strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["a signal", "depthwise", "few to many", "a large map", "a volume", "dense"])
def test_one_compiled_graph_serves_every_size(name):
    call = ROUTES[name][0]
    torch.compiler.reset()  # all routes together would be more graphs than one function may have
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda *args: run(call, *args), fullgraph=True, dynamic=True, backend=counter)
    for more in (0, 3, 8):
        input, weight, bias = tensors(call)
        input = torch.randn(*input.shape[:2], *(size + more for size in input.shape[2:]))
        leaves = [leaf.requires_grad_() for leaf in (input, weight, bias)]
        results = [(y, *torch.autograd.grad(y.sin().sum(), leaves)) for y in (compiled(*leaves), run(call, *leaves))]
        for result, expected in zip(*results, strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)
    assert counter.frame_count == 1


def test_a_compiler_takes_one_backend_for_both():
    """Without a size, and never two."""
    for name, operation in (
        ("few to many", "aten.conv2d.default"),
        ("a strided map, few to many", "aten.conv2d.default"),
        ("a large map", "atrous.tap_conv.default"),
        ("a dilated small map", "atrous.tap_conv.default"),
        ("depthwise", "atrous.tap_conv.default"),
        ("dense", "aten.conv2d.default"),
    ):
        input, weight, options = ROUTES[name][0]
        layer = Layer(weight, options)
        auto = dict.fromkeys((2, 3), torch.export.Dim.AUTO)
        program = torch.export.export(layer, (torch.randn(input),), dynamic_shapes=(auto,))
        assert {str(node.target) for node in program.graph.nodes} & set(OPERATIONS) == {operation}
        bigger = torch.randn(*input[:2], 31, 32)
        torch.testing.assert_close(program.module()(bigger), layer(bigger))


class Layer(torch.nn.Module):
    def __init__(self, shape, options):
        super().__init__()
        self.weight, self.options = torch.nn.Parameter(torch.randn(shape)), options

    def forward(self, input):
        return functional.conv2d(input, self.weight, **self.options)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_life_of_a_routed_module(ndim):
    layer = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[ndim](4, 4, 5, groups=4, padding="same", dilation=2)
    x = torch.randn(2, 4, *(9, 8, 7)[:ndim])
    with Seen() as seen:
        expected = layer(x)
    assert seen.forward == {"cpu"}
    gradients = torch.autograd.grad(expected.sum(), list(layer.parameters()))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.export.export(layer, (x,)).module()):
        output = other(x)
        assert torch.equal(output, expected)
        for result, one in zip(torch.autograd.grad(output.sum(), list(other.parameters())), gradients, strict=True):
            torch.testing.assert_close(result, one)


def backends_of(call):
    with Seen() as seen:
        output = call()
    return seen.forward, output


DEPTHWISE = {"groups": 4, "padding": "same"}


def depthwise(**options):
    return torch.randn(2, 4, 9, 9, **options), torch.randn(4, 1, 3, 3, **options)


def test_channels_last_stays_and_is_torchs_but_for_depthwise():
    last = {"memory_format": torch.channels_last}
    # One channel, as of a grey image, is contiguous too; its strides say what the network wants.
    for channels, groups, backend in ((4, 1, "aten"), (1, 1, "aten"), (4, 4, "cpu")):
        x, w = torch.randn(2, channels, 9, 9).to(**last), torch.randn(4, channels // groups, 5, 5).to(**last)
        ran, output = backends_of(functools.partial(functional.conv2d, x, w, groups=groups))
        assert ran == {backend}
        assert output.is_contiguous(**last)


def test_autocast_is_torchs_and_lowers():
    x, w = depthwise()
    with torch.autocast("cpu", torch.bfloat16):
        ran, output = backends_of(lambda: functional.conv2d(x, w, **DEPTHWISE))
        assert (ran, output.dtype) == ({"cpu"}, torch.bfloat16)
        with torch.autocast("cpu", enabled=False):
            assert functional.conv2d(x, w, **DEPTHWISE).dtype == torch.float32
    torch.testing.assert_close(output.float(), functional.conv2d(x, w, **DEPTHWISE), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_every_floating_dtype(dtype):
    pair = [tensor.requires_grad_() for tensor in depthwise(dtype=dtype)]
    assert backends_of(lambda: functional.conv2d(*pair, **DEPTHWISE))[0] == {"cpu"}
    outputs = [functional.conv2d(*pair, **DEPTHWISE, backend=name) for name in (None, "reference")]
    found, expected = ((output, *torch.autograd.grad(output.sum(), pair)) for output in outputs)
    torch.testing.assert_close(found, expected)


def test_complex_is_torchs():
    x, w = depthwise(dtype=torch.complex64)
    assert "cpu" not in backends_of(lambda: functional.conv2d(x, w, **DEPTHWISE))[0]
    with pytest.raises(BackendError, match=r"'cpu' is for floating tensors of .* on a CPU, got torch.complex64"):
        functional.conv2d(x, w, **DEPTHWISE, backend="cpu")


def test_without_the_library_torch_runs(monkeypatch):
    monkeypatch.setattr("atrous._backends.cpu.UNAVAILABLE", "nobody built it; build it")
    x, w = depthwise()
    assert backends_of(lambda: functional.conv2d(x, w, **DEPTHWISE))[0] == {"aten"}
    with pytest.raises(BackendError, match="'cpu' cannot run: nobody built it; build it; leave backend=None"):
        functional.conv2d(x, w, **DEPTHWISE, backend="cpu")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit:DeprecationWarning")
def test_a_traced_function_needs_no_library():
    x, w = depthwise()
    traced = torch.jit.trace(lambda x: functional.conv2d(x, w, **DEPTHWISE), x)
    assert "atrous::" not in str(traced.graph)
    torch.testing.assert_close(traced(x), functional.conv2d(x, w, **DEPTHWISE))


class Subclass(torch.Tensor):
    """A kind of tensor that this library knows nothing of."""


def test_subclasses_are_torchs():
    x, w = depthwise()
    for call in ((x.as_subclass(Subclass), w), (x, w.as_subclass(Subclass))):
        ran, output = backends_of(lambda call=call: functional.conv2d(*call, **DEPTHWISE))
        assert ran == {"aten"}
        torch.testing.assert_close(output.as_subclass(torch.Tensor), functional.conv2d(x, w, **DEPTHWISE))
        with pytest.raises(BackendError, match="'cpu' is for plain tensors, got a Subclass; leave backend=None"):
            functional.conv2d(*call, **DEPTHWISE, backend="cpu")
    assert backends_of(lambda: functional.conv2d(x, torch.nn.Parameter(w), **DEPTHWISE))[0] == {"cpu"}


def test_mkldnn_tensors_are_torchs():
    x, w = depthwise()
    output = functional.conv2d(x.to_mkldnn(), w.to_mkldnn(), groups=4)
    torch.testing.assert_close(output.to_dense(), functional.conv2d(x, w, groups=4))
    for call in ((x.to_mkldnn(), w), (x, w.to_mkldnn())):
        with pytest.raises(BackendError, match=r"'cpu' is for dense tensors, got torch._mkldnn, which `to_dense\(\)`"):
            functional.conv2d(*call, groups=4, backend="cpu")


def test_taps_kept_between_calls_belong_to_nobody():
    """A tensor made under a transform, a mode or inference must not be met again outside of it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    x, w = depthwise()
    for number, context in enumerate(
        (torch.inference_mode, FakeTensorMode, torch.no_grad, lambda: torch.device("meta"))
    ):
        home._make_offsets_cached.cache_clear()
        options = {**DEPTHWISE, "dilation": 2 + number}
        with context() as mode:
            given = [mode.from_tensor(t) for t in (x, w)] if isinstance(mode, FakeTensorMode) else (x, w)
            functional.conv2d(*given, **options)
        vmap(grad(lambda x, o=options: functional.conv2d(x, w, **o).sum()))(x)
        leaf = w.clone().requires_grad_()
        output = functional.conv2d(x, leaf, **options)
        torch.autograd.grad(output.sum(), leaf)
        torch.testing.assert_close(output, functional.conv2d(x, w, **options, backend="aten"))


def test_a_compiled_graph_holds_the_taps_and_a_free_dilation():
    def convolve(x, w, dilation):
        return functional.conv2d(x, w, **DEPTHWISE, dilation=dilation)

    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(convolve, fullgraph=True, dynamic=True, backend=counter)
    for dilation in (2, 3, 5):
        x, w = depthwise()
        torch.testing.assert_close(compiled(x, w, dilation), convolve(x, w, dilation))
    assert counter.frame_count == 1


def test_a_dilation_beyond_32_bits():
    x, w = depthwise()
    for padding in ("same", "causal"):
        result = functional.conv2d(x, w, groups=4, padding=padding, dilation=2**40)
        torch.testing.assert_close(result, x * w[:, 0, None, *((-1, -1) if padding == "causal" else (1, 1)), None])


def test_any_channels_and_layouts_by_name():
    for channels, layout in itertools.product((1, 5, 20), (torch.contiguous_format, torch.channels_last)):
        x = torch.randn(2, channels, 9, 9).to(memory_format=layout)
        w = torch.randn(7, channels, 3, 3).to(memory_format=layout)
        ran, output = backends_of(lambda x=x, w=w: functional.conv2d(x, w, dilation=2, backend="cpu"))
        assert ran == {"cpu"}
        torch.testing.assert_close(output, functional.conv2d(x, w, dilation=2, backend="aten"), rtol=1e-4, atol=1e-4)
