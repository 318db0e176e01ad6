import itertools
import re

import pytest
import torch
import torch.nn.functional as F

import atrous
from atrous import BackendError, GeometryError, ShapeError, functional
from atrous._backends import NAMES
from atrous.testing import assert_within_budget

THEIRS = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
OURS = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}

# name: batch, channels in, channels out, groups, size, kernel, options
CASES = {
    "1d": (2, 4, 6, 2, (9,), (4,), {"stride": 2, "padding": 1}),
    "1d-dilated": (2, 4, 4, 4, (9,), (3,), {"dilation": 4, "padding": 2, "output_padding": 3}),
    "1d-cut-beyond-a-tap": (1, 1, 1, 1, (12,), (2,), {"padding": 5, "stride": 3}),
    "1d-unbatched": (None, 3, 2, 1, (8,), (3,), {"stride": 3, "output_padding": 2}),
    "2d": (2, 4, 4, 4, (7, 8), (4, 4), {"stride": 2, "padding": 1}),
    "2d-dense": (2, 3, 2, 1, (5, 6), (3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "2d-anisotropic": (2, 4, 8, 4, (5, 6), (3, 2), {"stride": (3, 1), "padding": (2, 0), "dilation": (1, 3)}),
    "2d-multiplier": (2, 2, 6, 2, (5, 6), (3, 3), {"stride": 2, "dilation": 2}),
    "2d-gathering": (2, 8, 2, 2, (5, 6), (3, 3), {"padding": 1}),
    "2d-apart": (1, 2, 2, 2, (4, 5), (1, 2), {"stride": (3, 4), "output_padding": (2, 3)}),
    "2d-many-channels": (1, 9, 10, 1, (4, 5), (3, 3), {"stride": 2}),
    "2d-few-to-many": (1, 3, 32, 1, (4, 5), (4, 4), {"stride": 2, "padding": 1}),
    "2d-unbatched": (None, 4, 4, 4, (7, 8), (2, 2), {"stride": 2}),
    "2d-empty": (0, 4, 4, 4, (7, 8), (2, 2), {"stride": 2}),
    "3d": (2, 3, 3, 3, (3, 4, 5), (3, 2, 3), {"stride": (1, 2, 2), "padding": (1, 0, 1), "dilation": (2, 1, 1)}),
}

HERE = [backend for backend in NAMES["conv_transpose"] if backend != "triton"]
every_backend = pytest.mark.parametrize("backend", [None, *HERE])


def tensors(name, dtype=torch.float32, bias=True):
    batch, channels, outputs, groups, size, kernel, _ = CASES[name]
    generator = torch.Generator().manual_seed(0)
    lead = (channels,) if batch is None else (batch, channels)
    shapes = (*lead, *size), (channels, outputs // groups, *kernel), (outputs,)
    drawn = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    return drawn if bias else [*drawn[:2], None]


def options(name):
    return {**CASES[name][-1], "groups": CASES[name][3]}


def outcome(call, *leaves):
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    output = call(*leaves)
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
    return [output, *torch.autograd.grad(output, leaves, seed)]


def verb(kind, name, **more):
    call = kind[len(CASES[name][4])]
    return lambda *args: call(*args, **options(name), **more)


@every_backend
@pytest.mark.parametrize("name", CASES)
def test_grid(name, backend):
    results = outcome(verb(OURS, name, backend=backend), *tensors(name))
    own = outcome(verb(OURS, name, backend="reference"), *tensors(name))
    exact = outcome(verb(THEIRS, name), *tensors(name, torch.float64))
    for what, *values in zip(("output", "input", "weight", "bias"), results, own, exact, strict=True):
        assert_within_budget(*values, what=f"{what} of {name}")


@pytest.mark.parametrize("name", CASES)
def test_the_definition_is_torchs(name):
    results = outcome(verb(OURS, name, backend="reference"), *tensors(name, torch.float64))
    torch.testing.assert_close(results, outcome(verb(THEIRS, name), *tensors(name, torch.float64)))


@pytest.mark.parametrize("name", ["1d-dilated", "2d", "2d-multiplier", "2d-apart", "3d"])
def test_the_input_gradient_of_a_convolution(name):
    """The rows that torch's operator has, and no other: `conv` may round its size down."""
    x, w, _ = tensors(name, torch.float64)
    given = options(name)
    y = verb(OURS, name)(x, w)
    given.pop("output_padding", None)
    image = torch.zeros_like(y).requires_grad_()
    convolve = getattr(functional, f"conv{len(CASES[name][4])}d")
    z = convolve(image, w, **given)
    inside = tuple(slice(n) for n in x.shape[2:])
    seed = torch.zeros_like(z)
    seed[(..., *inside)] = x
    torch.testing.assert_close(torch.autograd.grad(z, image, seed)[0], y)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_derivatives_of_a_second_order_and_forward_mode(backend):
    leaves = tensors("2d-multiplier", torch.float64 if backend == "reference" else torch.float32)
    call = verb(OURS, "2d-multiplier", backend=backend)
    theirs = verb(THEIRS, "2d-multiplier")

    def second(run):
        x, w, b = (leaf.clone().requires_grad_() for leaf in leaves)
        first = torch.autograd.grad(run(x, w, b).pow(2).sum(), (x, w), create_graph=True)
        return torch.autograd.grad(sum(part.square().mean() for part in first), (x, w, b))

    close = {"rtol": 1e-4, "atol": 1e-2} if backend == "cpu" else {}
    torch.testing.assert_close(second(call), second(theirs), **close)
    tangents = tuple(torch.ones_like(leaf) for leaf in leaves)
    torch.testing.assert_close(
        torch.func.jvp(call, tuple(leaves), tangents), torch.func.jvp(theirs, tuple(leaves), tangents), **close
    )


@every_backend
def test_maps(backend):
    x, w, b = tensors("2d")
    xs = torch.stack([x, 2 * x, -x])
    call = verb(OURS, "2d", backend=backend)
    torch.testing.assert_close(torch.vmap(lambda t: call(t, w, b))(xs), torch.stack([call(t, w, b) for t in xs]))


@every_backend
def test_compile(backend):
    torch.compiler.reset()
    x, w, b = tensors("2d")
    call = verb(OURS, "2d", backend=backend)
    compiled = torch.compile(lambda *leaves: call(*leaves), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(outcome(compiled, x, w, b), outcome(call, x, w, b))


@pytest.mark.parametrize("backend", [None, "reference", "aten"])
def test_autocast_is_torchs(backend):
    x, w, b = tensors("2d")
    with torch.autocast("cpu", torch.bfloat16):
        result, expected = verb(OURS, "2d", backend=backend)(x, w, b), verb(THEIRS, "2d")(x, w, b)
    assert result.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(result, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64, torch.int64], ids=str)
def test_other_dtypes(dtype):
    x, w, _ = tensors("1d", torch.float32)
    x, w = (10 * x).to(dtype), (10 * w).to(dtype)
    result = verb(OURS, "1d")(x, w)
    assert result.dtype == dtype
    wide = dtype if dtype.is_complex else torch.float64
    expected = verb(THEIRS, "1d")(x.to(wide), w.to(wide))
    torch.testing.assert_close(result.to(wide), expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-3)


ROUTES = {
    ("2d", torch.float32): "'cpu', because taps are faster for",
    ("2d-many-channels", torch.float32): "'aten', because torch is faster for",
    ("2d-many-channels", torch.float64): "'cpu', because taps are faster for",
    ("2d-few-to-many", torch.float32): "'cpu', because taps are faster for",
    ("2d-few-to-many", torch.float64): "'cpu', because taps are faster for",
    ("2d-few-to-many", torch.bfloat16): "'cpu', because taps are faster for",
    ("1d", torch.float32): "'cpu', because taps are faster for",
    ("1d", torch.bfloat16): "'cpu', because taps are faster for",
    ("2d-dense", torch.bfloat16): "'cpu', because taps are faster for",
    ("2d", torch.float16): "'cpu', because taps are faster for",
    ("3d", torch.float64): "'cpu', because taps are faster for",
}


@pytest.mark.parametrize(("name", "dtype", "route"), [(*case, route) for case, route in ROUTES.items()])
def test_routes(name, dtype, route):
    x, w, _ = tensors(name, dtype)
    call = OURS[len(CASES[name][4])]
    text = atrous.explain(call, x, w, **options(name))
    assert text.startswith(f"{call.__name__} of {tuple(x.shape)} by {tuple(w.shape)} runs on {route}")


def test_other_layouts_stay_on_torch():
    x, w, _ = tensors("2d")
    x = x.to(memory_format=torch.channels_last)
    text = atrous.explain(functional.conv_transpose2d, x, w, **options("2d"))
    assert "runs on 'aten', because 'cpu' is chosen for contiguous tensors, got another memory format" in text
    assert verb(OURS, "2d")(x, w).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input": torch.ones(4)}, ShapeError, "conv_transpose1d: input: got shape (4,), expected (B, C, L) or (C, L)"),
        ({"weight": torch.ones(2, 2)}, ShapeError, "weight: got shape (2, 2), expected (C, D/groups, *K), 3 axes"),
        ({"groups": 3}, ShapeError, "got 2 input channels, weight (2, 1, 3) and groups=3, expected 2 input channels"),
        ({"groups": 0}, ShapeError, "groups=0"),
        ({"weight": torch.ones(3, 1, 3)}, ShapeError, "expected 3 input channels and groups to divide them"),
        ({"bias": torch.ones(2)}, ShapeError, "bias: got shape (2,), expected (1,)"),
        ({"weight": torch.ones(2, 1, 3).double()}, ShapeError, "expected one dtype"),
        ({"padding": "same"}, GeometryError, "padding: got ('same',), expected integers of at least 0"),
        ({"padding": ((1, 2),)}, GeometryError, "padding: got ((1, 2),), expected integers of at least 0"),
        ({"stride": 0}, GeometryError, "stride: got"),
        ({"stride": 2**31}, GeometryError, "stride: got"),
        ({"output_padding": 2, "stride": 2}, GeometryError, "output_padding: got (2,), expected less than the stride"),
        ({"padding": 4}, ShapeError, "padding that leaves (-1,) of the output; expected at least one pixel of both"),
        ({"input": torch.ones(1, 2, 0)}, ShapeError, "got an input of (0,) pixels"),
        ({"backend": "fast"}, BackendError, "conv_transpose: got backend='fast', expected None or one of"),
    ],
)
def test_messages(change, error, message):
    arguments = {"input": torch.ones(1, 2, 5), "weight": torch.ones(2, 1, 3), **change}
    with pytest.raises(error, match=re.escape(message)):
        functional.conv_transpose1d(**arguments)


def test_a_named_backend_is_not_replaced():
    x, w, _ = tensors("1d", torch.complex64)
    with pytest.raises(BackendError, match=r"conv_transpose: backend 'cpu' is for floating tensors .*; leave backend"):
        verb(OURS, "1d", backend="cpu")(x, w)


def test_every_phase():
    """Every stride, dilation, padding and size of a small kernel, against torch."""
    w = torch.randn(2, 1, 3)
    for stride, dilation, padding, size in itertools.product((1, 2, 3, 5), (1, 2, 3), (0, 1, 3), (2, 3, 7)):
        x = torch.randn(1, 2, size)
        given = {"stride": stride, "dilation": dilation, "padding": padding, "groups": 2}
        if (size - 1) * stride + 2 * dilation + 1 > 2 * padding:
            result = functional.conv_transpose1d(x, w, **given, backend="cpu")
            torch.testing.assert_close(result, F.conv_transpose1d(x, w, **given))
