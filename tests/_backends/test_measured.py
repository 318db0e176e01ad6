"""What was measured stands above the table, for calls alike, and for nothing else."""

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import atrous
from atrous import functional
from atrous._backends import measured

X, W = torch.randn(2, 8, 32, 32), torch.randn(8, 1, 3, 3)
OPTIONS = {"padding": 2, "dilation": 2, "groups": 8}


def _calls(run):
    with measured.watched() as calls:
        run()
    return calls


def _tell(times, run):
    """Say that the only class of calls of a run takes such times, and return it."""
    ((call, _),) = _calls(run)
    measured.add(call, times)
    return call


def _route(x=X, w=W, **options):
    return atrous.explain(functional.conv2d, x, w, **{**OPTIONS, **options})


def _by(forward, backward=None):
    halves = f"'{forward}'" if backward is None else f"'{forward}' forward and '{backward}' backward"
    return f"runs on {halves}, because it was the fastest when measured here."


def test_each_direction_has_its_winner():
    before = functional.conv2d(X, W, **OPTIONS)
    assert "taps are faster" in _route()
    _tell({"aten": (1.0, 3.0), "cpu": (2.0, 2.0)}, lambda: atrous.explain(functional.conv2d, X, W, **OPTIONS))
    assert _route().endswith(_by("aten", "cpu"))
    torch.testing.assert_close(functional.conv2d(X, W, **OPTIONS), before)
    measured.clear()
    assert "taps are faster" in _route()


def test_torch_keeps_what_another_is_hardly_faster_at():
    run = lambda: atrous.explain(functional.conv2d, X, W, **OPTIONS)  # noqa: E731
    _tell({"aten": (1.0, 1.0), "cpu": (0.96, 0.94)}, run)
    assert _route().endswith(_by("aten", "cpu"))


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        ({"x": torch.randn(2, 8, 30, 34)}, True),
        ({"x": torch.randn(8, 8, 32, 32)}, False),
        ({"x": X.to(memory_format=torch.channels_last)}, False),
        ({"x": X.double(), "w": W.double()}, False),
        ({"dilation": 1}, False),
        ({"stride": 2}, False),
        ({"padding": 1}, True),
        ({"backend": "cpu"}, False),
    ],
)
def test_calls_alike_go_the_same_way(other, alike):
    _tell({"aten": (1.0, 1.0), "cpu": (2.0, 2.0)}, lambda: atrous.explain(functional.conv2d, X, W, **OPTIONS))
    assert _route(**other).endswith(_by("aten")) == alike


def test_a_compiler_and_a_transform_take_one_backend():
    _tell({"aten": (1.0, 9.0), "cpu": (2.0, 2.0)}, lambda: atrous.explain(functional.conv2d, X, W, **OPTIONS))
    seen = []

    def backend(graph, _):
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    compiled = torch.compile(lambda x: functional.conv2d(x, W, **OPTIONS), backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(X), functional.conv2d(X, W, **OPTIONS, backend="reference"))
    assert "atrous.tap_conv.default" in seen
    torch.func.vmap(lambda x: seen.append(_route(x)) or x)(X[None])
    assert seen[-1].endswith(_by("cpu"))


def test_sizes_that_a_tracer_leaves_open():
    _tell({"aten": (9.0, 9.0), "cpu": (1.0, 1.0)}, lambda: atrous.explain(functional.conv2d, X, W, **OPTIONS))
    trace = make_fx(lambda x: functional.conv2d(x, W, **OPTIONS), tracing_mode="symbolic", _allow_non_fake_inputs=True)
    other = torch.randn(3, 8, 20, 21)
    torch.testing.assert_close(trace(X)(other), functional.conv2d(other, W, **OPTIONS, backend="reference"))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_what_the_winner_cannot_run_goes_where_it_went():
    class Tagged(torch.Tensor):
        pass

    _tell({"aten": (9.0, 9.0), "cpu": (1.0, 1.0)}, lambda: atrous.explain(functional.conv2d, X, W, **OPTIONS))
    traced = torch.jit.trace(lambda x: functional.conv2d(x, W, **OPTIONS), X)
    assert "aten::_convolution" in str(traced.graph)
    assert isinstance(functional.conv2d(X.as_subclass(Tagged), W, **OPTIONS), Tagged)


def test_transposed_convolutions_take_one_backend():
    w = torch.randn(8, 8, 2, 2)

    def run():
        return atrous.explain(functional.conv_transpose2d, X, w, stride=2)

    assert "'aten'" in run()
    call = _tell({"aten": (1.0, 3.0), "cpu": (2.0, 1.0)}, run)
    assert (call.inputs, call.outputs) == (8, 8)
    assert run().endswith(_by("cpu"))


def test_elements_at_learned_positions():
    w, p = torch.randn(8, 1, 5), torch.randn(2, 8, 1, 5)
    options = {"dilated_kernel_size": 25, "padding": "same", "groups": 8}

    def run(w=w):
        return atrous.explain(functional.dcls_conv2d, X, w, p, **options)

    assert run().startswith("tap_conv ")
    expected = functional.dcls_conv2d(X, w, p, **options)
    _tell({"aten": (1.0, 3.0), "cpu": (2.0, 1.0)}, run)
    assert run().startswith("tap_conv ")
    measured.clear()
    _tell({"aten": (1.0, 1.0), "cpu": (2.0, 1.0)}, run)
    assert run().startswith("conv2d ")
    torch.testing.assert_close(functional.dcls_conv2d(X, w, p, **options), expected, atol=1e-4, rtol=1e-4)


def test_a_gpu(monkeypatch):
    monkeypatch.setattr("atrous._backends.triton.UNAVAILABLE", None)
    with FakeTensorMode():
        x, w = torch.empty(2, 8, 32, 32, device="cuda"), torch.empty(8, 1, 3, 3, device="cuda")
        _tell({"aten": (2.0, 2.0), "triton": (1.0, 1.0)}, lambda: functional.conv2d(x, w, **OPTIONS))
        assert _route(x, w).endswith(_by("triton"))
        assert functional.conv2d(x, w, **OPTIONS).is_cuda
        elements, positions = torch.empty(8, 1, 5, device="cuda"), torch.empty(2, 8, 1, 5, device="cuda")

        def run(**named):
            options = {"dilated_kernel_size": 17, "padding": "same", "groups": 8}
            return atrous.explain(functional.dcls_conv2d, x, elements, positions, **options, **named)

        assert run().startswith("conv2d of (2, 8, 32, 32) by (8, 1, 17, 17) runs on 'aten'")
        assert run(backend="triton").startswith("tap_conv of (2, 8, 32, 32) by (8, 1, 20) runs on 'triton'")
        call = next(call for call, _ in _calls(run) if call.operation == "dcls")
        measured.add(call, {"aten": (2.0, 2.0), "triton": (1.0, 1.0)})
        assert run().startswith("tap_conv of (2, 8, 32, 32) by (8, 1, 20) runs on 'triton'")
