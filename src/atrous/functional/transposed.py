"""Transposed convolutions with the contract of `torch.nn.functional`: the input gradients of convolutions.

Legend: B batch, C channels in, D channels out, S input size, P output size, K kernel size, N axes.
"""

from __future__ import annotations

from typing import Any

import torch

from atrous._backends import choose_conv_transpose
from atrous._errors import GeometryError, ShapeError
from atrous._geometry import Geometry, Ints, integers, plain
from atrous._ops.conv import conv_transpose
from atrous.functional._check import check_bias, check_dtypes, check_input, resolve
from atrous.functional.routes import note


def conv_transpose1d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """Spread a signal by a kernel with holes.

    Every x[c, i] adds `w[c, o, t] x[c, i]` to y[o, i stride + t dilation - padding], for the channels c of the group
    of o; bias[o] is added once. That is the gradient of `conv1d` in its input.

    Args:
        input: (B, C, L) or (C, L).
        weight: (C, D/groups, K).
        bias: (D,) or None.
        stride: pixels of the output between pixels of the input.
        padding: pixels cut off on both sides of the output.
        output_padding: pixels of the output more, at its end; less than the stride or the dilation.
        groups: how many independent channel groups; divides C and D.
        dilation: pixels of the output between taps.
        backend: None chooses; 'reference', 'aten', 'cpu' (compiled) or 'triton' (GPUs) runs that one and nothing else.

    Returns:
        (B, D, P) or (D, P), with P = (L - 1) stride + dilation (K - 1) + 1 - 2 padding + output_padding.

    Raises:
        ShapeError: tensors that do not fit one another, or a padding that leaves nothing of the output.
        GeometryError: a stride, padding, output_padding or dilation that cannot be, or a stride above 2^31 - 1.
        BackendError: an unknown backend, or a named one that cannot run this call.

    Source: the contract of `torch.nn.functional.conv_transpose1d`.

    Example:
        >>> x = torch.tensor([[1.0, 10.0]])
        >>> w = torch.tensor([[[1.0, 2.0, 3.0]]])
        >>> conv_transpose1d(x, w, stride=2)
        tensor([[ 1.,  2., 13., 20., 30.]])
    """
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation, backend)


def conv_transpose2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """Spread an image by a kernel with holes; `conv_transpose1d` explains every argument and error.

    Args:
        input: (B, C, H, W) or (C, H, W).
        weight: (C, D/groups, K_h, K_w).
        bias: (D,) or None.
        stride: one integer, or one per axis.
        padding: one integer, or one per axis.
        output_padding: one integer, or one per axis.
        groups: how many independent channel groups; divides C and D.
        dilation: one integer, or one per axis.
        backend: None, 'reference', 'aten', 'cpu' or 'triton'.

    Returns:
        (B, D, P_h, P_w) or (D, P_h, P_w).

    Raises:
        ShapeError: tensors that do not fit.
        GeometryError: a geometry that cannot be.
        BackendError: a backend that is unknown or cannot run this call.

    Source: the contract of `torch.nn.functional.conv_transpose2d`.

    Example:
        >>> conv_transpose2d(torch.ones(3, 8, 8), torch.ones(3, 1, 4, 4), stride=2, padding=1, groups=3).shape
        torch.Size([3, 16, 16])
    """
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation, backend)


def conv_transpose3d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """Spread a volume or a video by a kernel with holes; `conv_transpose1d` explains every argument and error.

    Args:
        input: (B, C, D, H, W) or (C, D, H, W).
        weight: (C, D/groups, K_d, K_h, K_w).
        bias: (D,) or None.
        stride: one integer, or one per axis.
        padding: one integer, or one per axis.
        output_padding: one integer, or one per axis.
        groups: how many independent channel groups; divides C and D.
        dilation: one integer, or one per axis.
        backend: None, 'reference', 'aten', 'cpu' or 'triton'.

    Returns:
        (B, D, P_d, P_h, P_w) or (D, P_d, P_h, P_w).

    Raises:
        ShapeError: tensors that do not fit.
        GeometryError: a geometry that cannot be.
        BackendError: a backend that is unknown or cannot run this call.

    Source: the contract of `torch.nn.functional.conv_transpose3d`.

    Example:
        >>> conv_transpose3d(torch.ones(2, 4, 4, 4), torch.ones(2, 3, 2, 2, 2), stride=(1, 2, 2)).shape
        torch.Size([3, 5, 8, 8])
    """
    return _conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation, backend)


