"""Convolutions and linear layers whose weight is a sum of Kronecker products, run factor by factor where that pays.

Legend: B batch, C channels in, D channels out, G groups, r rank, f factors, o and c the channels of one factor,
S input size, P output size, K kernel size, N axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from atrous._errors import ShapeError
from atrous._geometry import Geometry, Ints, Padding
from atrous.functional._check import (
    check_bias,
    check_dtypes,
    check_input,
    check_margins,
    check_padding_mode,
    refuse_extent,
    resolve,
)
from atrous.functional.conv import conv1d, conv2d, conv3d
from atrous.functional.kronecker import by_group, factor_shapes, kronecker_kernel, whole
from atrous.functional.kronecker_plan import choose_order, stages

_CONV = {1: conv1d, 2: conv2d, 3: conv3d}


def kronecker_conv1d(
    input: torch.Tensor,
    factors: Sequence[torch.Tensor],
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    method: str | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Correlate a signal with a sum of r Kronecker products: `conv1d` with the weight `kronecker_kernel(factors)`.

    It runs as a cascade, one grouped convolution for each factor: that of factor j has its c_j channels in, o_j out and
    the dilation `dilation K_(j+1) ... K_f`; channels of the other factors are batch. All of the padding is put around
    the input at once, so borders are exact. Factor j costs `r P o_j c_j K_j` MACs for each channel of the others, and
    its P includes the margins that later factors read; the dense weight costs `P D C/groups K`, and runs where that is
    less, memory counted.

    Args:
        input: (B, C, L) or (C, L), C = groups times the product of all c.
        factors: tensors (r, groups o, c, K), outermost first, each with an o, c and K of its own.
        bias: (D,) or None, D = groups times the product of all o.
        stride: pixels of the input between outputs.
        padding: as in `conv1d`, for a kernel whose size is the product of all K.
        dilation: pixels of the input between taps of the product, which are those of the innermost factor.
        groups: channel groups, each with products of its own: (r, C, 1, K) with groups = C is depthwise.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        method: 'cascade', 'dense', or None for what should be faster: by shapes alone, in the better of two orders,
            innermost or outermost factor first.
        backend: of each convolution, as in `conv1d`.

    Returns:
        (B, D, P) or (D, P), as `conv1d`.

    Raises:
        ShapeError: tensors that do not fit one another, or a product wider than the padded input.
        GeometryError: a stride, padding, dilation, padding_mode or method that cannot be.
        BackendError: an unknown backend, or a named one that cannot run this call.

    Source: Zhou, Wu, Wu and Zhou, Exploiting local structures with the Kronecker layer, 2015; as a cascade of dilated
    convolutions: Huszar 2016.

    Example:
        >>> a, b = torch.tensor([[[[1.0, 10.0]]]]), torch.tensor([[[[1.0, 2.0, 3.0]]]])
        >>> kronecker_conv1d(torch.eye(1, 8).flip(1), [a, b], padding=5)
        tensor([[ 0.,  0.,  0.,  0.,  0.,  0.,  0., 30., 20., 10.,  3.,  2.,  1.]])
    """
    return _conv(1, input, factors, bias, stride, padding, dilation, groups, padding_mode, method, backend)


