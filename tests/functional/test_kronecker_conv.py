import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import atrous
from atrous import BackendError, GeometryError, ShapeError, functional
from atrous.testing import assert_within_budget

OURS = {1: functional.kronecker_conv1d, 2: functional.kronecker_conv2d, 3: functional.kronecker_conv3d}
THEIRS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
METHODS = ("cascade", "dense", None)

# name: batch, groups, rank, shapes (o, c, *K), size, options
CASES = {
    "1d": (2, 1, 2, ((2, 3, 2), (3, 2, 3)), (20,), {"padding": "same", "dilation": 2}),
    "1d-causal": (2, 2, 1, ((1, 2, 3), (3, 1, 2)), (15,), {"padding": "causal", "stride": 3}),
    "2d-mixing": (2, 1, 3, ((2, 2, 1, 1), (3, 2, 3, 3)), (9, 8), {"padding": 1}),
    "2d-composite": (2, 1, 2, ((2, 1, 3, 2), (1, 2, 2, 3)), (15, 14), {"padding": ((3, 1), (0, 4)), "stride": 2}),
    "2d-depthwise": (2, 4, 1, ((1, 1, 3, 3),) * 3, (20, 18), {"padding": "same"}),
    "2d-depthwise-sum": (2, 4, 3, ((1, 1, 2, 3), (1, 1, 3, 1)), (13, 9), {"dilation": (2, 1), "stride": (4, 1)}),
    "2d-reflect": (2, 3, 1, ((2, 1, 2, 2), (1, 1, 2, 2)), (9, 9), {"padding": (2, 1), "padding_mode": "reflect"}),
    "2d-circular": (1, 1, 2, ((1, 2, 2, 2), (2, 1, 3, 3)), (11, 9), {"padding": 4, "padding_mode": "circular"}),
    "2d-one-factor": (2, 2, 2, ((2, 2, 3, 3),), (7, 7), {"padding": 1}),
    "2d-unbatched": (None, 2, 2, ((2, 1, 2, 1), (1, 2, 1, 3)), (7, 9), {"padding": 1}),
    "2d-empty": (0, 2, 2, ((2, 1, 2, 1), (1, 2, 1, 3)), (7, 9), {"padding": 1}),
    "3d": (1, 1, 2, ((2, 1, 2, 1, 2), (1, 2, 2, 3, 1)), (7, 6, 5), {"padding": (2, "same", 1), "stride": (2, 1, 1)}),
}


def tensors(name, dtype=torch.float64):
    batch, groups, rank, shapes, size, _ = CASES[name]
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = (groups * math.prod(shape[axis] for shape in shapes) for axis in (1, 0))
    lead = (inputs,) if batch is None else (batch, inputs)
    sizes = (*lead, *size), (outputs,), *((rank, groups * o, *rest) for o, *rest in shapes)
    return [torch.randn(one, generator=generator, dtype=torch.float64).to(dtype) for one in sizes]


def verb(name, **more):
    _, groups, _, _, size, options = CASES[name]
    call = OURS[len(size)]
    return lambda x, b, *factors: call(x, factors, b, groups=groups, **{**options, **more})


