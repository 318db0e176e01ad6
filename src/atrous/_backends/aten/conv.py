"""Convolution by torch's operator, behind a pad where it knows no asymmetric padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from atrous._geometry import Geometry

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def conv(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry, groups: int
) -> torch.Tensor:
    """Run the reference's `conv` through `torch.nn.functional.conv{1,2,3}d`."""
    # What both sides share is torch's own padding; only the rest needs a copy of the input.
    shared = tuple(min(pair) for pair in geometry.padding)
    if not geometry.symmetric:
        rest = [side - min(pair) for pair in reversed(geometry.padding) for side in pair]
        input = F.pad(input, rest)
    convolve = _CONV[geometry.ndim]
    return convolve(input, weight, bias, geometry.stride, shared, geometry.dilation, groups)
