"""Checks that several verbs share, and the checked geometry of a call.

Legend: B batch, C channels in, D channels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NoReturn

import torch

from atrous._autocast import CONVERTED, autocasts
from atrous._errors import GeometryError, ShapeError
from atrous._geometry import Geometry, Ints, Padding, plain

LARGEST = 2**31 - 1
"""What 32 bits reach: the most that a stride, an upsampling or an offset counts."""

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
"""What lies beside an image: zeros, or pixels of it."""

_AXES = {1: "L", 2: "H, W", 3: "D, H, W"}


def check_input(name: str, input: torch.Tensor, ndim: int) -> None:
    """Raise unless `input` is a batch or one sample with `ndim` axes."""
    if input.ndim not in (ndim + 1, ndim + 2):
        axes = _AXES[ndim]
        raise ShapeError(f"{name}: input: got shape {tuple(input.shape)}, expected (B, C, {axes}) or (C, {axes})")


def check_bias(name: str, bias: torch.Tensor | None, outputs: int) -> None:
    """Raise unless there is no `bias` or one per output channel."""
    if bias is not None and bias.shape != (outputs,):
        raise ShapeError(f"{name}: bias: got shape {tuple(bias.shape)}, expected ({outputs},)")


def check_dtypes(name: str, *tensors: torch.Tensor | None) -> None:
    """Raise unless all tensors have one dtype, or autocast will see to it."""
    given = [tensor for tensor in tensors if tensor is not None]
    dtypes = {tensor.dtype for tensor in given}
    if len(dtypes) > 1 and not (autocasts(given[0]) and dtypes.issubset(CONVERTED)):
        raise ShapeError(
            f"{name}: got tensors of {', '.join(sorted(map(str, dtypes)))}, expected one dtype; "
            "convert them, as torch.autocast does for float32, float16 and bfloat16"
        )


def check_groups(name: str, channels: int, weight: torch.Tensor, groups: Any) -> None:
    """Raise unless the channels and a weight (D, C/groups, ...) fit `groups`."""
    outputs, per_group = weight.shape[:2]
    if not isinstance(groups, int) or groups < 1 or outputs % groups or channels != per_group * groups:
        raise ShapeError(
            f"{name}: got {channels} input channels, weight {tuple(weight.shape)} and groups={groups}, expected "
            f"{per_group} * groups input channels and groups to divide the {outputs} output channels"
        )


def check_padding_mode(name: str, mode: str) -> None:
    """Raise unless `mode` is one of `PADDING_MODES`."""
    if mode not in PADDING_MODES:
        raise GeometryError(f"{name}: padding_mode: got {mode!r}, expected one of {PADDING_MODES}")


def check_margins(name: str, input: torch.Tensor, geometry: Geometry, mode: str) -> None:
    """Raise unless the axes are wide enough for what `mode` copies into their margins."""
    room = {"reflect": 1, "circular": 0}
    if mode in room and not torch.compiler.is_compiling():
        for size, sides in zip(input.shape[2:], geometry.padding, strict=True):
            if max(sides) > size - room[mode]:
                raise ShapeError(
                    f"{name}: padding_mode {mode!r}: got padding {sides} on an axis of {size} pixels, "
                    f"expected at most {size - room[mode]}; pad less, or by 'replicate'"
                )


def refuse_extent(name: str, input: torch.Tensor, geometry: Geometry) -> NoReturn:
    """Raise for a kernel that is wider than the padded input."""
    padded = tuple(n + sum(sides) for n, sides in zip(input.shape[2:], geometry.padding, strict=True))
    raise ShapeError(
        f"{name}: got an input of {padded} pixels, padding included, under a kernel of extent "
        f"{geometry.extent}; expected at least the extent: pad more, or lower the dilation"
    )


def check_steps(name: str, steps: Sequence[int]) -> None:
    """Raise unless every stride or upsampling fits 32 bits."""
    if max(steps) > LARGEST:
        raise GeometryError(f"{name}: got {steps}, expected integers of at most {LARGEST}")


def resolve(kernel: Ints, stride: Ints, padding: Padding, dilation: Ints, ndim: int) -> Geometry:
    """Return the geometry of a call, kept between calls, or raise if it cannot be or has a stride beyond 32 bits."""
    arguments = kernel, plain("stride", stride), plain("padding", padding), plain("dilation", dilation), ndim
    # Dynamo would trace through the cache and warn, and a compiled graph builds its plan only once.
    if torch.compiler.is_compiling():
        return _resolve(*arguments)
    try:
        return _resolve_cached(*arguments)
    except TypeError:  # a size that a tracer leaves free has no hash
        return _resolve(*arguments)


def _resolve(kernel: Ints, stride: Ints, padding: Padding, dilation: Ints, ndim: int) -> Geometry:
    geometry = Geometry.resolve(kernel, stride, padding, dilation, ndim=ndim)
    check_steps("stride", geometry.stride)
    return geometry


_resolve_cached = lru_cache(maxsize=1024)(_resolve)


def check_finite(name: str, weight: torch.Tensor) -> None:
    """Raise unless all entries are numbers."""
    if weight.is_meta or not weight.isfinite().all():
        raise ShapeError(f"{name}: weight: got entries that are not finite or have no values, expected finite numbers")
