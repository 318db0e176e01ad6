import functools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from atrous import BackendError, GeometryError, ShapeError
from atrous._backends import NAMES, cpu
from atrous.functional import tap_conv
from atrous.testing import TAP_CASES, assert_within_budget

CASES = {case.name: case for case in TAP_CASES}
ISAS = ("", "portable", "avx2", "avx512")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

HERE = [backend for backend in NAMES["tap_conv"] if backend != "triton"]
every_backend = pytest.mark.parametrize("backend", HERE)


def per_axis(value, ndim):
    return (value,) * ndim if isinstance(value, int) else value


def outcome(run, case, dtype):
    """Return the output and every gradient in `dtype`, for values that float32 can hold."""
    *tensors, bias = case.tensors(torch.float32)
    input, weight, bias = (t if t is None else t.to(dtype).requires_grad_() for t in (*tensors[:2], bias))
    output = run(case, input, weight, tensors[2], bias)
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    leaves = [tensor for tensor in (input, weight, bias) if tensor is not None]
    return [output, *torch.autograd.grad(output, leaves, seed.to(dtype))]


def through(backend):
    return lambda case, *tensors: tap_conv(*tensors, **case.options, backend=backend)


def forced(isa):
    """Return the registered operation on one instruction set, which its derivatives keep to."""

    def run(case, input, weight, offsets, bias):
        batched = input if case.batch is not None else input[None]
        steps = per_axis(case.stride, case.ndim), per_axis(case.upsample, case.ndim)
        size = definition(case.name)[0].shape[-case.ndim :]
        offsets = offsets.clamp(1 - 2**31, 2**31 - 1).int()
        output = torch.ops.atrous.tap_conv(batched, weight, offsets, bias, *steps, size, isa)
        return output if case.batch is not None else output[0]

    return run


@functools.cache
def definition(name, dtype=torch.float64):
    return outcome(through("reference"), CASES[name], dtype)


def hold(case, results, dtype):
    exact, own = definition(case.name), definition(case.name, torch.float32)
    for what, *values in zip(("output", "input", "weight", "bias"), results, own, exact, strict=False):
        assert values[0].dtype == dtype
        assert_within_budget(*values, what=f"{what} of {case.name}")