def padded(x, padding, kernel, dilation, mode):
    """Pad as the words and numbers say, without our code."""
    sides = []
    for entry, k, d in zip(padding, kernel, dilation, strict=True):
        total = d * (k - 1)
        words = {"same": (total // 2, total - total // 2), "causal": (total, 0), "valid": (0, 0)}
        sides = [*(words[entry] if isinstance(entry, str) else entry), *sides]
    return F.pad(x, sides, mode="constant" if mode == "zeros" else mode)


def definition(name):
    """Convolve densely by torch with a product made entry by entry."""
    _, groups, _, shapes, size, options = CASES[name]
    ndim = len(size)

    def per_axis(value):
        return value if isinstance(value, tuple) else (value,) * ndim

    def run(x, b, *factors):
        blocks = []
        for group in range(groups):
            parts = [
                factor[:, group * shape[0] : (group + 1) * shape[0]]
                for factor, shape in zip(factors, shapes, strict=True)
            ]
            blocks.append(sum(functional.kronecker(*term) for term in zip(*parts, strict=True)))
        weight, dilation = torch.cat(blocks), per_axis(options.get("dilation", 1))
        padding = [entry if isinstance(entry, tuple | str) else (entry,) * 2 for entry in per_axis(options["padding"])]
        around = padded(x, padding, weight.shape[2:], dilation, options.get("padding_mode", "zeros"))
        return THEIRS[ndim](around, weight, b, options.get("stride", 1), 0, dilation, groups)

    options = {"padding": 0, **options}
    return run


def outcome(call, *leaves):
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    output = call(*leaves)
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [output, *torch.autograd.grad(output, leaves, seed.to(output.dtype))]


def assert_equal(results, expected, bound=1e-12):
    for result, exact in zip(results, expected, strict=True):
        assert result.shape == exact.shape
        if exact.numel():
            assert (result - exact).abs().max() <= bound * exact.abs().max()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_dense_convolution(name, method):
    leaves = tensors(name)
    assert_equal(outcome(verb(name, method=method), *leaves), outcome(definition(name), *leaves))


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_every_shape(data):
    ndim, count, rank, groups = (data.draw(st.integers(1, most)) for most in (2, 3, 3, 3))
    shapes = [data.draw(st.tuples(*[st.integers(1, 3 if count == 2 else 2)] * (2 + ndim))) for _ in range(count)]
    factors = [torch.randn(rank, groups * o, *rest, dtype=torch.double) for o, *rest in shapes]
    outputs, inputs, *kernel = (math.prod(column) for column in zip(*shapes, strict=True))
    stride, dilation = (tuple(data.draw(st.integers(1, most)) for _ in range(ndim)) for most in (4, 3))
    padding = [(data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))) for _ in range(ndim)]
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = [
        max(1, extent - sum(sides)) + data.draw(st.integers(0, 7))
        for extent, sides in zip(extents, padding, strict=True)
    ]
    x, b = torch.randn(2, groups * inputs, *size).double(), torch.randn(groups * outputs).double()
    weight = functional.kronecker_kernel(factors, groups)
    around = padded(x, padding, kernel, dilation, "zeros")
    expected = THEIRS[ndim](around, weight, b, stride, 0, dilation, groups)
    for method in METHODS:
        options = (stride, tuple(padding), dilation, groups)
        assert_equal([OURS[ndim](x, factors, b, *options, method=method)], [expected])


@pytest.mark.parametrize("name", ["1d", "2d-composite", "2d-depthwise-sum"])
@pytest.mark.parametrize("method", ["cascade", "dense"])
def test_float32_is_within_budget(name, method):
    leaves = tensors(name, torch.float32)
    results = outcome(verb(name, method=method), *leaves)
    own, exact = outcome(definition(name), *leaves), outcome(definition(name), *tensors(name))
    for values in zip(results, own, exact, strict=True):
        assert_within_budget(*values, what=name)


