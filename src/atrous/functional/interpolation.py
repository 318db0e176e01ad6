"""Kernels whose elements lie at learned, real positions: each spread over the pixels around it.

Legend: D channels out, C channels in, P learned elements, M axes with learned positions, N axes in all, k extents of
the other axes (a dense window), K extents of the learned ones, T taps, lead (D, C/groups, *k).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from atrous._autocast import outside
from atrous._errors import GeometryError, ShapeError
from atrous._geometry import Ints, integers

INTERPOLATIONS = ("bilinear", "triangle", "gaussian", "bicubic")
"""How an element between pixels is spread over them."""

LEAST_WIDTHS = {"triangle": 1.0, "gaussian": 0.27}
"""Widths in pixels of the interpolations that learn theirs, at scale 0."""

_STEPS = {"bilinear": (0, 1), "bicubic": (-1, 0, 1, 2)}
"""The cells around a position from the last one at or before it, of the interpolations that are taps."""

_NO_MASS = 1e-7

_FAR = 40.0
"""The logarithm of what is nothing beside 1, in float64 too."""


def dcls_taps(
    weight: torch.Tensor, positions: torch.Tensor, *, dilated_kernel_size: Ints, interpolation: str = "bilinear"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Spread every element over the pixels around its position, as taps.

    An axis of extent K has the pixels 0 to K - 1, and position p lies at `q = p + K // 2`. With `f = floor(q)`, at most
    K - 2, and `r = q - f`, 'bilinear' gives pixel f the part 1 - r and pixel f + 1 the part r; 'bicubic' gives the four
    pixels from f - 1 the parts of Keys' kernel with a = -1/2, those outside of the window to the pixel at its edge.
    Over several axes the parts multiply. A position beyond the window counts as one at its edge, with the derivative
    of the last pixel: it can always come back. An axis with K = 1 has one pixel and no derivative.

    Args:
        weight: (D, C/groups, *k, P).
        positions: (M, D, C/groups, *k, P), in pixels from the pixel K // 2, in the order of the input's axes.
        dilated_kernel_size: K in pixels, one integer or one per learned axis.
        interpolation: 'bilinear' or 'bicubic'; the other two fill the whole window (`dcls_kernel`).

    Returns:
        The weights of the taps, (D, C/groups, T), float32 at least, differentiable in weight and positions, and their
        offsets, (D, C/groups, T, N) int32, from pixel 0 of the window. T is prod(k) P times 2 (bilinear) or 4 for every
        learned axis wider than one pixel.

    Raises:
        ShapeError: tensors that do not fit one another.
        GeometryError: an extent below 1, or an interpolation that is not of taps.

    Source: Khalfaoui-Hassani, Pellegrini and Masquelier, Dilated convolution with learnable spacings, ICLR 2023,
    eq. 2 to 5; Keys, Cubic convolution interpolation for digital image processing, 1981.

    Example:
        >>> taps, offsets = dcls_taps(torch.ones(1, 1, 1), torch.tensor([[[[0.25]]]]), dilated_kernel_size=5)
        >>> taps, offsets.squeeze(-1)
        (tensor([[[0.7500, 0.2500]]]), tensor([[[2, 3]]], dtype=torch.int32))
    """
    sizes = check_elements("dcls_taps", weight, positions, None, dilated_kernel_size, interpolation, tuple(_STEPS))
    ndim = weight.ndim - 3 + len(sizes)
    return make_taps(weight, positions, sizes, interpolation, (1,) * ndim, (0,) * ndim)


def dcls_kernel(
    weight: torch.Tensor,
    positions: torch.Tensor,
    scales: torch.Tensor | None = None,
    *,
    dilated_kernel_size: Ints,
    interpolation: str = "bilinear",
) -> torch.Tensor:
    """Spread every element over the pixels of the window, as a dense kernel.

    'bilinear' and 'bicubic' are the sum of `dcls_taps`. With q as there, the other two give pixel i the part

        'triangle'   max(0, s - |i - q|)            s = |scale| + 1
        'gaussian'   exp(-((i - q) / s)^2 / 2)      s = |scale| + 0.27

    multiplied over the axes and divided by (the sum over the window + 1e-7), so that the whole weight stays inside.
    The derivative of |scale| at 0 is 1, and those in a position at a pixel or beyond the window are as in `dcls_taps`.

    Args:
        weight: (D, C/groups, *k, P).
        positions: (M, D, C/groups, *k, P), in pixels from the pixel K // 2.
        scales: the shape of positions, in pixels, for 'triangle' and 'gaussian'; None for the others.
        dilated_kernel_size: K in pixels, one integer or one per learned axis.
        interpolation: 'bilinear', 'triangle', 'gaussian' or 'bicubic'.

    Returns:
        (D, C/groups, *k, *K), float32 at least, differentiable in weight, positions and scales.

    Raises:
        ShapeError: tensors that do not fit one another, or scales missing or not wanted.
        GeometryError: an extent below 1, or an unknown interpolation.

    Source: as `dcls_taps`; Khalfaoui-Hassani, Pellegrini and Masquelier, Dilated convolution with learnable spacings:
    beyond bilinear interpolation, 2023.

    Example:
        >>> dcls_kernel(torch.ones(1, 1, 1), torch.tensor([[[[1.0]]], [[[-1.5]]]]), dilated_kernel_size=(3, 5))
        tensor([[[[0.0000, 0.0000, 0.0000, 0.0000, 0.0000],
                  [0.0000, 0.0000, 0.0000, 0.0000, 0.0000],
                  [0.5000, 0.5000, 0.0000, 0.0000, 0.0000]]]])
    """
    sizes = check_elements("dcls_kernel", weight, positions, scales, dilated_kernel_size, interpolation)
    return make_kernel(weight, positions, scales, sizes, interpolation)