@pytest.mark.parametrize("case", TAP_CASES, ids=lambda case: case.name)
def test_grid(case):
    hold(case, outcome(through("cpu"), case, torch.float32), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", TAP_CASES, ids=lambda case: case.name)
def test_grid_of_instruction_sets(case, isa, dtype):
    try:
        results = outcome(forced(isa), case, dtype)
    except RuntimeError as error:
        if "not supported by this processor" not in str(error):
            raise
        pytest.skip(str(error))
    hold(case, results, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_16_bits_are_read_and_rounded_as_torch_does(isa, dtype):
    """Every number there is, and products that fall between two of them, subnormal and too large ones among them."""
    x = torch.arange(-(2**15), 2**15).short().view(dtype).reshape(1, 1, -1)
    for factor in (1.0, 1.3671875, 2.0**-9, 2.0**9):
        w = torch.full((1, 1, 1), factor, dtype=dtype)
        call = x, w, torch.zeros(1, 1, dtype=torch.int32), None, (1,), (1,), x.shape[2:], isa
        try:
            result = torch.ops.atrous.tap_conv(*call)
        except RuntimeError as error:
            pytest.skip(str(error))
        torch.testing.assert_close(result, (x.float() * w.float()).to(dtype), rtol=0, atol=0, equal_nan=True)


def test_other_dtypes_go_to_the_reference():
    x, w, offsets = torch.arange(5).reshape(1, 1, 5), torch.tensor([[[1, 10]]]), torch.tensor([[0], [1]])
    assert tap_conv(x, w, offsets).tolist() == [[[10, 21, 32, 43, 4]]]


@every_backend
def test_a_tap_outside_is_not_multiplied(backend):
    inf = float("inf")
    x = torch.ones(1, 1, 4, requires_grad=True)
    w = torch.tensor([[[inf, 1.0, inf]]], requires_grad=True)
    y = tap_conv(x, w, torch.tensor([[-9], [0], [9]]), backend=backend)
    assert y.tolist() == [[[1, 1, 1, 1]]]
    grads = torch.autograd.grad(y, (x, w), torch.tensor([[[inf, 1.0, 1.0, 1.0]]]))
    assert grads[0].tolist() == [[[inf, 1, 1, 1]]]
    assert grads[1].tolist() == [[[0, inf, 0]]]


@every_backend
def test_an_infinite_border_stays_at_its_taps(backend):
    x = torch.tensor([[[float("inf"), 1.0, 2.0, float("nan")]]])
    y = tap_conv(x, torch.zeros(1, 1, 1), torch.tensor([[4]]), torch.ones(1), backend=backend)
    assert y.tolist() == [[[1, 1, 1, 1]]]
    g = torch.tensor([[[float("inf"), 0.0, 0.0, 0.0]]])
    w = torch.ones(1, 1, 2, requires_grad=True)
    y = tap_conv(torch.ones(1, 1, 4), w, torch.tensor([[-1], [1]]), backend=backend)
    assert torch.autograd.grad(y, w, g)[0].tolist() == [[[0, float("inf")]]]


@every_backend
def test_taps_that_meet_are_added_to_no_infinity(backend):
    """Two weights whose sum is too large for float32, on pixels where what they add up to is not."""
    largest = torch.finfo(torch.float32).max
    x, w = torch.full((1, 1, 4, 4), 2.0**-4), torch.full((1, 1, 3), largest)
    offsets = torch.tensor([[[[0, 0], [0, 0], [0, 0]]]])
    y = tap_conv(x, w, offsets, backend=backend)
    torch.testing.assert_close(y, torch.full_like(y, largest * 3 / 16), rtol=1e-6, atol=0)


@every_backend
@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64],
    ids=str,
)
def test_offsets_of_every_integer_dtype(dtype, backend):
    x, w = torch.randn(1, 2, 9), torch.randn(2, 1, 2)
    expected = torch.cat([x[..., 3:], torch.zeros(1, 2, 3)], -1) * w[:, 0, :1] + x * w[:, 0, 1:]
    result = tap_conv(x, w, torch.tensor([[3], [0]]).to(dtype), backend=backend)
    torch.testing.assert_close(result, expected)


@every_backend
@pytest.mark.parametrize("far", [2**31, 2**32, -(2**31), -(2**32), 2**63 - 1, -(2**63)])
def test_offsets_saturate(far, backend):
    x, w = torch.randn(1, 1, 5, requires_grad=True), torch.ones(1, 1, 2)
    y = tap_conv(x, w, torch.tensor([[0], [far]]), backend=backend)
    assert torch.equal(y, x)
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [[[1] * 5]]


