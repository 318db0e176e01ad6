"""The operations in Triton: their numbers by its interpreter, on the CPU, and that they compile for a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from atrous import BackendError, functional
from atrous._backends import cpu, reference, triton
from atrous._geometry import Geometry
from atrous._ops.conv import _make_offsets
from atrous.functional import tap_conv
from atrous.testing import TAP_CASES, assert_within_budget

ROOT = Path(__file__).parents[2]

# One case for every branch of the kernels: ranks, layouts, groups, pairs, steps, and images without pixels or taps.
NAMES = (
    "1d", "1d-transposed", "1d-stride-3-2", "1d-dense", "1d-hostile", "1d-19-channels-last-1-1", "2d", "2d-repeated",
    "2d-no-taps", "2d-empty", "2d-no-pixels", "2d-no-outputs", "2d-filled-from-nothing", "2d-hostile-stride",
    "2d-larger-output", "2d-groups", "2d-multiplier", "2d-per-pair", "2d-per-pair-groups", "2d-per-pair-far",
    "2d-channels-last-dense", "2d-channels-last-per-pair", "2d-channels-last-hostile", "2d-17-channels-last-2-1",
    "1d-40-channels-last-2-3", "2d-strided", "2d-unbatched", "3d", "3d-irregular", "3d-dense-per-pair",
    "3d-5-channels-last-2-1",
)  # fmt: skip
FEW = ("1d-stride-3-2", "2d-per-pair", "2d-17-channels-last-2-1", "3d-dense-per-pair")
CASES = {case.name: case for case in TAP_CASES}
RUNS = [
    *((name, torch.float32) for name in NAMES),
    *((name, dtype) for name in FEW for dtype in (torch.float64, torch.bfloat16, torch.float16)),
]


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch):
    """Sum more than one step in a program, as large images do; and an interpreted program takes milliseconds."""
    monkeypatch.setattr(triton.taps, "_PROGRAMS", 16)


@pytest.mark.parametrize(("name", "dtype"), RUNS)
def test_both_operations_are_within_budget(name, dtype):
    case = CASES[name]
    input, weight, offsets, bias = case.tensors(dtype)
    exact = [None if one is None else one.double() for one in (input, weight, bias)]
    size = tuple(tap_conv(*exact[:2], offsets, **case.options, backend="reference").shape[-case.ndim :])
    steps = [(n,) * case.ndim if isinstance(n, int) else n for n in (case.stride, case.upsample)]
    offsets = offsets.clamp(1 - 2**31, 2**31 - 1).int()
    batched, whole = (one if case.batch is not None else one[None] for one in (input, exact[0]))

    def forward(backend, input, weight, bias):
        return backend.tap_conv(input, weight, offsets, bias, *steps, size)

    outputs = [forward(one, batched, weight, bias) for one in (triton, reference)]
    expected = forward(reference, whole, *exact[1:])
    assert_within_budget(*outputs, expected, what="output")
    assert outputs[0].stride() == tap_conv(batched, weight, offsets, bias, **case.options).stride()

    grad = torch.randn(expected.shape, dtype=torch.float64).to(dtype)

    def backward(backend, grad, input):
        return backend.tap_conv_weight(grad, input, offsets, *steps, case.groups)

    gradients = [backward(one, grad, batched) for one in (triton, reference)]
    assert_within_budget(*gradients, backward(reference, grad.double(), whole), what="gradient")
    assert torch.equal(gradients[0], backward(triton, grad, batched))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # where the interpreter computes what it drops
def test_weights_that_are_not_finite_touch_what_they_see_alone():
    input, weight = torch.ones(1, 1, 4), torch.tensor([[[torch.inf, 1.0, torch.nan]]])
    offsets = torch.tensor([[-4], [0], [4]], dtype=torch.int32)
    assert triton.tap_conv(input, weight, offsets, None, (1,), (1,), (4,)).tolist() == [[[1.0, 1.0, 1.0, 1.0]]]


def test_no_output_channels():
    offsets = torch.zeros(9, 2, dtype=torch.int32)
    gradient = triton.tap_conv_weight(torch.zeros(2, 0, 8, 8), torch.zeros(2, 3, 8, 8), offsets, (1, 1), (1, 1), 1)
    assert gradient.shape == (0, 3, 9)


def test_tensors_of_two_dtypes():
    offsets = torch.zeros(9, 2, dtype=torch.int32)
    with pytest.raises(BackendError, match=r"tap_conv: got tensors and offsets of .*, expected one device and dtype"):
        triton.tap_conv(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 9).double(), offsets, None, (1, 1), (1, 1), (4, 4))
    with pytest.raises(BackendError, match="and int32 offsets there"):
        triton.tap_conv(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 9), offsets.long(), None, (1, 1), (1, 1), (4, 4))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_places_that_need_64_bits(monkeypatch, layout):
    input = torch.randn(2, 3, 9, 10).to(memory_format=layout)
    weight, offsets = torch.randn(3, 1, 4), torch.randint(-4, 5, (4, 2), dtype=torch.int32)
    arguments = offsets, (2, 1), (1, 2)
    plain = triton.tap_conv(input, weight, offsets, None, *arguments[1:], (5, 20))
    grad = torch.randn_like(plain)
    gradient = triton.tap_conv_weight(grad, input, *arguments, 3)
    monkeypatch.setattr(triton.taps, "_NARROW", 0)
    assert torch.equal(triton.tap_conv(input, weight, offsets, None, *arguments[1:], (5, 20)), plain)
    assert torch.equal(triton.tap_conv_weight(grad, input, *arguments, 3), gradient)


GRIDS = {
    "one row apart": ((7, 18), (3, 3), 1, 1),
    "rows of the image between": ((14, 9), (5, 3), (4, 2), (8, 2)),
    "more before than after": ((13, 5), (4, 2), (3, 5), ((0, 7), (6, 1))),
    "a column of taps": ((20, 3), (7, 1), (2, 1), (6, 0)),
    "hardly a row twice": ((9, 4), (3, 2), (8, 1), (8, 1)),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("size", "kernel", "dilation", "padding"), GRIDS.values(), ids=GRIDS)
def test_rows_of_a_grid_share_what_they_read(size, kernel, dilation, padding, layout):
    geometry = Geometry.resolve(kernel, padding=padding, dilation=dilation, ndim=2)
    offsets = _make_offsets(geometry, torch.device("cpu"))
    input = torch.randn(2, 3, *size).to(memory_format=layout)
    weight, bias = torch.randn(3, 1, len(offsets)), torch.randn(3)
    outputs = geometry.output_size(size)
    grad = torch.randn(2, 3, *outputs).to(memory_format=layout)
    runs = (input, weight, offsets, bias, outputs), (grad, weight, -offsets, None, size)  # forward, and its adjoint

    def run(backend, image, weight, offsets, bias, size, *isa, dtype=torch.float32):
        tensors = [None if one is None else one.to(dtype) for one in (image, weight, bias)]
        return backend.tap_conv(*tensors[:2], offsets, tensors[2], (1, 1), (1, 1), size, *isa)

    for arguments in runs:
        with triton.tiles.watched() as launches:
            output = run(triton, *arguments, triton.grid.describe(geometry))
        assert [launch.kernel for launch in launches] == ["grid_conv"]
        exact = run(reference, *arguments, dtype=torch.float64)
        assert_within_budget(output, run(reference, *arguments), exact, what="output")


def test_what_is_no_grid_of_images_goes_tap_by_tap():
    taps = torch.tensor([[-1, 0], [0, 0], [1, 0], [2, 0]], dtype=torch.int32)
    image = torch.randn(1, 2, 6, 5)
    plain = {"weight": torch.randn(2, 1, 4), "offsets": taps, "bias": None, "output_size": (6, 5)}
    plain |= {"stride": (1, 1), "upsample": (1, 1)}
    others = (
        {"stride": (2, 1), "output_size": (3, 5)},
        {"upsample": (2, 1)},
        {"offsets": taps.expand(2, 1, 4, 2)},
        {"weight": torch.randn(4, 2, 4)},
        {"output_size": (1, 5)},
        {"weight": torch.randn(2, 1, 0), "offsets": taps[:0]},
    )
    for other in ({}, *others):
        with triton.tiles.watched() as launches:
            triton.tap_conv(image, **{**plain, **other}, isa="4 1 1")
        assert [launch.kernel for launch in launches] == ["tap_conv" if other else "grid_conv"]
    assert triton.grid.describe(Geometry.resolve(3, ndim=3)) == triton.grid.describe(Geometry.resolve(3, ndim=1)) == ""
    assert triton.grid.describe(Geometry.resolve((1, 3), ndim=2)) == ""
    assert triton.grid.describe(Geometry.resolve(3, dilation=2**29, ndim=2)) == ""


@pytest.mark.parametrize(("operation", "last"), triton.tiles.TILES)
def test_every_tile_that_tuning_may_choose(monkeypatch, operation, last):
    input, weight = torch.randn(2, 6, 9, 35), torch.randn(6, 1, 6)
    if last:
        input = input.to(memory_format=torch.channels_last)
    grad = torch.randn(input.shape).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    offsets = torch.tensor([[row, column] for row in (-2, 0, 2) for column in (-1, 4)], dtype=torch.int32)
    isa = "3 2 2" if operation == "grid_conv" else ""

    def run(backend, dtype=torch.float32):
        image, slope = input.to(dtype), grad.to(dtype)
        if operation != "tap_conv_weight":
            more = {"isa": isa} if backend is triton else {}
            return backend.tap_conv(image, weight.to(dtype), offsets, None, (1, 1), (1, 1), (9, 35), **more)
        return backend.tap_conv_weight(slope, image, offsets, (1, 1), (1, 1), 6)

    with triton.tiles.watched() as launches:
        run(triton)
    assert [launch[:2] for launch in launches] == [(operation, last)]
    for tile in triton.tiles.CANDIDATES[operation, last]:
        monkeypatch.setattr(triton.tiles, "won", dict.fromkeys(launches, tile))
        assert_within_budget(run(triton), run(reference), run(reference, torch.float64), what=str(tile))


def _run_the_kernels(monkeypatch):
    """Let tensors on the CPU go where torch sends those on a GPU; return what collects the names of the operations."""
    ran = []

    def spy(name):
        return lambda *arguments: ran.append(name) or getattr(triton, name)(*arguments)

    for name in ("tap_conv", "tap_conv_weight"):
        monkeypatch.setattr(cpu, name, spy(name))
    monkeypatch.setattr("atrous._ops.conv._described", lambda geometry, device: triton.grid.describe(geometry))
    return ran


def test_derivatives_of_a_convolution_by_a_grid(monkeypatch):
    tensors = torch.randn(2, 3, 9, 7), torch.randn(3, 1, 3, 2), torch.randn(3)
    tangents = torch.randn(2, 3, 9, 7), torch.randn(3, 1, 3, 2), torch.randn(3)

    def run(backend):
        def conv(*arguments):
            return functional.conv2d(*arguments, padding=(2, 1), dilation=(2, 1), groups=3, backend=backend)

        def loss(*arguments):
            return conv(*arguments).square().sum()

        gradients = torch.func.grad(loss, argnums=(0, 1, 2))(*tensors)
        both, bias = (
            torch.func.jvp(conv, tensors, (*one, tangents[2]))[1]
            for one in (tangents[:2], [0 * t for t in tangents[:2]])
        )
        alone = torch.func.jvp(lambda bias: conv(*tensors[:2], bias), tensors[2:], tangents[2:])[1]
        mapped = torch.func.vmap(lambda weight: conv(tensors[0], weight, None))(torch.stack([tensors[1], tangents[1]]))
        return *gradients, both, bias, alone, mapped

    expected = run("reference")
    ran = _run_the_kernels(monkeypatch)
    with triton.tiles.watched() as launches:
        found = run("cpu")
    assert {*ran} == {"tap_conv", "tap_conv_weight"}
    assert {launch.kernel for launch in launches} == {"grid_conv", "tap_conv", "tap_conv_weight"}
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("ndim", "interpolation"),
    [(1, "bilinear"), (2, "bilinear"), (3, "bilinear"), (2, "bicubic"), (2, "gaussian")],
)
def test_learned_positions_are_trained_through_the_kernels(monkeypatch, always_taps, ndim, interpolation):
    input, weight = torch.randn(2, 3, *[7] * ndim), torch.randn(3, 1, 2)
    positions, scales = 2 * torch.randn(ndim, 3, 1, 2), None
    if interpolation == "gaussian":
        scales = 0.5 + torch.rand(ndim, 3, 1, 2)
    verb = getattr(functional, f"dcls_conv{ndim}d")
    options = {"dilated_kernel_size": 5, "padding": "same", "groups": 3, "interpolation": interpolation}

    def run(dtype, backend):
        leaves = [one.to(dtype).requires_grad_() for one in (input, weight, positions, scales) if one is not None]
        output = verb(*leaves, **options, backend=backend)
        return [output, *torch.autograd.grad(output.square().sum(), leaves)]

    expected = [run(dtype, "reference") for dtype in (torch.float32, torch.float64)]
    ran = _run_the_kernels(monkeypatch)
    for tensors in zip(run(torch.float32, "cpu"), *expected, strict=True):
        assert_within_budget(*tensors, what=interpolation)
    assert ran == ["tap_conv", "tap_conv", "tap_conv_weight"]


def test_pixels_farther_apart_than_32_bits_reach():
    far = 2**30
    memory = torch.empty(2 * far + 1, dtype=torch.bfloat16)  # three pages of it are touched
    image = memory.as_strided((1, 1, 3), (2 * far + 1, 2 * far + 1, far)).copy_(torch.tensor([[[1.0, 2.0, 4.0]]]))
    arguments = torch.ones(1, 1, 1).bfloat16(), torch.tensor([[2]], dtype=torch.int32), None, (1,), (1,), (1,)
    assert triton.tap_conv(image, *arguments).tolist() == reference.tap_conv(image, *arguments).tolist() == [[[4.0]]]


def _compiling(tmp_path, *command):
    """Run a script that compiles, whatever this process does, and return what it prints."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout


def test_every_variant_compiles_for_a_gpu(tmp_path):
    assert _compiling(tmp_path, Path(__file__).with_name("triton_cubins.py")) == "69 True\n"


def test_rows_that_share_take_fewer_instructions(tmp_path):
    lines = _compiling(tmp_path, "-m", "benchmarks.instructions").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines[2:]]
    counts = {(kernel, lies, taps): [float(bf16), float(fp32)] for kernel, lies, taps, bf16, fp32 in rows}
    for lies in ("apart", "last"):
        pairs = zip(counts["grid_conv", lies, "7 x 7"], counts["tap_conv", lies, "7 x 7"], strict=True)
        assert all(2 < grid < 0.7 * taps for grid, taps in pairs)  # to add up a product takes two
