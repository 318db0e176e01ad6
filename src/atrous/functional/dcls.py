"""Convolutions whose kernel elements lie at learned, real positions (DCLS).

Legend: B batch, C channels in, D channels out, G groups, P learned elements, M axes with learned positions, N axes in
all, k extents of the other axes (a dense window), K extents of the learned ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from atrous._autocast import all_converted, computed_dtype, outside
from atrous._backends import NAMES, find_taps
from atrous._errors import BackendError, ShapeError
from atrous._geometry import Geometry, Ints, Padding, integers, plain
from atrous._watch import recorded
from atrous.functional._check import (
    LARGEST,
    check_bias,
    check_dtypes,
    check_groups,
    check_input,
    check_margins,
    check_padding_mode,
    refuse_extent,
    resolve,
)
from atrous.functional.conv import conv1d, conv2d, conv3d
from atrous.functional.interpolation import LEAST_WIDTHS, check_elements, count_taps, make_kernel, make_taps
from atrous.functional.taps import tap_conv

_FEW = 8
"""Most channels in or out of a group that may run as taps; with more, products of matrices are faster."""

_CONV = {1: conv1d, 2: conv2d, 3: conv3d}


class Plan(NamedTuple):
    """All that decides, beside the elements, what a convolution runs on."""

    sizes: tuple[int, ...]
    interpolation: str
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    dtype: torch.dtype
    as_taps: bool
    left: tuple[tuple[int, int], ...] | None
    """The pixels of the dense kernel that some output reads, (start, stop) per axis, None for all."""


def dcls_conv1d(
    input: torch.Tensor,
    weight: torch.Tensor,
    positions: torch.Tensor,
    scales: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    dilated_kernel_size: Ints,
    interpolation: str = "bilinear",
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    backend: str | None = None,
) -> torch.Tensor:
    """Correlate a signal with elements at real positions, learned as their weights are.

    It is `conv1d` with the kernel of `dcls_kernel`. Where that pays, the elements run as the taps of `dcls_taps`,
    whose cost is their number and never the extent K.

    Args:
        input: (B, C, L) or (C, L).
        weight: (D, C/groups, P).
        positions: (1, D, C/groups, P), in steps of `dilation` pixels from the pixel K // 2 of the window; computed in
            float32 at least, whatever the dtype of the input.
        scales: the shape of positions, for 'triangle' and 'gaussian'; None for the others.
        bias: (D,) or None.
        dilated_kernel_size: K in pixels, the window that the positions lie in.
        interpolation: 'bilinear', 'triangle', 'gaussian' or 'bicubic'.
        stride: pixels of the input between outputs.
        padding: as in `conv1d`, but 'same' puts dilation (K // 2) before and dilation (K - 1 - K // 2) after, so that
            an element at position 0 sees the pixel of its output for an even K too.
        dilation: pixels of the input between pixels of the window.
        groups: how many independent channel groups; divides C and D.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        backend: None chooses; 'aten' runs the dense kernel on torch's operator, 'cpu', 'triton' and 'reference' run
            taps or kernel, whichever it is.

    Returns:
        (B, D, P_out) or (D, P_out), as `conv1d` with a kernel of K taps.

    Raises:
        ShapeError: tensors that do not fit one another, or a window wider than the padded input.
        GeometryError: an extent, stride, padding, dilation, padding_mode or interpolation that cannot be.
        BackendError: an unknown backend, or a named one that cannot run this call.

    Source: Khalfaoui-Hassani, Pellegrini and Masquelier, Dilated convolution with learnable spacings, ICLR 2023.

    Example:
        >>> x = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]])
        >>> w, p = torch.ones(1, 1, 1), torch.full((1, 1, 1, 1), -1.5)
        >>> dcls_conv1d(x, w, p, dilated_kernel_size=5, padding="same")
        tensor([[0.0000, 0.5000, 1.5000, 3.0000, 6.0000]])
    """
    options = dilated_kernel_size, interpolation, stride, padding, dilation, groups, padding_mode, backend
    return convolve(1, input, weight, positions, scales, bias, *options)


def dcls_conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    positions: torch.Tensor,
    scales: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    dilated_kernel_size: Ints,
    interpolation: str = "bilinear",
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    backend: str | None = None,
) -> torch.Tensor:
    """Correlate an image with elements at real positions; `dcls_conv1d` explains every argument and error.

    Args:
        input: (B, C, H, W) or (C, H, W).
        weight: (D, C/groups, P), or (D, C/groups, k, P) for positions along W and a dense window along H.
        positions: (2, D, C/groups, P) in the order H, W, or (1, D, C/groups, k, P).
        scales: the shape of positions, or None.
        bias: (D,) or None.
        dilated_kernel_size: K in pixels, one integer or one per learned axis.
        interpolation: 'bilinear', 'triangle', 'gaussian' or 'bicubic'.
        stride: one integer, or one per axis.
        padding: one entry, or one per axis.
        dilation: one integer, or one per axis.
        groups: how many independent channel groups; divides C and D.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        backend: None, 'reference', 'aten', 'cpu' or 'triton'.

    Returns:
        (B, D, P_h, P_w) or (D, P_h, P_w).

    Raises:
        ShapeError: tensors that do not fit.
        GeometryError: a geometry that cannot be.
        BackendError: a backend that is unknown or cannot run this call.

    Source: as `dcls_conv1d`.

    Example:
        >>> x, w, p = torch.zeros(2, 8, 32, 32), torch.zeros(8, 1, 5), torch.zeros(2, 8, 1, 5)
        >>> dcls_conv2d(x, w, p, dilated_kernel_size=17, padding="same", stride=2, groups=8).shape
        torch.Size([2, 8, 16, 16])
    """
    options = dilated_kernel_size, interpolation, stride, padding, dilation, groups, padding_mode, backend
    return convolve(2, input, weight, positions, scales, bias, *options)


def dcls_conv3d(
    input: torch.Tensor,
    weight: torch.Tensor,
    positions: torch.Tensor,
    scales: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    dilated_kernel_size: Ints,
    interpolation: str = "bilinear",
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    backend: str | None = None,
) -> torch.Tensor:
    """Correlate a volume or a video with elements at real positions; `dcls_conv1d` explains every argument and error.

    Args:
        input: (B, C, D, H, W) or (C, D, H, W).
        weight: (D, C/groups, P), or (D, C/groups, *k, P) with a dense window along the first one or two axes.
        positions: (3, D, C/groups, P) in the order D, H, W, or (M, D, C/groups, *k, P) along the last M axes.
        scales: the shape of positions, or None.
        bias: (D,) or None.
        dilated_kernel_size: K in pixels, one integer or one per learned axis.
        interpolation: 'bilinear', 'triangle', 'gaussian' or 'bicubic'.
        stride: one integer, or one per axis.
        padding: one entry, or one per axis: `("causal", "same", "same")` is causal in time.
        dilation: one integer, or one per axis.
        groups: how many independent channel groups; divides C and D.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        backend: None, 'reference', 'aten', 'cpu' or 'triton'.

    Returns:
        (B, D, P_d, P_h, P_w) or (D, P_d, P_h, P_w).

    Raises:
        ShapeError: tensors that do not fit.
        GeometryError: a geometry that cannot be.
        BackendError: a backend that is unknown or cannot run this call.

    Source: as `dcls_conv1d`.

    Example:
        >>> video, w, p = torch.zeros(1, 2, 8, 9, 9), torch.zeros(4, 2, 3, 5), torch.zeros(2, 4, 2, 3, 5)
        >>> dcls_conv3d(video, w, p, dilated_kernel_size=(5, 7), padding="same").shape
        torch.Size([1, 4, 8, 9, 9])
    """
    options = dilated_kernel_size, interpolation, stride, padding, dilation, groups, padding_mode, backend
    return convolve(3, input, weight, positions, scales, bias, *options)


def build(
    weight: torch.Tensor, positions: torch.Tensor, scales: torch.Tensor | None, plan: Plan
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the weights and offsets of taps, or a dense kernel and None."""
    if plan.as_taps:
        taps, offsets = make_taps(weight, positions, plan.sizes, plan.interpolation, plan.dilation, plan.before)
        return taps.to(plan.dtype), offsets
    kernel = make_kernel(weight, positions, scales, plan.sizes, plan.interpolation).to(plan.dtype)
    if plan.left is not None:
        for axis, (start, stop) in enumerate(plan.left, kernel.ndim - len(plan.left)):
            kernel = kernel.narrow(axis, start, stop - start)
        kernel = kernel.contiguous()
    return kernel, None


