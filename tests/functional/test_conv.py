import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from atrous import BackendError, Geometry, GeometryError, ShapeError, functional
from atrous._backends import NAMES
from atrous.testing import CONV_CASES, ConvCase, assert_within_budget

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TORCH = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

# What a backend can run: all dtypes, or float32.
HERE = [backend for backend in NAMES["conv"] if backend != "triton"]
RUNS = [(backend, dtype) for backend in HERE for dtype in DTYPES if backend != "cpu" or dtype == torch.float32]
ANY_DTYPE = [backend for backend in HERE if backend != "cpu"]

every_case = pytest.mark.parametrize("case", CONV_CASES, ids=lambda case: case.name)


def outcome(case: ConvCase, backend: str, dtype: torch.dtype, values: torch.dtype):
    """Return the output and every gradient in `dtype`, for values that the dtype `values` can hold."""
    tensors = [t if t is None else t.to(dtype).requires_grad_() for t in case.tensors(values)]
    output = CONV[case.ndim](*tensors, **case.options, backend=backend)
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaves = [t for t in tensors if t is not None]
    return [output, *torch.autograd.grad(output, leaves, seed.to(values).to(dtype))]


@pytest.mark.parametrize(("backend", "dtype"), RUNS, ids=str)
@every_case
def test_grid(case, backend, dtype):
    rounded = torch.float32 if dtype == torch.float64 else dtype
    exact = outcome(case, "reference", torch.float64, rounded)
    reference = outcome(case, "reference", rounded, rounded)
    result = outcome(case, backend, dtype, rounded)
    for name, *values in zip(("output", "input", "weight", "bias"), result, reference, exact, strict=False):
        assert values[0].dtype == dtype
        assert_within_budget(*values, what=f"{name} of {case.name}")


