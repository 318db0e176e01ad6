"""Convolution by torch's operator, behind a pad where it knows no asymmetric padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from atrous._geometry import Geometry

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def conv(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry, groups: int
) -> torch.Tensor:
    """Run the reference's `conv` through `torch.nn.functional.conv{1,2,3}d`."""
    input, shared = _pad(input, geometry)
    convolve = _CONV[geometry.ndim]
    return convolve(input, weight, bias, geometry.stride, shared, geometry.dilation, groups)


def conv_gradients(
    grad: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    geometry: Geometry,
    groups: int,
    wanted: Sequence[bool],
) -> tuple[torch.Tensor | None, ...]:
    """Return the gradients of `conv` in input, weight and bias, None where not wanted; differentiable."""
    padded, shared = _pad(input, geometry)
    none = (0,) * geometry.ndim
    options = (weight.shape[0],), geometry.stride, shared, geometry.dilation, False, none, groups, wanted
    found = torch.ops.aten.convolution_backward.default(grad, padded, weight, *options)
    d_input, *others = (one if needed else None for one, needed in zip(found, wanted, strict=True))
    if d_input is not None:
        for axis, (size, pair) in enumerate(zip(input.shape[2:], geometry.padding, strict=True), 2):
            d_input = d_input.narrow(axis, pair[0] - min(pair), size)
    return d_input, *others


def _pad(input: torch.Tensor, geometry: Geometry) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Return the input, padded by what torch's operator cannot, and what is left to the operator."""
    # What both sides share is torch's own padding; only the rest needs a copy of the input.
    shared = tuple(min(pair) for pair in geometry.padding)
    if geometry.symmetric:
        return input, shared
    rest = [side - min(pair) for pair in reversed(geometry.padding) for side in pair]
    return F.pad(input, rest), shared