@pytest.mark.parametrize("name", ["1d-causal", "2d-composite"])
def test_gradcheck(name):
    leaves = [leaf[..., :7, :7] if leaf.ndim == 4 else leaf for leaf in tensors(name)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    call = verb(name, method="cascade", padding=9)
    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("method", ["cascade", None])
def test_compile(method):
    torch.compiler.reset()
    call, leaves = verb("2d-composite", method=method), tensors("2d-composite")
    compiled = torch.compile(lambda *args: call(*args), fullgraph=True, backend="aot_eager")
    assert_equal(outcome(compiled, *leaves), outcome(call, *leaves))


@pytest.mark.parametrize("stride", [1, 2])
def test_compile_with_all_sizes_left_free(stride):
    torch.compiler.reset()
    call, (x, *leaves) = verb("2d-composite", stride=stride), tensors("2d-composite")
    compiled = torch.compile(lambda *args: call(*args), fullgraph=True, dynamic=True, backend="aot_eager")
    for one in (x, x[..., 1:]):
        assert_equal(outcome(compiled, one, *leaves), outcome(call, one, *leaves))


def test_export_with_sizes_left_free():
    factors = torch.nn.ParameterList(torch.randn(1, 4, 1, 3, 3) for _ in range(3))

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.factors = factors

        def forward(self, x):
            return functional.kronecker_conv2d(x, [*self.factors], padding="same", groups=4)

    layer, x = Layer(), torch.randn(2, 4, 20, 22)
    auto = torch.export.Dim.AUTO
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    other = torch.randn(3, 4, 31, 9)
    torch.testing.assert_close(program.module()(other), layer(other), rtol=1e-4, atol=1e-3)


def test_maps():
    x, b, *factors = tensors("2d-composite")
    call = verb("2d-composite", method="cascade")
    xs = torch.stack([x, 2 * x, -x])
    torch.testing.assert_close(
        torch.vmap(lambda t: call(t, b, *factors))(xs), torch.stack([call(t, b, *factors) for t in xs])
    )


@pytest.mark.parametrize("method", ["cascade", "dense"])
def test_autocast(method):
    leaves = tensors("2d-mixing", torch.float32)
    row, *parts = torch.randn(3, 6), torch.randn(2, 2, 3), torch.randn(2, 4, 2)
    bias = torch.randn(8)
    matrix = functional.kronecker_kernel(parts)
    exact = definition("2d-mixing")(*leaves), F.linear(row, matrix, bias)
    with torch.autocast("cpu", torch.bfloat16):
        image = verb("2d-mixing", method=method)(*leaves)
        results = image, functional.kronecker_linear(row, parts, bias, method=method)
    for result, expected in zip(results, exact, strict=True):
        assert result.dtype == torch.bfloat16
        assert (result - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("method", ["cascade", "dense"])
def test_any_layout(method):
    for name in ("2d-depthwise", "2d-mixing"):
        leaves = tensors(name)
        expected = verb(name, method=method)(*leaves)
        strange = [leaf.flip(0).transpose(-1, -2).contiguous().transpose(-1, -2).flip(0) for leaf in leaves[2:]]
        for x in (
            leaves[0].to(memory_format=torch.channels_last),
            leaves[0].repeat(1, 1, 1, 2)[..., : leaves[0].shape[3]],
        ):
            assert_equal([verb(name, method=method)(x, leaves[1], *strange)], [expected])


@pytest.mark.parametrize("backend", ["reference", "aten", "cpu"])
def test_backends(backend):
    leaves = tensors("2d-depthwise-sum")
    result = verb("2d-depthwise-sum", method="cascade", backend=backend)(*leaves)
    assert_equal([result], [definition("2d-depthwise-sum")(*leaves)])


def test_a_cascade_is_dilated_convolutions():
    x, factors = torch.zeros(8, 64, 56, 56), [torch.zeros(1, 64, 1, 3, 3)] * 3
    lines = atrous.explain(functional.kronecker_conv2d, x, factors, padding=13, groups=64).splitlines()
    assert [line.split(" by ")[0] for line in lines] == [
        "conv2d of (8, 64, 56, 56)",
        "conv2d of (8, 64, 64, 64)",
        "conv2d of (8, 64, 58, 58)",
    ]


ROWS = {"two": ((2, 3), (4, 5)), "three": ((3, 1), (2, 3), (1, 4)), "one": ((4, 6),)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("lead", [(), (3,), (2, 0), (2, 3)], ids=str)
def test_linear_is_the_dense_matrix(lead, name, method):
    factors = [torch.randn(2, *shape, dtype=torch.double) for shape in ROWS[name]]
    matrix = sum(functional.kronecker(*term) for term in zip(*factors, strict=True))
    x, b = torch.randn(*lead, matrix.shape[1]).double(), torch.randn(len(matrix)).double()
    results = outcome(lambda x, b, *parts: functional.kronecker_linear(x, parts, b, method=method), x, b, *factors)
    expected = outcome(
        lambda x, b, *parts: x @ sum(functional.kronecker(*term) for term in zip(*parts, strict=True)).T + b,
        x, b, *factors,
    )  # fmt: skip
    assert_equal(results, expected)


def test_linear_under_gradcheck_compile_and_vmap():
    torch.compiler.reset()
    factors = [torch.randn(2, *shape, dtype=torch.double, requires_grad=True) for shape in ROWS["two"]]
    x = torch.randn(3, 15, dtype=torch.double, requires_grad=True)

    def call(x, *parts):
        return functional.kronecker_linear(x, parts, method="cascade")

    assert torch.autograd.gradcheck(call, (x, *factors))
    expected = call(x, *factors)
    torch.testing.assert_close(torch.vmap(lambda row: call(row, *factors))(x), expected)
    for run in (call, lambda x, *parts: functional.kronecker_linear(x, parts)):
        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, *factors), expected)


def test_linear_of_a_vector_is_a_matrix_between_two():
    a, b, x = torch.randn(2, 3), torch.randn(4, 5), torch.randn(15)
    expected = (a @ x.reshape(3, 5) @ b.T).reshape(8)
    torch.testing.assert_close(functional.kronecker_linear(x, [a[None], b[None]], method="cascade"), expected)


X, A, B = torch.ones(1, 4, 9), torch.ones(1, 2, 2, 3), torch.ones(1, 2, 2, 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input": torch.ones(9)}, ShapeError, "input: got shape (9,), expected (B, C, L) or (C, L)"),
        ({"input": torch.ones(1, 5, 9)}, ShapeError, "got 5 input channels and factors [(1, 2, 2, 3)"),
        ({"groups": 2}, ShapeError, "expected 8 input channels, groups times the product of all c"),
        ({"groups": 3}, ShapeError, "and groups=3, expected groups to divide the second size of all"),
        ({"factors": []}, ShapeError, "kronecker_conv1d: factors: got list, expected a sequence of"),
        ({"factors": [A, B[..., None]]}, ShapeError, "with the same r and 4 axes in all"),
        ({"factors": [A.double(), B.double()]}, ShapeError, "got tensors of torch.float32, torch.float64"),
        ({"bias": torch.ones(3)}, ShapeError, "kronecker_conv1d: bias: got shape (3,), expected (4,)"),
        ({"input": torch.ones(1, 4, 5)}, ShapeError, "got an input of (5,) pixels, padding included, under a"),
        ({"padding_mode": "wrap"}, GeometryError, "kronecker_conv1d: padding_mode: got 'wrap', expected one of"),
        ({"padding_mode": "reflect", "padding": 9}, ShapeError, "padding_mode 'reflect': got padding (9, 9) on"),
        ({"stride": 0}, GeometryError, "stride: got"),
        ({"method": "fast"}, GeometryError, "kronecker_conv1d: method: got 'fast', expected one of (None, 'cascade'"),
        ({"backend": "fast"}, BackendError, "conv: got backend='fast', expected None or one of"),
    ],
)  # fmt: skip
def test_messages(change, error, message):
    arguments = {"input": X, "factors": [A, B], **change}
    with pytest.raises(error, match=re.escape(message)):
        functional.kronecker_conv1d(**arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input": torch.ones(2, 5)}, ShapeError, "kronecker_linear: input: got shape (2, 5), expected (..., 6)"),
        ({"input": torch.tensor(1.0)}, ShapeError, "kronecker_linear: input: got shape (), expected (..., 6)"),
        ({"factors": [A]}, ShapeError, "expected (r, groups o, c, *K) with the same r and 3 axes in all"),
        ({"bias": torch.ones(3)}, ShapeError, "kronecker_linear: bias: got shape (3,), expected (8,)"),
        ({"bias": torch.ones(8).double()}, ShapeError, "kronecker_linear: got tensors of torch.float32, torch.float64"),
        ({"method": "fast"}, GeometryError, "kronecker_linear: method: got 'fast', expected one of"),
    ],
)
def test_messages_of_linear(change, error, message):
    arguments = {"input": torch.ones(2, 6), "factors": [torch.ones(1, 2, 2), torch.ones(1, 4, 3)], **change}
    with pytest.raises(error, match=re.escape(message)):
        functional.kronecker_linear(**arguments)