def zero_insert(input: torch.Tensor, stride: Ints) -> torch.Tensor:
    """Put zeros between the pixels of an input: `y[c, i stride] = x[c, i]`, 0 elsewhere.

    A transposed convolution is a convolution of this: with stride 1, `dilation (K - 1) - padding` zeros on each side
    (`output_padding` more at the end; fewer than none crop), the kernel flipped, and its channels exchanged inside each
    group. It multiplies all the zeros, which `conv_transpose1d` leaves out.

    Args:
        input: (B, C, *S), or any tensor with a sequence for `stride`.
        stride: pixels of the output between pixels of the input, at least 1. One integer is for every axis behind the
            first two; a sequence is for the last axes, one entry each.

    Returns:
        (B, C, *P), with P = (S - 1) stride + 1.

    Raises:
        ShapeError: fewer axes than these, or no axis.
        GeometryError: a stride below 1.

    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, 2016, section 4; 'lhs_dilation' of
        XLA.

    Example:
        >>> zero_insert(torch.tensor([[[1, 2, 3]]]), 2)
        tensor([[[1, 0, 2, 0, 3]]])
    """
    return spread("zero_insert: stride", input, stride)


def spread(name: str, tensor: torch.Tensor, steps: Ints) -> torch.Tensor:
    """Put `steps - 1` zeros between neighbours, behind the first two axes or, for a sequence, along the last axes."""
    steps = plain(name, steps)
    axes = len(steps) if isinstance(steps, tuple) else tensor.ndim - 2
    if not 1 <= axes <= tensor.ndim:
        raise ShapeError(
            f"{name}: got {steps} for a tensor of shape {tuple(tensor.shape)}, expected one integer for the axes "
            "behind the first two, or a sequence with one integer for each of the last axes"
        )
    gaps = integers(name, steps, axes, 1)
    sizes = [max(0, (size - 1) * gap + 1) for size, gap in zip(tensor.shape[-axes:], gaps, strict=True)]
    result = tensor.new_zeros((*tensor.shape[:-axes], *sizes))
    places: list[Any] = [slice(None, None, gap) for gap in gaps]
    result[(..., *places)] = tensor
    return result


def _conv_transpose(
    ndim: int,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    groups: int,
    dilation: Ints,
    backend: str | None,
) -> torch.Tensor:
    name = f"conv_transpose{ndim}d"
    _check(name, ndim, input, weight, bias, groups)
    # Words and pairs are of convolutions alone.
    padding = integers("padding", padding, ndim, 0)
    geometry = resolve(tuple(weight.shape[2:]), stride, padding, dilation, ndim)
    extra = integers("output_padding", output_padding, ndim, 0)
    batched = input if input.ndim == ndim + 2 else input[None]
    _check_size(name, batched, geometry, extra)
    route = choose_conv_transpose(batched, weight, geometry, groups, backend)
    note(name, batched, weight, route)
    output = conv_transpose(batched, weight, bias, geometry, groups, extra, route.forward)
    return output if input.ndim == ndim + 2 else output[0]


def _check(
    name: str, ndim: int, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, groups: int
) -> None:
    if weight.ndim != ndim + 2:
        raise ShapeError(
            f"{name}: weight: got shape {tuple(weight.shape)}, expected (C, D/groups, *K), {ndim + 2} axes"
        )
    check_input(name, input, ndim)
    channels = input.shape[-ndim - 1]
    if not isinstance(groups, int) or groups < 1 or channels % groups or channels != weight.shape[0]:
        raise ShapeError(
            f"{name}: got {channels} input channels, weight {tuple(weight.shape)} and groups={groups}, expected "
            f"{weight.shape[0]} input channels and groups to divide them"
        )
    check_bias(name, bias, weight.shape[1] * groups)
    check_dtypes(name, input, weight, bias)


def _check_size(name: str, input: torch.Tensor, geometry: Geometry, extra: tuple[int, ...]) -> None:
    for more, stride, dilation in zip(extra, geometry.stride, geometry.dilation, strict=True):
        if more >= max(stride, dilation):
            raise GeometryError(
                f"{name}: output_padding: got {extra}, expected less than the stride {geometry.stride} or the dilation "
                f"{geometry.dilation} on every axis"
            )
    if torch.compiler.is_compiling():
        return
    size, output_size = tuple(input.shape[2:]), geometry.transposed_size(input.shape[2:], extra)
    if min(size + output_size) < 1:
        raise ShapeError(
            f"{name}: got an input of {size} pixels and padding that leaves {output_size} of the output; expected at "
            "least one pixel of both: pad less"
        )
