"""TensorFlow's names: `tf.nn` on tensors of torch, with its layouts, arguments and rules of padding.

Legend: N batch, *S input size, C channels in, D channels out, *K kernel size, M block axes, *b block, *R other axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from atrous._errors import GeometryError, ShapeError
from atrous._geometry import Geometry, Ints, integers
from atrous.functional import phases
from atrous.functional.conv import conv1d, conv2d, conv3d
from atrous.functional.phases import Sides, resolve_sides
from atrous.functional.transposed import conv_transpose2d

Padding: TypeAlias = str | Sides
"""'SAME', 'VALID', or (before, after) for every axis of the input, batch and channels included."""

_CONVOLUTIONS: dict[int, Callable[..., torch.Tensor]] = {1: conv1d, 2: conv2d, 3: conv3d}


def atrous_conv2d(value: torch.Tensor, filters: torch.Tensor, rate: Ints, padding: Padding) -> torch.Tensor:
    """Correlate an image with a kernel with holes, as `tf.nn.atrous_conv2d` does.

    'SAME' pads (k - 1) rate zeros, the odd one after, and keeps the size; 'VALID' pads nothing.

    Args:
        value: (N, H, W, C).
        filters: (K_h, K_w, C / groups, D); the groups follow from the channels of `value`.
        rate: pixels between taps, at least 1.
        padding: 'SAME', 'VALID', or four pairs (before, after).

    Returns:
        (N, P_h, P_w, D).

    Raises:
        GeometryError: a rate below 1, or another padding.
        ShapeError: tensors that do not fit one another, or, with 'VALID', an image smaller than the kernel.

    Source: `tf.nn.atrous_conv2d` of TensorFlow 2.

    Example:
        >>> image, ones = torch.ones(1, 5, 5, 1), torch.ones(3, 3, 1, 1)
        >>> atrous_conv2d(image, ones, 2, "SAME")[0, :, :, 0]
        tensor([[4., 4., 6., 4., 4.],
                [4., 4., 6., 4., 4.],
                [6., 6., 9., 6., 6.],
                [4., 4., 6., 4., 4.],
                [4., 4., 6., 4., 4.]])
    """
    name = "atrous_conv2d"
    _check_filters(name, filters, (2,), "(K_h, K_w, C / groups, D)")
    return _convolution(name, value, filters, (1, 1), padding, integers(f"{name}: rate", rate, 2, 1))


def atrous_conv2d_transpose(
    value: torch.Tensor, filters: torch.Tensor, output_shape: Sequence[int], rate: Ints, padding: str
) -> torch.Tensor:
    """Spread an image by a kernel with holes, as `tf.nn.atrous_conv2d_transpose` does.

    It is the gradient of `atrous_conv2d` in its input: nothing is up-sampled.

    Args:
        value: (N, H, W, C).
        filters: (K_h, K_w, D, C), channels of the output before those of the input.
        output_shape: (N, P_h, P_w, D): that of the image of which `atrous_conv2d` would make `value`.
        rate: pixels between taps, at least 1.
        padding: 'SAME' or 'VALID'.

    Returns:
        (N, P_h, P_w, D): P = H for 'SAME', H + (K_h - 1) rate for 'VALID'.

    Raises:
        GeometryError: a rate below 1, or another padding.
        ShapeError: tensors that do not fit one another, or an `output_shape` that does not fit them.

    Source: `tf.nn.atrous_conv2d_transpose` of TensorFlow 2.

    Example:
        >>> x, w = torch.ones(1, 1, 2, 1), torch.ones(1, 3, 1, 1)
        >>> atrous_conv2d_transpose(x, w, (1, 1, 6, 1), 2, "VALID").flatten()
        tensor([1., 1., 1., 1., 1., 1.])
    """
    name = "atrous_conv2d_transpose"
    rates = integers(f"{name}: rate", rate, 2, 1)
    _check_filters(name, filters, (2,), "(K_h, K_w, D, C)")
    _check_rank(name, "value", value, 2)
    if value.shape[-1] != filters.shape[3]:
        raise ShapeError(
            f"{name}: got {value.shape[-1]} channels and filters {tuple(filters.shape)}, expected {filters.shape[3]}"
        )
    if padding not in ("SAME", "VALID"):
        raise GeometryError(f"{name}: padding: got {padding!r}, expected 'SAME' or 'VALID'")
    total = [(k - 1) * r for k, r in zip(filters.shape[:2], rates, strict=True)]
    grown = [0, 0] if padding == "SAME" else total
    size = [n + more for n, more in zip(value.shape[1:3], grown, strict=True)]
    if tuple(output_shape) != (value.shape[0], *size, filters.shape[2]):
        raise ShapeError(
            f"{name}: output_shape: got {tuple(output_shape)}, expected {(value.shape[0], *size, filters.shape[2])}, "
            f"of which atrous_conv2d makes {tuple(value.shape)}"
        )
    before = [t // 2 if padding == "SAME" else 0 for t in total]
    x, weight = value.movedim(-1, 1), filters.permute(3, 2, 0, 1)
    # An even kernel pads one pixel more after; it falls off at the end.
    y = conv_transpose2d(x, weight, padding=before, dilation=rates)[:, :, : size[0], : size[1]]
    return y.movedim(1, -1)


def convolution(
    input: torch.Tensor,
    filters: torch.Tensor,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    dilations: Ints | None = None,
) -> torch.Tensor:
    """Correlate a signal, image or volume with a kernel, with strides or with holes, as `tf.nn.convolution` does.

    'SAME' gives ceil(S / stride) pixels, and pads `max((P - 1) stride + extent - S, 0)` zeros for that, the odd one
    after: with a stride, where the taps lie depends on the size.

    Args:
        input: (N, *S, C), one to three axes.
        filters: (*K, C / groups, D); the groups follow from the channels of `input`.
        strides: pixels between outputs: one integer, one per axis, or (1, *strides, 1); None is 1.
        padding: 'SAME', 'VALID', or one pair (before, after) for every axis of `input`.
        dilations: pixels between taps, one integer, or one per axis; None is 1.

    Returns:
        (N, *P, D).

    Raises:
        GeometryError: a stride, dilation or padding that cannot be, or strides and dilations above 1 at once.
        ShapeError: tensors that do not fit one another, or, with 'VALID', an input smaller than the kernel.

    Source: `tf.nn.convolution` of TensorFlow 2.

    Example:
        >>> x, w = torch.arange(1.0, 7.0).reshape(1, 6, 1), torch.ones(3, 1, 1)
        >>> convolution(x, w, strides=2, padding="SAME").flatten()
        tensor([ 6., 12., 11.])
    """
    name = "convolution"
    _check_filters(name, filters, (1, 2, 3), "(*K, C / groups, D) with one to three axes")
    ndim = filters.ndim - 2
    steps, rates = _per_axis(f"{name}: strides", strides, ndim), _per_axis(f"{name}: dilations", dilations, ndim)
    return _convolution(name, input, filters, steps, padding, rates)


def depthwise_conv2d(
    input: torch.Tensor,
    filter: torch.Tensor,
    strides: Sequence[int],
    padding: Padding,
    *,
    dilations: Ints | None = None,
) -> torch.Tensor:
    """Correlate every channel of an image with kernels of its own, as `tf.nn.depthwise_conv2d` does.

    Args:
        input: (N, H, W, C).
        filter: (K_h, K_w, C, D): D kernels for each channel.
        strides: (1, s, s, 1), s pixels between outputs.
        padding: 'SAME', 'VALID', or four pairs (before, after).
        dilations: pixels between taps, one integer, or one per axis; None is 1.

    Returns:
        (N, P_h, P_w, C D), the D outputs of a channel side by side.

    Raises:
        GeometryError: strides of another form, another padding, or strides and dilations above 1 at once, of which
            TensorFlow warns, and takes its strides inside of the phases.
        ShapeError: tensors that do not fit one another, or, with 'VALID', an image smaller than the kernel.

    Source: `tf.nn.depthwise_conv2d` of TensorFlow 2.

    Example:
        >>> depthwise_conv2d(torch.ones(1, 8, 8, 3), torch.ones(3, 3, 3, 2), (1, 2, 2, 1), "SAME").shape
        torch.Size([1, 4, 4, 6])
    """
    name = "depthwise_conv2d"
    _check_filters(name, filter, (2,), "(K_h, K_w, C, D)")
    _check_rank(name, "input", input, 2)
    height, width, channels, multiplier = filter.shape
    if channels != input.shape[-1]:
        raise ShapeError(
            f"{name}: got {input.shape[-1]} channels and a filter {tuple(filter.shape)}, expected {channels} channels"
        )
    if not isinstance(strides, Sequence) or len(strides) != 4 or strides[1] != strides[2]:
        raise GeometryError(f"{name}: strides: got {strides!r}, expected (1, s, s, 1)")
    steps, rates = _per_axis(f"{name}: strides", strides, 2), _per_axis(f"{name}: dilations", dilations, 2)
    return _convolution(name, input, filter.reshape(height, width, 1, channels * multiplier), steps, padding, rates)


def space_to_batch_nd(input: torch.Tensor, block_shape: Sequence[int], paddings: Sides) -> torch.Tensor:
    """Move the phases of the axes behind the batch into it, as `tf.space_to_batch_nd` does.

    Args:
        input: (N, *S, *R), with M axes in S and any in R.
        block_shape: b, M integers of at least 1.
        paddings: M pairs (before, after) of zeros; padded sizes are multiples of b.

    Returns:
        (prod(b) N, *P, *R), with P = (S + before + after) / b.

    Raises:
        GeometryError: a block or paddings that cannot be.
        ShapeError: too few axes, or a padded size that b does not divide.

    Source: `tf.space_to_batch_nd`; `atrous.functional.space_to_batch` is the same in the layout of torch.

    Example:
        >>> space_to_batch_nd(torch.arange(4.0).reshape(1, 2, 2, 1), [2, 2], [[0, 0], [0, 0]]).shape
        torch.Size([4, 1, 1, 1])
    """
    return _through("space_to_batch_nd", phases.space_to_batch, input, block_shape, paddings)


def batch_to_space_nd(input: torch.Tensor, block_shape: Sequence[int], crops: Sides) -> torch.Tensor:
    """Put phases back into the axes behind the batch, as `tf.batch_to_space` does.

    Args:
        input: (prod(b) N, *P, *R), with M axes in P and any in R.
        block_shape: b, M integers of at least 1.
        crops: M pairs (before, after) of pixels to cut off.

    Returns:
        (N, *S, *R), with S = P b - before - after.

    Raises:
        GeometryError: a block or crops that cannot be.
        ShapeError: too few axes, a batch that prod(b) does not divide, or crops wider than the image.

    Source: `tf.batch_to_space`; `atrous.functional.batch_to_space` is the same in the layout of torch.

    Example:
        >>> batch_to_space_nd(torch.arange(4.0).reshape(4, 1, 1, 1), [2, 2], [[0, 0], [0, 1]]).flatten()
        tensor([0., 2.])
    """
    return _through("batch_to_space_nd", phases.batch_to_space, input, block_shape, crops)


def _through(
    name: str, move: Callable[..., torch.Tensor], input: torch.Tensor, block: Sequence[int], sides: Sides
) -> torch.Tensor:
    """Run a verb of torch's layout: all axes that the block does not name are its channels."""
    if not isinstance(block, Sequence) or not block:
        raise GeometryError(f"{name}: block_shape: got {block!r}, expected a sequence of integers, one per axis")
    ndim = len(block)
    if input.ndim <= ndim:
        raise ShapeError(
            f"{name}: input: got shape {tuple(input.shape)} and a block of {ndim} axes, expected a batch and these axes"
        )
    rest = input.shape[ndim + 1 :]
    channels = input.reshape(*input.shape[: ndim + 1], math.prod(rest)).movedim(-1, 1)
    moved = move(channels, tuple(block), sides).movedim(1, -1)
    return moved.reshape(*moved.shape[:-1], *rest)