@every_case
def test_reference_is_torch(case):
    """Output and gradients against torch's operator on an input padded by hand."""
    geometry = Geometry.resolve(case.kernel, case.stride, case.padding, case.dilation, ndim=case.ndim)
    tensors = [t if t is None else t.requires_grad_() for t in case.tensors(torch.float64)]
    padded = F.pad(tensors[0], [side for pair in reversed(geometry.padding) for side in pair])
    expected = TORCH[case.ndim](padded, *tensors[1:], geometry.stride, 0, geometry.dilation, case.groups)
    result = CONV[case.ndim](*tensors, **case.options, backend="reference")
    assert result.shape[-case.ndim :] == geometry.output_size(case.size)
    leaves = [t for t in tensors if t is not None]
    seed = torch.randn_like(expected)
    for ours, theirs in zip(
        [result, *torch.autograd.grad(result, leaves, seed)],
        [expected, *torch.autograd.grad(expected, leaves, seed)],
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["1d-causal", "2d-anisotropic", "2d-multiplier", "2d-words", "3d"])
@pytest.mark.parametrize("backend", ANY_DTYPE)
def test_gradcheck(name, backend):
    case = next(case for case in CONV_CASES if case.name == name)
    tensors = [t.requires_grad_() for t in case.tensors(torch.float64)]

    def run(*args):
        return CONV[case.ndim](*args, **case.options, backend=backend)

    assert torch.autograd.gradcheck(run, tensors, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, tensors, fast_mode=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": [2], "padding": (1,)},
        {"stride": (1, 2), "padding": [1, 0], "dilation": (2, 1)},
        {"padding": "same", "dilation": 2},
        {"padding": "valid", "stride": 2},
        {"padding": "same", "dilation": (1, 2)},
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", HERE)
def test_torch_contract(options, backend):
    x, w, b = torch.randn(2, 3, 9, 10), torch.randn(4, 3, 3, 2), torch.randn(4)
    expected = F.conv2d(x, w, b, **options)
    torch.testing.assert_close(functional.conv2d(x, w, b, **options, backend=backend), expected)
    torch.testing.assert_close(functional.conv2d(x[0], w, b, **options, backend=backend), expected[0])


@pytest.mark.parametrize("backend", ANY_DTYPE)
def test_complex_numbers(backend):
    x, w = torch.randn(1, 2, 9, dtype=torch.complex128), torch.randn(2, 2, 3, dtype=torch.complex128)
    torch.testing.assert_close(functional.conv1d(x, w, dilation=2, backend=backend), F.conv1d(x, w, dilation=2))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_mode_pads_first(mode):
    x, w = torch.randn(1, 2, 8, 9), torch.randn(3, 2, 3, 3)
    expected = F.conv2d(F.pad(x, (2, 2, 4, 0), mode=mode), w, dilation=2)
    result = functional.conv2d(x, w, padding=("causal", 2), dilation=2, padding_mode=mode)
    torch.testing.assert_close(result, expected)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_sizes_are_torchs(data):
    size, kernel, stride, dilation, padding = (
        data.draw(st.tuples(*[st.integers(low, high)] * 2)) for low, high in ((1, 9), (1, 4), (1, 3), (1, 3), (0, 3))
    )
    geometry = Geometry.resolve(kernel, stride, padding, dilation, ndim=2)
    x, w = torch.randn(1, 1, *size), torch.randn(1, 1, *kernel)
    if 0 in geometry.output_size(size):
        with pytest.raises(ShapeError, match="expected at least the extent"):
            functional.conv2d(x, w, None, stride, padding, dilation)
        with pytest.raises(RuntimeError):
            F.conv2d(x, w, None, stride, padding, dilation)
        return
    expected = F.conv2d(x, w, None, stride, padding, dilation)
    assert expected.shape[2:] == geometry.output_size(size)
    torch.testing.assert_close(functional.conv2d(x, w, None, stride, padding, dilation, backend="reference"), expected)


def test_causal_reads_no_future():
    x = torch.randn(1, 1, 20, requires_grad=True)
    functional.conv1d(x, torch.randn(1, 1, 3), padding="causal", dilation=4, stride=2)[0, 0, 5].backward()
    assert x.grad[0, 0].nonzero().flatten().tolist() == [2, 6, 10]


@pytest.mark.parametrize("dilation", [1, (2, 3)])
def test_dilated_convolve_is_the_definition(dilation):
    signal, kernel = torch.randn(5, 6, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    d = (dilation, dilation) if isinstance(dilation, int) else dilation
    expected = np.zeros([s + step * (k - 1) for s, k, step in zip(signal.shape, kernel.shape, d, strict=True)])
    for (t0, t1), value in np.ndenumerate(signal.numpy()):
        for (u0, u1), weight in np.ndenumerate(kernel.numpy()):
            expected[t0 + d[0] * u0, t1 + d[1] * u1] += weight * value
    np.testing.assert_allclose(functional.dilated_convolve(signal, kernel, dilation).numpy(), expected, atol=1e-12)


def test_dilated_convolve_commutes_and_takes_any_rank():
    signal, kernel = torch.randint(9, (3, 2, 3, 2)), torch.randint(9, (2, 2, 1, 2))
    forth = functional.dilated_convolve(signal, kernel)
    assert torch.equal(forth, functional.dilated_convolve(kernel, signal))
    assert forth.shape == (4, 3, 3, 3)
    assert forth.sum() == signal.sum() * kernel.sum()


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("padding", ["same", ((3, 0), (1, 2)), ("causal", 1)], ids=str)
def test_compile_export_vmap_autocast(padding, backend):
    w, b = torch.randn(4, 3, 3, 3), torch.randn(4)

    def run(x):
        return functional.conv2d(x, w, b, padding=padding, dilation=2, backend=backend)

    torch.compiler.reset()  # all variants together would be more graphs than one function may have
    x = torch.randn(2, 3, 12, 11)
    expected = run(x)
    torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="aot_eager")(x), expected)
    torch.testing.assert_close(torch.vmap(run)(x[None])[0], expected)
    if backend == "cpu":
        return
    with torch.autocast("cpu", torch.bfloat16):
        assert run(x).dtype == torch.bfloat16
        torch.testing.assert_close(run(x).float(), expected, rtol=0.05, atol=0.1)