def convolve(
    ndim: int,
    input: torch.Tensor,
    weight: torch.Tensor,
    positions: torch.Tensor,
    scales: torch.Tensor | None,
    bias: torch.Tensor | None,
    dilated_kernel_size: Ints,
    interpolation: str,
    stride: Ints,
    padding: Padding,
    dilation: Ints,
    groups: int,
    padding_mode: str,
    backend: str | None,
    build: Callable[..., tuple[torch.Tensor, torch.Tensor | None]] = build,
) -> torch.Tensor:
    """Run `dcls_conv{ndim}d`; whoever keeps what was built passes a `build` of its own."""
    name = f"dcls_conv{ndim}d"
    sizes = check_elements(name, weight, positions, scales, dilated_kernel_size, interpolation)
    _check(name, ndim, input, weight, positions, bias, groups, padding_mode, backend)
    geometry = window((*weight.shape[2:-1], *sizes), stride, padding, dilation, ndim)
    if padding_mode != "zeros":
        input, geometry = _padded(name, input, geometry, padding_mode)
    pixels = input.shape[-ndim:]
    free = torch.compiler.is_compiling() or torch._C._is_tracing()
    output_size = geometry.output_size(pixels)
    # Compilers and tracers leave sizes free.
    dense, left = (geometry, None) if free else geometry.trimmed(pixels)
    tracked = recorded(input, weight, positions, bias)
    runner = _find_taps(input, weight, groups, interpolation, geometry, dense, backend, tracked)
    as_taps = runner is not None
    if (as_taps or not free) and 0 in output_size:
        refuse_extent(name, input if input.ndim == ndim + 2 else input[None], geometry)
    before = tuple(sides[0] for sides in geometry.padding)
    left = None if as_taps or dense.kernel == geometry.kernel else left
    plan = Plan(sizes, interpolation, geometry.dilation, before, computed_dtype(input), as_taps, left)
    kernel, offsets = build(weight, positions, scales, plan)
    if offsets is None:
        options = dense.stride, dense.padding, dense.dilation, groups
        return _CONV[ndim](input, kernel, bias, *options, backend=backend)
    input, kernel, bias = all_converted(input, kernel, bias)
    # A sum over taps has float32 under autocast, a convolution what autocast says.
    if backend is None and runner != "cpu":  # which is the default already
        backend = runner
    with outside(input):
        return tap_conv(input, kernel, offsets, bias, stride=geometry.stride, output_size=output_size, backend=backend)