@every_backend
@pytest.mark.parametrize("far", [2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_unsigned_offsets_saturate(far, backend):
    """They must not become negative, where the second output would see a pixel."""
    x, w, offsets = torch.randn(1, 1, 5), torch.ones(1, 1, 1), torch.tensor([[far]], dtype=torch.uint64)
    y = tap_conv(x, w, offsets, stride=2**31 - 1, output_size=2, backend=backend)
    assert y.tolist() == [[[0, 0]]]


@every_backend
def test_integers_of_any_make(backend):
    x, w, offsets = torch.randn(2, 3, 7, 8), torch.randn(3, 1, 2), torch.tensor([[0, 1], [2, -1]])
    expected = tap_conv(x, w, offsets, stride=(2, 2), upsample=(1, 1), output_size=(4, 4), backend=backend)
    for options in ({"stride": 2}, {"stride": [2]}, {"stride": torch.tensor(2)}, {"stride": 2, "output_size": 4}):
        assert torch.equal(tap_conv(x, w, offsets, **options, backend=backend), expected)


@every_backend
def test_autocast_leaves_float32(backend):
    x, w, b, offsets = torch.randn(1, 4, 9), torch.randn(2, 4, 3), torch.randn(2), torch.tensor([[-1], [0], [1]])
    expected = tap_conv(x, w, offsets, b, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(tap_conv(x, w, offsets, b, backend=backend), expected)
        low = tap_conv(x.bfloat16(), w, offsets, b, backend=backend)
        double = tap_conv(x.double(), w.double(), offsets, b.double())
        for tensors in ((x.double(), w, b), (x, w, b.double()), (x.bfloat16(), w.double(), b)):
            with pytest.raises(
                ShapeError, match=r"tap_conv: got tensors of .*torch.float64, expected one dtype; convert"
            ):
                tap_conv(*tensors[:2], offsets, tensors[2], backend=backend)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, tap_conv(x.bfloat16().float(), w, offsets, b, backend=backend))
    assert double.dtype == torch.float64


class Seen(TorchDispatchMode):
    """Collects the operations that ran."""

    def __enter__(self):
        self.names = set()
        return super().__enter__()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.add(str(operation))
        return operation(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    """A kind of tensor that this library knows nothing of."""


def test_subclasses_go_to_the_reference():
    x, w, offsets = torch.randn(1, 2, 9), torch.randn(2, 1, 2), torch.tensor([[3], [0]])
    expected = tap_conv(x, w, offsets)
    for call in ((x.as_subclass(Subclass), w), (x, w.as_subclass(Subclass))):
        with Seen() as seen:
            output = tap_conv(*call, offsets)
        assert "atrous.tap_conv.default" not in seen.names
        torch.testing.assert_close(output.as_subclass(torch.Tensor), expected)
        with pytest.raises(BackendError, match="tap_conv: backend 'cpu' is for plain tensors, got a Subclass; leave"):
            tap_conv(*call, offsets, backend="cpu")
    with Seen() as seen:
        tap_conv(x.mT.contiguous().mT, torch.nn.Parameter(w), offsets)
    assert "atrous.tap_conv.default" in seen.names


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit:DeprecationWarning")
def test_a_traced_function_needs_no_library():
    x, w, offsets = torch.randn(1, 2, 9), torch.randn(2, 1, 2), torch.tensor([[3], [0]])
    traced = {name: torch.jit.trace(lambda x, n=name: tap_conv(x, w, offsets, backend=n), x) for name in (None, "cpu")}
    assert "atrous::" not in str(traced[None].graph)
    assert "atrous::" in str(traced["cpu"].graph)
    for function in traced.values():
        torch.testing.assert_close(function(2 * x), tap_conv(2 * x, w, offsets))


@pytest.mark.parametrize("convert", [torch.Tensor.to_mkldnn, torch.Tensor.to_sparse])
def test_what_is_not_dense_is_refused(convert):
    x, w, offsets = torch.randn(1, 2, 9), torch.randn(2, 1, 2), torch.tensor([[3], [0]])
    for call in ((convert(x), w), (x, convert(w))):
        with pytest.raises(BackendError, match=r"tap_conv: 'reference' is for dense tensors, got .*, which `to_dense"):
            tap_conv(*call, offsets)
        for backend in HERE:
            with pytest.raises(BackendError, match=f"backend '{backend}' is for dense tensors, got torch"):
                tap_conv(*call, offsets, backend=backend)


def test_meta_tensors():
    x, w, offsets = (torch.zeros(shape, device="meta") for shape in ((1, 2, 9), (4, 1, 3), (3, 1)))
    assert tap_conv(x, w, offsets.int(), stride=2).shape == (1, 4, 5)


def bad(*shapes, dtypes=(torch.float32, torch.float32, torch.int64, torch.float32), **options):
    tensors = [None if shape is None else torch.zeros(shape, dtype=d) for shape, d in zip(shapes, dtypes, strict=False)]
    return lambda: tap_conv(*tensors, **options)


GOOD = ((1, 4, 8), (4, 1, 3), (3, 1))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            bad((4, 8), (4, 1, 3), (3,)),
            ShapeError,
            r"offsets: got shape \(3,\), expected \(T, N\) or .* 1, 2 or 3 axes",
        ),
        (bad((4, 8), (4, 1, 3), (3, 4)), ShapeError, r"offsets: got shape \(3, 4\), expected \(T, N\)"),
        (bad(*GOOD, dtypes=[torch.float32] * 3), ShapeError, "offsets: got torch.float32, expected integers.*split"),
        (
            bad((8,), (4, 1, 3), (3, 1)),
            ShapeError,
            r"tap_conv: input: got shape \(8,\), expected \(B, C, L\) or \(C, L\)",
        ),
        (bad((4, 8), (4, 3), (3, 1)), ShapeError, r"weight: got shape \(4, 3\), expected \(D, C/groups, T\)"),
        (
            bad((5, 8), (4, 2, 3), (3, 1)),
            ShapeError,
            r"got 5 input channels and weight \(4, 2, 3\), expected .* groups",
        ),
        (bad((6, 8), (4, 2, 3), (3, 1)), ShapeError, "groups to divide both C and D"),
        (bad((4, 8), (4, 0, 3), (3, 1)), ShapeError, "none of them 0"),
        (bad((0, 8), (4, 1, 3), (3, 1)), ShapeError, "got 0 input channels"),
        (bad((4, 8), (0, 1, 3), (3, 1)), ShapeError, "none of them 0"),
        (
            bad((4, 8), (4, 1, 3), (2, 1)),
            ShapeError,
            r"\(2, 1\) beside weight \(4, 1, 3\), expected \(3, 1\) or \(4, 1, 3, 1\)",
        ),
        (bad((4, 8), (4, 1, 3), (4, 2, 3, 1)), ShapeError, r"expected \(3, 1\) or \(4, 1, 3, 1\)"),
        (bad(*GOOD, (3,)), ShapeError, r"tap_conv: bias: got shape \(3,\), expected \(4,\)"),
        (
            bad(*GOOD, dtypes=[torch.float32, torch.float64, torch.int64]),
            ShapeError,
            "float32, torch.float64, expected one",
        ),
        (bad(*GOOD, stride=0), GeometryError, r"stride: got \(0,\), expected integers of at least 1"),
        (bad(*GOOD, upsample=-1), GeometryError, r"upsample: got \(-1,\), expected integers of at least 1"),
        (
            bad(*GOOD, stride=2**31),
            GeometryError,
            r"stride: got \(2147483648,\), expected integers of at most 2147483647",
        ),
        (bad(*GOOD, upsample=2**40), GeometryError, "upsample: got .* at most 2147483647"),
        (bad(*GOOD, output_size=-1), GeometryError, r"output_size: got \(-1,\), expected integers of at least 0"),
        (bad(*GOOD, stride=1.5), GeometryError, "stride: got 1.5, expected integers"),
        (bad(*GOOD, upsample=(1, 2)), GeometryError, r"upsample: got 2 entries \(1, 2\), expected one or 1"),
        (
            bad(*GOOD, backend="aten"),
            BackendError,
            r"got backend='aten', expected None or one of \('cpu', 'reference', 'triton'\)",
        ),
        (
            bad(*GOOD, dtypes=[torch.complex64, torch.complex64, torch.int64], backend="cpu"),
            BackendError,
            "backend 'cpu' is for floating tensors of 16 to 64 bits on a CPU, got torch.complex64 on cpu; leave",
        ),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_cpu_backend_refuses_another_device():
    with pytest.raises(BackendError, match=r"got torch\.float32 on meta"):
        tap_conv(*(torch.zeros(shape, device="meta") for shape in GOOD[:2]), torch.zeros(GOOD[2]).int(), backend="cpu")


def test_without_the_library_the_reference_runs(monkeypatch):
    monkeypatch.setattr(cpu, "UNAVAILABLE", "nobody built it; build it")
    x, w, offsets = torch.randn(1, 2, 9), torch.randn(2, 1, 2), torch.tensor([[3], [0]])
    assert torch.equal(tap_conv(x, w, offsets), tap_conv(x, w, offsets, backend="reference"))
    with pytest.raises(BackendError, match="'cpu' cannot run: nobody built it; build it; leave backend=None"):
        tap_conv(x, w, offsets, backend="cpu")


@pytest.mark.parametrize("name", [name for name in CASES if "channels-last" in name and "unbatched" not in name])
def test_channels_that_lie_last_stay_there(name):
    case = CASES[name]
    input, *tensors = case.tensors(torch.float32)
    output = through("cpu")(case, input.requires_grad_(), *tensors)
    (grad,) = torch.autograd.grad(output, input, output.detach())
    for tensor in (output, grad):
        assert tensor.movedim(1, -1).is_contiguous()