def check_elements(
    name: str,
    weight: torch.Tensor,
    positions: torch.Tensor,
    scales: torch.Tensor | None,
    dilated_kernel_size: Ints,
    interpolation: str,
    known: Sequence[str] = INTERPOLATIONS,
) -> tuple[int, ...]:
    """Raise unless the elements fit one another, and return K for every learned axis."""
    if interpolation not in known:
        raise GeometryError(f"{name}: interpolation: got {interpolation!r}, expected one of {tuple(known)}")
    if weight.ndim < 3:
        raise ShapeError(f"{name}: weight: got shape {tuple(weight.shape)}, expected (D, C/groups, *k, P)")
    if positions.ndim != weight.ndim + 1 or positions.shape[1:] != weight.shape or not positions.shape[0]:
        raise ShapeError(
            f"{name}: positions: got shape {tuple(positions.shape)} beside weight {tuple(weight.shape)}, expected "
            f"(M, {', '.join(map(str, weight.shape))}), one position for every learned axis"
        )
    if (scales is None) == (interpolation in LEAST_WIDTHS):
        wanted = tuple(positions.shape) if scales is None else None
        got = scales if scales is None else f"shape {tuple(scales.shape)}"
        raise ShapeError(f"{name}: scales: got {got} for interpolation {interpolation!r}, expected {wanted}")
    if scales is not None and scales.shape != positions.shape:
        raise ShapeError(
            f"{name}: scales: got shape {tuple(scales.shape)}, expected that of positions, {tuple(positions.shape)}"
        )
    for what, tensor in (("weight", weight), ("positions", positions), ("scales", scales)):
        if tensor is not None and not tensor.is_floating_point():
            raise ShapeError(f"{name}: {what}: got {tensor.dtype}, expected floating point, such as torch.float32")
    return integers("dilated_kernel_size", dilated_kernel_size, positions.shape[0], 1)


def count_taps(interpolation: str, sizes: Sequence[int]) -> int:
    """Return how many taps an element makes, in a window of such learned extents."""
    return math.prod([1 if size == 1 else len(_STEPS[interpolation]) for size in sizes])