def window(kernel: tuple[int, ...], stride: Ints, padding: Padding, dilation: Ints, ndim: int) -> Geometry:
    """Return the geometry of a window whose 'same' padding keeps the pixel K // 2 on that of the output."""
    gaps = integers("dilation", dilation, ndim, 1)
    padding = plain("padding", padding)
    if isinstance(padding, str):
        padding = (padding,) * ndim
    if isinstance(padding, tuple) and "same" in padding:
        entries = padding * ndim if len(padding) == 1 else padding
        around = [(gap * (size // 2), gap * (size - 1 - size // 2)) for size, gap in zip(kernel, gaps, strict=True)]
        if len(entries) == ndim:  # what is not, `resolve` refuses
            padding = tuple(sides if entry == "same" else entry for entry, sides in zip(entries, around, strict=True))
    return resolve(kernel, stride, padding, gaps, ndim)


def _find_taps(
    input: torch.Tensor,
    weight: torch.Tensor,
    groups: int,
    interpolation: str,
    geometry: Geometry,
    dense: Geometry,
    backend: str | None,
    tracked: bool,
) -> str | None:
    """Return what runs elements as taps, rather than as a kernel of `dense`: by shapes, types and layouts alone."""
    # What is exported has one window for all positions, which can be read without knowing them.
    if interpolation in LEAST_WIDTHS or backend == "aten" or torch.compiler.is_exporting():
        return None
    outputs, per_group = weight.shape[:2]
    if per_group > _FEW or outputs // groups > _FEW:
        return None
    reach = [extent + before for extent, (before, _) in zip(geometry.extent, geometry.padding, strict=True)]
    if max(reach) > LARGEST:
        return None
    taps = math.prod(weight.shape[2:]) * count_taps(interpolation, geometry.kernel[weight.ndim - 3 :])
    return find_taps(input, weight, geometry, dense, groups, taps, tracked, backend)


def _padded(name: str, input: torch.Tensor, geometry: Geometry, mode: str) -> tuple[torch.Tensor, Geometry]:
    ndim = geometry.ndim
    batched = input if input.ndim == ndim + 2 else input[None]
    check_margins(name, batched, geometry, mode)
    sides = [side for pair in reversed(geometry.padding) for side in pair]
    padded = F.pad(batched, sides, mode=mode)
    geometry = resolve(geometry.kernel, geometry.stride, 0, geometry.dilation, ndim)
    return (padded if input.ndim == ndim + 2 else padded[0]), geometry


def _check(
    name: str,
    ndim: int,
    input: torch.Tensor,
    weight: torch.Tensor,
    positions: torch.Tensor,
    bias: torch.Tensor | None,
    groups: Any,
    padding_mode: str,
    backend: str | None,
) -> None:
    if weight.ndim - 3 + positions.shape[0] != ndim:
        raise ShapeError(
            f"{name}: got weight {tuple(weight.shape)} and positions along {positions.shape[0]} axes, expected "
            f"(D, C/groups, *k, P) with as many k as make {ndim} axes of both"
        )
    check_input(name, input, ndim)
    check_groups(name, input.shape[-ndim - 1], weight, groups)
    check_bias(name, bias, weight.shape[0])
    check_dtypes(name, input, weight, bias)
    check_padding_mode(name, padding_mode)
    if backend is not None and backend not in NAMES["conv"]:
        raise BackendError(f"{name}: got backend={backend!r}, expected None or one of {NAMES['conv']}")