def _convolution(
    name: str,
    input: torch.Tensor,
    filters: torch.Tensor,
    strides: tuple[int, ...],
    padding: Padding,
    dilations: tuple[int, ...],
) -> torch.Tensor:
    ndim, (inputs, outputs) = len(strides), filters.shape[-2:]
    _check_rank(name, "input", input, ndim)
    if max(strides) > 1 and max(dilations) > 1:
        raise GeometryError(
            f"{name}: got strides {strides} and dilations {dilations}, expected one of them to be 1; "
            f"atrous.functional.conv{ndim}d takes both"
        )
    channels = input.shape[-1]
    if inputs == 0 or channels % inputs or outputs % (channels // inputs):
        raise ShapeError(
            f"{name}: got {channels} channels and filters {tuple(filters.shape)}, expected a multiple of {inputs} "
            "channels, and as many groups to divide the outputs"
        )
    size = tuple(input.shape[1:-1])
    sides = _sides(name, padding, size, Geometry.resolve(tuple(filters.shape[:-2]), strides, 0, dilations, ndim=ndim))
    x, weight = input.movedim(-1, 1), filters.movedim((-1, -2), (0, 1))
    y = _CONVOLUTIONS[ndim](x, weight, None, strides, sides, dilations, channels // inputs)
    return y.movedim(1, -1)


def _per_axis(name: str, value: Ints | None, ndim: int) -> tuple[int, ...]:
    """Return one integer for each axis of pixels; TensorFlow also writes (1, *value, 1)."""
    if isinstance(value, Sequence) and len(value) == ndim + 2 and (value[0], value[-1]) == (1, 1):
        value = value[1:-1]
    return integers(name, 1 if value is None else value, ndim, 1)


def _sides(name: str, padding: Padding, size: tuple[int, ...], window: Geometry) -> Sides:
    """Return (before, after) for every axis, by TensorFlow's rules."""
    if padding == "VALID":
        return ((0, 0),) * window.ndim
    if padding == "SAME":
        columns = zip(size, window.stride, window.extent, strict=True)
        totals = [max((-(-n // stride) - 1) * stride + extent - n, 0) for n, stride, extent in columns]
        return tuple((total // 2, total - total // 2) for total in totals)
    if isinstance(padding, str):
        raise GeometryError(f"{name}: padding: got {padding!r}, expected 'SAME', 'VALID' or pairs (before, after)")
    batch, *sides, channels = resolve_sides(f"{name}: padding", padding, window.ndim + 2)
    if any((*batch, *channels)):
        raise GeometryError(f"{name}: padding: got {padding}, expected (0, 0) for batch and channels")
    return tuple(sides)


def _check_filters(name: str, filters: torch.Tensor, ranks: tuple[int, ...], expected: str) -> None:
    if filters.ndim - 2 not in ranks:
        raise ShapeError(f"{name}: filters: got shape {tuple(filters.shape)}, expected {expected}")


def _check_rank(name: str, what: str, input: torch.Tensor, ndim: int) -> None:
    if input.ndim != ndim + 2:
        raise ShapeError(f"{name}: {what}: got shape {tuple(input.shape)}, expected {ndim + 2} axes: (N, *S, C)")