def kronecker_conv2d(
    input: torch.Tensor,
    factors: Sequence[torch.Tensor],
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    method: str | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Correlate an image with a sum of r Kronecker products; `kronecker_conv1d` explains every argument and error.

    Args:
        input: (B, C, H, W) or (C, H, W).
        factors: tensors (r, groups o, c, K_h, K_w), outermost first.
        bias: (D,) or None.
        stride: one integer, or one per axis.
        padding: one entry, or one per axis, for a kernel whose sizes are the products of the factors'.
        dilation: one integer, or one per axis.
        groups: channel groups, each with products of its own.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        method: None, 'cascade' or 'dense'.
        backend: None, 'reference', 'aten', 'cpu' or 'triton'.

    Returns:
        (B, D, P_h, P_w) or (D, P_h, P_w).

    Raises:
        ShapeError: tensors that do not fit.
        GeometryError: an argument that cannot be.
        BackendError: a backend that is unknown or cannot run this call.

    Source: as `kronecker_conv1d`.

    Example:
        A depthwise 27 x 27 kernel of 27 weights in each channel:

        >>> x, factors = torch.zeros(1, 8, 40, 40), [torch.ones(1, 8, 1, 3, 3) for _ in range(3)]
        >>> kronecker_conv2d(x, factors, padding="same", groups=8).shape
        torch.Size([1, 8, 40, 40])
    """
    return _conv(2, input, factors, bias, stride, padding, dilation, groups, padding_mode, method, backend)


def kronecker_conv3d(
    input: torch.Tensor,
    factors: Sequence[torch.Tensor],
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    method: str | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Correlate a volume with a sum of r Kronecker products; `kronecker_conv1d` explains every argument and error.

    Args:
        input: (B, C, D, H, W) or (C, D, H, W).
        factors: tensors (r, groups o, c, K_d, K_h, K_w), outermost first.
        bias: (D,) or None.
        stride: one integer, or one per axis.
        padding: one entry, or one per axis, for a kernel whose sizes are the products of the factors'.
        dilation: one integer, or one per axis.
        groups: channel groups, each with products of its own.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        method: None, 'cascade' or 'dense'.
        backend: None, 'reference', 'aten', 'cpu' or 'triton'.

    Returns:
        (B, D, P_d, P_h, P_w) or (D, P_d, P_h, P_w).

    Raises:
        ShapeError: tensors that do not fit.
        GeometryError: an argument that cannot be.
        BackendError: a backend that is unknown or cannot run this call.

    Source: as `kronecker_conv1d`.

    Example:
        >>> factors = torch.ones(2, 4, 2, 1, 1, 1), torch.ones(2, 2, 3, 3, 3, 3)
        >>> kronecker_conv3d(torch.zeros(1, 6, 4, 8, 8), factors, padding=("causal", "same", "same")).shape
        torch.Size([1, 8, 4, 8, 8])
    """
    return _conv(3, input, factors, bias, stride, padding, dilation, groups, padding_mode, method, backend)


def kronecker_linear(
    input: torch.Tensor,
    factors: Sequence[torch.Tensor],
    bias: torch.Tensor | None = None,
    *,
    method: str | None = None,
) -> torch.Tensor:
    """Apply a linear layer whose matrix is a sum of r Kronecker products, factor by factor where that pays.

    For two factors, `y = sum over i of A_i X B_i^T` with the input as a matrix X (c_1, c_2), row by row. That is
    `r (c_1 c_2 o_2 + c_1 o_1 o_2)` MACs in place of `o_1 o_2 c_1 c_2`.

    Args:
        input: (..., C), C the product of all c.
        factors: tensors (r, o, c), outermost first.
        bias: (D,) or None, D the product of all o.
        method: 'cascade', 'dense' (with the matrix made of the factors), or None for what should be faster.

    Returns:
        (..., D).

    Raises:
        ShapeError: tensors that do not fit one another.
        GeometryError: a method that is unknown.

    Source: Zhou et al. 2015, the Kronecker layer.

    Example:
        >>> a, b = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[1.0], [10.0]]])
        >>> kronecker_linear(torch.tensor([3.0, 4.0]), [a, b])
        tensor([ 11., 110.])
    """
    shapes = factor_shapes("kronecker_linear", factors, 1, 0)
    outputs, inputs = whole(shapes)
    if input.ndim < 1 or input.shape[-1] != inputs:
        raise ShapeError(f"kronecker_linear: input: got shape {tuple(input.shape)}, expected (..., {inputs})")
    check_bias("kronecker_linear", bias, outputs)
    check_dtypes("kronecker_linear", input, *factors, bias)
    rows = input.shape[:-1]
    point = Geometry((), (), (), ())
    order = choose_order("kronecker_linear", shapes, len(factors[0]), point, (math.prod(rows),), method)
    if not order:
        return F.linear(input, kronecker_kernel(factors), bias)
    last = len(factors)
    operands: list[Any] = [input.reshape(*rows, *(inputs for _, inputs in shapes)), [..., *range(last)]]
    for place in order:
        operands += [factors[place], [2 * last, last + place, place]]
    result: torch.Tensor = torch.einsum(*operands, [..., *range(last, 2 * last)]).flatten(-last)
    return result if bias is None else result + bias.to(result.dtype)


def _conv(
    ndim: int,
    input: torch.Tensor,
    factors: Sequence[torch.Tensor],
    bias: torch.Tensor | None,
    stride: Ints,
    padding: Padding,
    dilation: Ints,
    groups: int,
    padding_mode: str,
    method: str | None,
    backend: str | None,
) -> torch.Tensor:
    name = f"kronecker_conv{ndim}d"
    shapes = factor_shapes(name, factors, groups, ndim)
    outputs, inputs, *kernel = whole(shapes)
    _check(name, ndim, input, factors, bias, groups * inputs, groups * outputs)
    check_padding_mode(name, padding_mode)
    geometry = resolve(tuple(kernel), stride, padding, dilation, ndim)
    batched = input if input.ndim == ndim + 2 else input[None]
    check_margins(name, batched, geometry, padding_mode)
    samples, _, *size = batched.shape
    if not torch.compiler.is_compiling() and 0 in geometry.output_size(size):
        refuse_extent(name, batched, geometry)
    order = choose_order(name, shapes, len(factors[0]), geometry, (samples, *size), method)
    if order:
        output = _cascade(batched, factors, bias, geometry, groups, order, padding_mode, backend)
    else:
        output = _CONV[ndim](
            batched, kronecker_kernel(factors, groups), bias, geometry.stride, geometry.padding, geometry.dilation,
            groups, padding_mode=padding_mode, backend=backend,
        )  # fmt: skip
    return output if input.ndim == ndim + 2 else output[0]


def _check(
    name: str,
    ndim: int,
    input: torch.Tensor,
    factors: Sequence[torch.Tensor],
    bias: torch.Tensor | None,
    inputs: int,
    outputs: int,
) -> None:
    check_input(name, input, ndim)
    channels = input.shape[-ndim - 1]
    if channels != inputs:
        raise ShapeError(
            f"{name}: got {channels} input channels and factors {[tuple(factor.shape) for factor in factors]}, "
            f"expected {inputs} input channels, groups times the product of all c"
        )
    check_bias(name, bias, outputs)
    check_dtypes(name, input, *factors, bias)


def _cascade(
    input: torch.Tensor,
    factors: Sequence[torch.Tensor],
    bias: torch.Tensor | None,
    geometry: Geometry,
    groups: int,
    order: Sequence[int],
    padding_mode: str,
    backend: str | None,
) -> torch.Tensor:
    """Convolve (B, C, *S) with one factor after the other, in `order`."""
    parts = [by_group(factor, groups) for factor in factors]
    many, count = len(factors), len(factors[0])
    windows = stages([part.shape[4:] for part in parts], geometry, order)
    # The axes of a map: B, G, r, the channels of every factor, and those of the image.
    maps = input.reshape(input.shape[0], groups, 1, *(part.shape[3] for part in parts), *input.shape[2:])
    for place, window in zip(order, windows, strict=True):
        first, last = place == order[0], place == order[-1]
        # The last factor reads the maps of all products at once, and so adds them up.
        weight, sums = (parts[place].movedim(0, 2), count) if last else (parts[place].movedim(0, 1), 1)
        weight = weight.reshape(-1, sums * weight.shape[3], *window.kernel).contiguous()
        here, front = (1, 2, 3 + place), (many, many + 1, many + 2)
        moved = maps.movedim(here, front)
        rows = moved.flatten(0, many - 1).flatten(1, 3)
        if math.prod(moved.shape[1:many]) > 1:
            rows = rows.contiguous()  # where channels and batch are exchanged, a view would have a layout of no one
        rows = _CONV[geometry.ndim](
            rows, weight, None, window.stride, window.padding, window.dilation,
            groups * (1 if first or last else count), padding_mode=padding_mode if first else "zeros", backend=backend,
        )  # fmt: skip
        kept = (groups, 1 if last else count, parts[place].shape[2])
        maps = rows.reshape(*moved.shape[:many], *kept, *rows.shape[2:]).movedim(front, here)
    output = maps.flatten(1, 2 + many)
    # Autocast gives maps another dtype than a sum would.
    return output if bias is None else output + bias.to(output.dtype).reshape(-1, *[1] * geometry.ndim)