def test_inductor_smoke():
    def run(x, w):
        return functional.conv1d(x, w, padding="causal", dilation=4).relu()

    x, w = torch.randn(2, 3, 40), torch.randn(5, 3, 3)
    torch.testing.assert_close(torch.compile(run, fullgraph=True)(x, w), run(x, w))


def bad(ndim, *shapes, **options):
    tensors = [None if shape is None else torch.zeros(shape) for shape in shapes]
    return lambda: CONV[ndim](*tensors, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (bad(2, (3, 8), (4, 3, 3, 3)), ShapeError, r"conv2d: input: got shape \(3, 8\), expected \(B, C, H, W\)"),
        (bad(1, (1, 3, 8), (4, 3, 3, 3)), ShapeError, r"conv1d: weight: got shape \(4, 3, 3, 3\), expected .* 3 axes"),
        (bad(1, (1, 4, 8), (4, 3, 3)), ShapeError, "conv1d: got 4 input channels, weight .* expected 3"),
        (bad(1, (1, 6, 8), (5, 3, 3), groups=2), ShapeError, "groups to divide the 5 output channels"),
        (bad(1, (1, 3, 8), (5, 3, 3), groups=0), ShapeError, "groups=0"),
        (bad(1, (1, 3, 8), (4, 3, 3), (3,)), ShapeError, r"bias: got shape \(3,\), expected \(4,\)"),
        (bad(1, (1, 3, 8), (4, 3, 3), dilation=4), ShapeError, r"input of \(8,\) pixels.*extent \(9,\)"),
        (bad(1, (1, 3, 8), (4, 3, 3), stride=0), GeometryError, r"stride: got \(0,\), expected integers of at least 1"),
        (
            bad(2, (3, 8, 8), (4, 3, 3, 3), stride=(1, 2**31)),
            GeometryError,
            r"stride: got \(1, 2147483648\), .* at most",
        ),
        (bad(1, (1, 3, 8), (4, 3, 3), stride=1.5), GeometryError, "stride: got 1.5, expected integers"),
        (bad(1, (1, 3, 8), (4, 3, 3), padding=-1), GeometryError, "padding: got .* at least 0"),
        (bad(1, (1, 3, 8), (4, 3, 3), padding="full"), GeometryError, "padding: got 'full', expected one of"),
        (bad(1, (1, 3, 8), (4, 3, 3), padding=(1, 2)), GeometryError, r"write \(\(1, 2\),\)"),
        (bad(2, (3, 8, 8), (4, 3, 3, 3), padding=((1, 2, 3), 0)), GeometryError, r"expected \(before, after\)"),
        (bad(2, (3, 8, 8), (4, 3, 3, 3), dilation=(1, 2, 3)), GeometryError, "dilation: got 3 entries"),
        (bad(1, (1, 3, 8), (4, 3, 3), backend="cudnn"), BackendError, "got backend='cudnn', expected None or one of"),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_one_bad_call_does_not_harm_the_next():
    """Equal values of other types (True == 1 == 1.0) must neither poison the cached plans nor slip through them."""
    x, w = torch.randn(1, 2, 9), torch.randn(3, 2, 3)
    expected = F.conv1d(x, w)
    for stride in (True, np.int64(1), torch.tensor(1), 1):
        torch.testing.assert_close(functional.conv1d(x, w, stride=stride), expected)
    with pytest.raises(GeometryError, match=r"stride: got 1.0, expected integers"):
        functional.conv1d(x, w, stride=1.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("backend", ANY_DTYPE)
def test_autocast_is_torchs(backend, dtype):
    x, w = torch.randn(1, 2, 9).to(dtype), torch.randn(3, 2, 3).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.conv1d(x, w, dilation=2)
        result = functional.conv1d(x, w, dilation=2, backend=backend)
    assert result.dtype == expected.dtype
    torch.testing.assert_close(result, expected, rtol=2 * torch.finfo(expected.dtype).eps, atol=1e-2)


@pytest.mark.parametrize("backend", ANY_DTYPE)
def test_autocast_leaves_a_mix_that_it_does_not_convert(backend):
    x, w, b = torch.randn(1, 2, 9), torch.randn(3, 2, 3), torch.randn(3)
    with torch.autocast("cpu", torch.bfloat16):
        for tensors in ((x.double(), w, b), (x, w, b.double()), (x.to(torch.complex64), w, b)):
            with pytest.raises(ShapeError, match=r"conv1d: got tensors of .*, expected one dtype; convert them, as"):
                functional.conv1d(*tensors, backend=backend)
        assert functional.conv1d(x.half(), w, b.bfloat16(), backend=backend).dtype == torch.bfloat16


def test_integers_stay_exact_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        result = functional.dilated_convolve(torch.tensor([1, 1000, 1001]), torch.tensor([1, 1]))
    assert result.tolist() == [1, 1001, 2001, 1001]


@pytest.mark.parametrize("padding", ["same", "causal", ((1, 3), (2, 2))], ids=str)
def test_the_memory_format_stays(padding):
    x, w = torch.randn(2, 4, 9, 9).to(memory_format=torch.channels_last), torch.randn(6, 4, 3, 3)
    assert functional.conv2d(x, w, padding=padding, dilation=2).is_contiguous(memory_format=torch.channels_last)


class Call(torch.nn.Module):
    """What an exporter wants: a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_export_with_free_sizes(backend, mode):
    def run(x, w):
        return functional.conv2d(x, w, None, 2, ("causal", 2), 2, padding_mode=mode, backend=backend)

    x, w = torch.randn(2, 3, 12, 13), torch.randn(4, 3, 3, 3)
    auto = torch.export.Dim.AUTO
    program = torch.export.export(Call(run), (x, w), dynamic_shapes=(({0: auto, 2: auto, 3: auto}, None),))
    other = torch.randn(3, 3, 17, 20)
    torch.testing.assert_close(program.module()(other, w), run(other, w))


@pytest.mark.parametrize("channels", [1, 20], ids=["depthwise", "dense"])
@pytest.mark.parametrize("backend", [None, *HERE])
def test_a_symbolic_trace_serves_every_size(backend, channels):
    x, w = torch.randn(2, 20, 12, 13), torch.randn(20, channels, 3, 3)

    def run(x, w):
        return functional.conv2d(x, w, None, 1, "same", 2, 20 // channels, backend=backend)

    traced, other = make_fx(run, tracing_mode="symbolic")(x, w), torch.randn(3, 20, 17, 14)
    torch.testing.assert_close(traced(other, w), run(other, w))


@pytest.mark.parametrize("free", [None, ShapeEnv()], ids=["sizes", "free sizes"])
def test_fake_tensors_outside_of_their_mode(free):
    x, w = torch.randn(2, 4, 9, 9), torch.randn(4, 1, 3, 3)
    functional.conv2d(x, w, groups=4)  # keeps its taps, which no fake tensor may meet
    with FakeTensorMode(shape_env=free) as mode:
        fake = [mode.from_tensor(tensor) for tensor in (x, w)]
        assert functional.conv2d(*fake, groups=4, backend="cpu").shape[2] == 7
    assert functional.conv2d(*fake, groups=4).shape[2] == 7
    with pytest.raises(BackendError, match="'cpu' is for plain tensors, got a FakeTensor"):
        functional.conv2d(*fake, groups=4, backend="cpu")


@pytest.mark.parametrize("free", [None, ShapeEnv()], ids=["sizes", "free sizes"])
@pytest.mark.parametrize("channels", [1, 3, 48])
def test_a_backward_outside_of_the_mode_of_the_forward(channels, free):
    """Whoever runs it: taps, taps after torch, or torch."""
    tensors = [torch.randn(shape, requires_grad=True) for shape in ((2, channels, 9, 9), (48, channels, 3, 3))]
    torch.autograd.backward(functional.conv2d(*tensors).sum())
    with FakeTensorMode(shape_env=free) as mode:
        fake = [mode.from_tensor(tensor) for tensor in tensors]
        output = functional.conv2d(*fake).sum()
    for gradient, tensor in zip(torch.autograd.grad(output, fake), tensors, strict=True):
        assert tuple(map(int, gradient.shape)) == tensor.shape


def test_a_free_dilation_without_a_tracer():
    dilation = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(torch.zeros(3)).shape[0]
    assert type(dilation) is torch.SymInt
    x, w = torch.randn(2, 4, 9, 9), torch.randn(4, 1, 3, 3)
    expected = F.conv2d(x, w, groups=4, dilation=3)
    torch.testing.assert_close(functional.conv2d(x, w, groups=4, dilation=dilation, backend="cpu"), expected)


def test_dilated_convolve_compiles_exports_and_differentiates():
    signal, kernel = torch.randn(9, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    expected = functional.dilated_convolve(signal, kernel, 2)
    run = Call(lambda s, k: functional.dilated_convolve(s, k, 2))
    torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="aot_eager")(signal, kernel), expected)
    torch.testing.assert_close(torch.export.export(run, (signal, kernel)).module()(signal, kernel), expected)
    torch.testing.assert_close(torch.vmap(run, (0, None))(signal[None], kernel)[0], expected)
    assert torch.autograd.gradcheck(run, (signal.requires_grad_(), kernel.requires_grad_()), check_forward_ad=True)


def test_more_messages():
    x, w, b = torch.zeros(1, 1, 4), torch.zeros(1, 1, 2), torch.zeros(1)
    for device in ("cpu", "meta"):
        for tensors in ((x, w.double()), (x, w, b.double())):
            with pytest.raises(ShapeError, match=r"of torch.float32, torch.float64, expected one dtype.*autocast"):
                functional.conv1d(*(tensor.to(device) for tensor in tensors))
    with pytest.raises(
        BackendError, match=r"'aten' is for floating and complex tensors of 1 to 3 axes, got torch.int64 tensors"
    ):
        functional.conv1d(torch.ones(1, 1, 4).long(), torch.ones(1, 1, 2).long(), backend="aten")
    with pytest.raises(ShapeError, match="a signal with 2 axes and a kernel with 1"):
        functional.dilated_convolve(torch.zeros(3, 3), torch.zeros(3))
    with pytest.raises(ShapeError, match="an empty signal of shape"):
        functional.dilated_convolve(torch.zeros(0), torch.zeros(3))
    with pytest.raises(ShapeError, match=r"dilated_convolve: got tensors of torch.float32, torch.int64"):
        functional.dilated_convolve(torch.zeros(3), torch.ones(3).long())
    with pytest.raises(GeometryError, match="padding_mode: got 'refl', expected one of"):
        functional.conv1d(x, w, padding_mode="refl")
    for mode, most in (("reflect", 3), ("circular", 4)):
        with pytest.raises(ShapeError, match=rf"{mode}'.*on an axis of 4 pixels, expected at most {most}"):
            functional.conv1d(x, w, padding=5, padding_mode=mode)


@pytest.mark.parametrize("backend", ANY_DTYPE)
def test_meta_tensors(backend):
    x, w = torch.zeros(1, 2, 9, device="meta"), torch.zeros(4, 2, 3, device="meta")
    assert functional.conv1d(x, w, dilation=2, backend=backend).shape == (1, 4, 5)


def test_the_reference_without_channels_is_the_bias():
    bias = torch.tensor([1.0, 2.0])
    result = functional.conv1d(torch.zeros(1, 0, 5), torch.zeros(2, 0, 3), bias, backend="reference")
    assert torch.equal(result, bias[None, :, None].expand(1, 2, 3))


def test_integers_go_to_the_reference():
    x = torch.arange(6).view(1, 1, 6)
    assert functional.conv1d(x, torch.tensor([[[1, -1]]])).flatten().tolist() == [-1] * 5


def test_every_padding_word_on_every_axis():
    for words in itertools.product(("valid", "same", "causal"), repeat=2):
        x, w = torch.randn(1, 1, 7, 8), torch.randn(1, 1, 3, 2)
        sides = Geometry.resolve((3, 2), padding=words, dilation=2, ndim=2).padding
        result = functional.conv2d(x, w, padding=words, dilation=2)
        torch.testing.assert_close(result, functional.conv2d(x, w, padding=sides, dilation=2, backend="reference"))