def make_taps(
    weight: torch.Tensor,
    positions: torch.Tensor,
    sizes: Sequence[int],
    interpolation: str,
    dilation: Sequence[int],
    before: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the taps of checked elements, and their offsets as `index dilation - before`."""
    weight, positions = _widened(weight, positions)
    parts, cells = _spread(weight, positions, sizes, interpolation)
    dense, learned = weight.shape[2:-1], len(sizes)
    counts = tuple(axis.shape[-2] for axis in cells)
    full = (*weight.shape[:-1], *counts, weight.shape[-1])
    planes = []
    for axis, size in enumerate(dense):
        index = torch.arange(size, dtype=torch.int32, device=weight.device) * dilation[axis] - before[axis]
        planes.append(index.view(-1, *[1] * (len(full) - 3 - axis)).expand(full))
    for axis, index in enumerate(cells):
        index = index * dilation[axis - learned] - before[axis - learned]
        shape = [1] * learned
        shape[axis] = counts[axis]
        planes.append(index.reshape(*weight.shape[:-1], *shape, weight.shape[-1]).expand(full))
    offsets = torch.stack(planes, -1)
    return parts.flatten(2), offsets.flatten(2, -2)


def make_kernel(
    weight: torch.Tensor,
    positions: torch.Tensor,
    scales: torch.Tensor | None,
    sizes: Sequence[int],
    interpolation: str,
) -> torch.Tensor:
    """Return the dense kernel of checked elements."""
    with outside(weight):
        if scales is not None:
            weight, positions, scales = _widened(weight, positions, scales)
            return _bump_kernel(weight, positions, scales, sizes, interpolation)
        weight, positions = _widened(weight, positions)
        parts, cells = _spread(weight, positions, sizes, interpolation)
        flat = cells[0]
        for size, index in zip(sizes[1:], cells[1:], strict=True):
            flat = (flat.unsqueeze(-2) * size + index.unsqueeze(-3)).flatten(-3, -2)
        kernel = parts.new_zeros(*weight.shape[:-1], math.prod(sizes))
        kernel = kernel.scatter_add(-1, flat.flatten(-2).long(), parts.flatten(-2))
        return torch.unflatten(kernel, -1, tuple(sizes))


def _widened(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the tensors in one dtype, float32 at least: a coarser position would be another one."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def _place(position: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the position as an index, held inside of the window, and the first of the two pixels around it.

    Only the value is held, not the derivative. No derivative is taken of the pixel.
    """
    fixed = position.detach()
    index = (fixed + size // 2).clamp(0, size - 1)
    # Held twice, so that what is not a number points at some pixel too.
    first = index.int().clamp(0, max(size - 2, 0))
    # The difference is 0 with derivative 1: exact, however far outside.
    return (index if size == 1 else index + (position - fixed)), first


def _spread(
    weight: torch.Tensor, positions: torch.Tensor, sizes: Sequence[int], interpolation: str
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the parts of every element, (*lead, S, P), and for every axis their pixels, (*lead, s, P) int32.

    S is the product of the s, the last axis the fastest.
    """
    parts, cells = [weight], []
    for position, size in zip(positions.unbind(0), sizes, strict=True):
        index, first = _place(position, size)
        if size == 1:
            cells.append(first.unsqueeze(-2))
            continue
        split = _halves if interpolation == "bilinear" else _quarters
        parts = split(parts, index - first)
        around = torch.stack([first + step if step else first for step in _STEPS[interpolation]], -2)
        cells.append(around.clamp(0, size - 1) if interpolation == "bicubic" else around)
    return torch.stack(parts, -2), cells


def _halves(parts: Sequence[torch.Tensor], rest: torch.Tensor) -> list[torch.Tensor]:
    """Split every part between the pixel before, 1 - rest, and the one after; autograd keeps as little as it can."""
    split = []
    for part in parts:
        after = part * rest
        split += [part - after, after]
    return split


def _quarters(parts: Sequence[torch.Tensor], rest: torch.Tensor) -> list[torch.Tensor]:
    """Split every part over four pixels by Keys' kernel, a = -1/2: a line and what bends it."""
    other = 1 - rest
    bend = rest * other
    factors = (
        -0.5 * bend * other,
        other + bend * (1 - 1.5 * rest),
        rest + bend * (1 - 1.5 * other),
        -0.5 * bend * rest,
    )
    return [part * factor for part in parts for factor in factors]


def _bump_kernel(
    weight: torch.Tensor, positions: torch.Tensor, scales: torch.Tensor, sizes: Sequence[int], interpolation: str
) -> torch.Tensor:
    """Return the kernel of separable bumps by one product over P: what is as large as the window has no P."""
    axes = zip(positions.unbind(0), scales.unbind(0), sizes, strict=True)
    bump = _triangle if interpolation == "triangle" else _gaussian
    bumps = [bump(position, scale, size) for position, scale, size in axes]
    mass = bumps[0].sum(-1)
    for profile in bumps[1:]:
        mass = mass * profile.sum(-1)
    left = (weight / (mass + _NO_MASS)).unsqueeze(-1)
    for profile in bumps[:-1]:
        left = (left.unsqueeze(-1) * profile.unsqueeze(-2)).flatten(-2)
    return torch.unflatten((left.mT @ bumps[-1]).flatten(-2), -1, tuple(sizes))


def _gaussian(position: torch.Tensor, scale: torch.Tensor, size: int) -> torch.Tensor:
    """Return the bump of every element on one axis, (*lead, P, K)."""
    index, _ = _place(position, size)
    width = _magnitude(scale) + LEAST_WIDTHS["gaussian"]
    pixels = torch.arange(size, dtype=index.dtype, device=index.device)
    away = (pixels - index.unsqueeze(-1)) * (math.sqrt(0.5) / width).unsqueeze(-1)
    # Far away it stays where its square is no subnormal number, with which a processor is ten times slower.
    return away.square().clamp(max=_FAR).neg().exp()


def _triangle(position: torch.Tensor, scale: torch.Tensor, size: int) -> torch.Tensor:
    """Return the bump of every element on one axis, (*lead, P, K)."""
    index, first = (tensor.unsqueeze(-1) for tensor in _place(position, size))
    width = _magnitude(scale) + LEAST_WIDTHS["triangle"]
    pixels = torch.arange(size, dtype=torch.int32, device=index.device)
    # Which side a pixel lies on is a matter of the first one: at a pixel, derivatives are those towards the next.
    side = torch.where(pixels <= first, -1, 1)
    height = width.unsqueeze(-1) - (pixels - index) * side
    reached = (height > 0) | (pixels == first) | (pixels == first + 1)
    return height.where(reached, 0)


def _magnitude(scale: torch.Tensor) -> torch.Tensor:
    """Return |scale| with derivative 1 at 0, where a scale would never leave its default otherwise."""
    return torch.where(scale < 0, -scale, scale)
