"""Every formula against loops over elements and pixels, which is how the papers write them."""

import itertools
import math

import pytest
import torch

from atrous import GeometryError, ShapeError
from atrous.functional import dcls_kernel, dcls_taps

INTERPOLATIONS = ("bilinear", "triangle", "gaussian", "bicubic")
WINDOWS = ((7,), (4,), (1,), (3, 6), (1, 5), (5, 2), (3, 4, 5))

every_interpolation = pytest.mark.parametrize("interpolation", INTERPOLATIONS)


def keys(x):
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def profile(interpolation, position, scale, size):
    """Return what every pixel of one axis gets of an element, before it is normalised."""
    q = min(max(position + size // 2, 0), size - 1)
    if interpolation == "gaussian":
        return [math.exp(-0.5 * ((i - q) / (abs(scale) + 0.27)) ** 2) for i in range(size)]
    width = abs(scale) + 1 if interpolation == "triangle" else 1
    if interpolation != "bicubic":
        return [max(0, width - abs(i - q)) for i in range(size)]
    parts = [0.0] * size
    for i in range(-2, size + 2):
        parts[min(max(i, 0), size - 1)] += keys(i - q)
    return parts


def slow_kernel(weight, positions, scales, sizes, interpolation):
    kernel = torch.zeros(*weight.shape[:-1], *sizes, dtype=torch.float64)
    for at in itertools.product(*map(range, weight.shape)):
        parts = [
            profile(interpolation, positions[axis][at].item(), scales[axis][at].item(), size)
            for axis, size in enumerate(sizes)
        ]
        mass = math.prod(map(sum, parts)) + 1e-7 if interpolation in ("triangle", "gaussian") else 1
        for pixel in itertools.product(*map(range, sizes)):
            share = math.prod(part[i] for part, i in zip(parts, pixel, strict=True)) / mass
            kernel[(*at[:-1], *pixel)] += weight[at] * share
    return kernel


def elements(sizes, lead=(2, 3), count=4, dtype=torch.float64, edge=1.0):
    """Return weight, positions up to `edge` beyond the window, and scales."""
    generator = torch.Generator().manual_seed(len(sizes))
    weight = torch.randn(*lead, count, generator=generator, dtype=dtype)
    spread = torch.rand(len(sizes), *lead, count, generator=generator, dtype=dtype)
    sides = torch.tensor(sizes, dtype=dtype).view(-1, *[1] * weight.ndim)
    positions = spread * (sides - 1 + 2 * edge) - sides.div(2, rounding_mode="floor") - edge
    return weight, positions, torch.randn(positions.shape, generator=generator, dtype=dtype)


def options(sizes, interpolation, scales):
    kind = {"dilated_kernel_size": sizes, "interpolation": interpolation}
    return kind if interpolation in ("bilinear", "bicubic") else {"scales": scales, **kind}


@every_interpolation
@pytest.mark.parametrize("lead", [(2, 3), (2, 1, 3, 2)], ids=str)
@pytest.mark.parametrize("sizes", WINDOWS, ids=str)
def test_kernel(sizes, lead, interpolation):
    weight, positions, scales = elements(sizes, lead)
    expected = slow_kernel(weight, positions, scales, sizes, interpolation)
    kernel = dcls_kernel(weight, positions, **options(sizes, interpolation, scales))
    torch.testing.assert_close(kernel, expected)
    single = dcls_kernel(weight.float(), positions.float(), **options(sizes, interpolation, scales.float()))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, expected.float(), rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("dense", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("sizes", WINDOWS, ids=str)
def test_taps_add_up_to_the_kernel(sizes, dense, interpolation):
    weight, positions, _ = elements(sizes, (2, 3, *dense))
    kind = options(sizes, interpolation, None)
    taps, offsets = dcls_taps(weight, positions, **kind)
    wide = sum(size > 1 for size in sizes)
    assert taps.shape == (2, 3, weight[0, 0].numel() * (2 if interpolation == "bilinear" else 4) ** wide)
    assert offsets.shape == (*taps.shape, len(dense) + len(sizes))
    assert offsets.dtype == torch.int32
    kernel = torch.zeros(2, 3, *dense, *sizes, dtype=torch.float64)
    for pair in itertools.product(range(2), range(3)):
        kernel[pair].index_put_(offsets[pair].long().unbind(-1), taps[pair], accumulate=True)
    torch.testing.assert_close(kernel, dcls_kernel(weight, positions, **kind))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_no_coarser_than_float32(dtype):
    weight, positions, scales = elements((5, 5), dtype=torch.float32)
    fine = torch.promote_types(dtype, torch.float32)
    for interpolation in INTERPOLATIONS:
        kind = options((5, 5), interpolation, scales)
        kernel = dcls_kernel(weight.to(dtype), positions, **kind)
        assert kernel.dtype == fine
        torch.testing.assert_close(kernel, dcls_kernel(weight.to(dtype).to(fine), positions.to(fine), **kind))
    with torch.autocast("cpu", torch.bfloat16):
        again = dcls_kernel(weight, positions, scales, dilated_kernel_size=5, interpolation="gaussian")
    kernel = dcls_kernel(weight, positions, scales, dilated_kernel_size=5, interpolation="gaussian")
    assert torch.equal(again, kernel)


@every_interpolation
@pytest.mark.parametrize("sizes", [(7,), (3, 4), (3, 4, 3)], ids=str)
def test_gradients(sizes, interpolation):
    weight, positions, scales = elements(sizes, (2, 1), 3, edge=-0.1)
    positions = positions.where((positions - positions.round()).abs() > 1e-3, positions + 0.01)
    kind = options(sizes, interpolation, scales)
    leaves = [weight, positions, *([kind.pop("scales")] if "scales" in kind else [])]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(lambda *x: dcls_kernel(*x, **kind), leaves, check_forward_ad=True)
    if interpolation in ("bilinear", "bicubic"):
        assert torch.autograd.gradcheck(lambda *x: dcls_taps(*x, **kind)[0], leaves, check_forward_ad=True)
    if interpolation == "bilinear":
        assert torch.autograd.gradgradcheck(lambda *x: dcls_kernel(*x, **kind), leaves)


@pytest.mark.parametrize("interpolation", ["bilinear", "triangle", "bicubic"])
@pytest.mark.parametrize("position", [-9.0, -2.0, 0.0, 2.0, 9.0])
def test_derivatives_at_pixels_and_beyond_the_window(position, interpolation):
    """At a pixel they are those towards the next one, at the upper edge and beyond towards the last but one."""
    position = torch.full((1, 1, 1, 1), position, dtype=torch.float64, requires_grad=True)
    scales = torch.zeros_like(position)
    kind = options(5, interpolation, scales)
    kernel = dcls_kernel(torch.ones(1, 1, 1, dtype=torch.float64), position, **kind)
    at = min(max(int(position) + 2, 0), 4)
    assert kernel.flatten().round(decimals=6).tolist() == [float(i == at) for i in range(5)]
    slopes = torch.stack([torch.autograd.grad(k, position, retain_graph=True)[0] for k in kernel.flatten()]).flatten()
    first = min(at, 3)
    expected = torch.zeros(5, dtype=torch.float64)
    if interpolation == "bicubic":
        for step, slope in ((-1, -0.5), (1, 0.5)):
            expected[min(max(at + step, 0), 4)] += slope
        # The pixel beyond the edge is the one at it.
        expected[at] -= expected.sum()
    else:
        expected[first], expected[first + 1] = -1, 1
    torch.testing.assert_close(slopes, expected, rtol=0, atol=1e-6)


def test_a_gaussian_beyond_the_window_is_one_at_its_edge_and_comes_back():
    kind = {"scales": torch.zeros(1, 1, 1, 1), "dilated_kernel_size": 5, "interpolation": "gaussian"}
    far, edge = (torch.full((1, 1, 1, 1), at, requires_grad=True) for at in (1e6, 2.0))
    results = [dcls_kernel(torch.ones(1, 1, 1), at, **kind) for at in (far, edge)]
    assert torch.equal(*results)
    assert torch.equal(
        *(torch.autograd.grad(r[..., 3].sum(), at)[0] for r, at in zip(results, (far, edge), strict=True))
    )


@every_interpolation
def test_one_pixel_has_no_position(interpolation):
    weight, positions, scales = elements((1, 5))
    positions.requires_grad_()
    kernel = dcls_kernel(weight, positions, **options((1, 5), interpolation, scales))
    (grad,) = torch.autograd.grad(kernel.square().sum(), positions)
    assert not grad[0].any()
    assert grad[1].all()


@pytest.mark.parametrize("interpolation", ["triangle", "gaussian"])
def test_a_width_of_scale_0_grows(interpolation):
    scale = torch.zeros(1, 1, 1, 1, requires_grad=True)
    kind = {"dilated_kernel_size": 5, "interpolation": interpolation}
    kernel = dcls_kernel(torch.ones(1, 1, 1), torch.full((1, 1, 1, 1), 0.5), scale, **kind)
    above = torch.full_like(scale, 1e-3)
    wider = dcls_kernel(torch.ones(1, 1, 1), torch.full((1, 1, 1, 1), 0.5), above, **kind)
    (grad,) = torch.autograd.grad(kernel[..., 3].sum(), scale)
    torch.testing.assert_close(grad.squeeze(), ((wider - kernel)[..., 3] / 1e-3).squeeze(), rtol=0.05, atol=1e-3)


def test_what_is_no_number_stays_none():
    position = torch.tensor([[[[float("nan"), 0.0]]]])
    taps, offsets = dcls_taps(torch.ones(1, 1, 2), position, dilated_kernel_size=5)
    assert taps.isnan().tolist() == [[[True, False, True, False]]]
    assert offsets.min() >= 0
    assert offsets.max() < 5
    assert dcls_kernel(torch.ones(1, 1, 2), position, dilated_kernel_size=5).isnan().any()


@every_interpolation
def test_transforms(interpolation):
    weight, positions, scales = elements((3, 5), edge=0.0)
    kind = options((3, 5), interpolation, scales)

    def run(weight, positions):
        return dcls_kernel(weight, positions, **kind)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(weight, positions), run(weight, positions))
    many = torch.stack([weight, 2 * weight, -weight])
    moved = torch.stack([positions, positions * 0.5, -positions * 0.9])
    mapped = torch.func.vmap(run)(many, moved)
    torch.testing.assert_close(mapped, torch.stack([run(w, p) for w, p in zip(many, moved, strict=True)]))


W, P = (4, 2, 3), (2, 4, 2, 3)


def bad(weight=W, positions=P, scales=None, call=dcls_kernel, dtype=torch.float32, size=5, **options):
    tensors = [torch.zeros(weight), torch.zeros(positions, dtype=dtype)]
    tensors += [] if scales is None else [torch.zeros(scales)]
    return lambda: call(*tensors, dilated_kernel_size=size, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            bad(interpolation="cubic"),
            GeometryError,
            "'cubic', expected one of .'bilinear', 'triangle', 'gaussian', 'bic",
        ),
        (
            bad(interpolation="gaussian", call=dcls_taps),
            GeometryError,
            r"dcls_taps: .*one of \('bilinear', 'bicubic'\)",
        ),
        (bad((4, 2)), ShapeError, r"weight: got shape \(4, 2\), expected \(D, C/groups, \*k, P\)"),
        (bad(positions=(2, 4, 2, 4)), ShapeError, r"positions: got shape \(2, 4, 2, 4\) .* expected \(M, 4, 2, 3\)"),
        (bad(positions=W), ShapeError, r"positions: got shape \(4, 2, 3\) beside weight"),
        (bad(positions=(0, *W)), ShapeError, r"positions: got shape \(0, 4, 2, 3\)"),
        (bad(dtype=torch.int64), ShapeError, "positions: got torch.int64, expected floating point"),
        (bad(interpolation="gaussian"), ShapeError, r"scales: got None for .*'gaussian', expected \(2, 4, 2, 3\)"),
        (bad(scales=P), ShapeError, r"scales: got shape \(2, 4, 2, 3\) for .*'bilinear', expected None"),
        (bad(scales=W, interpolation="triangle"), ShapeError, r"scales: got shape \(4, 2, 3\), expected that of"),
        (bad(size=0), GeometryError, r"dilated_kernel_size: got \(0, 0\), expected integers of at least 1"),
        (bad(size=2.5), GeometryError, "dilated_kernel_size: got 2.5, expected integers"),
        (bad(size=(3, 3, 3)), GeometryError, "dilated_kernel_size: got 3 entries"),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error, match=message):
        call()
