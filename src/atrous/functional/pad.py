"""Padding that a network does to its own input.

Legend: B batch, C channels, S input size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from atrous._errors import ShapeError


def reflect_pad(input: torch.Tensor, margin: int) -> torch.Tensor:
    """Pad both sides of an image's height and width by reflection about the edge pixels, as often as it takes.

    Args:
        input: (B, C, H, W), H and W at least 2.
        margin: pixels on every side; may exceed the image, which is then mirrored again.

    Returns:
        (B, C, H + 2 margin, W + 2 margin).

    Raises:
        ShapeError: an image without an axis to mirror: not (B, C, H, W), or a side of 1 pixel; a
            negative margin.

    Source: Yu and Koltun 2016 pad the image by reflection; OpenCV calls it reflect-101.

    Example:
        >>> reflect_pad(torch.arange(6.0).reshape(1, 1, 2, 3), 2)[0, 0]
        tensor([[2., 1., 0., 1., 2., 1., 0.],
                [5., 4., 3., 4., 5., 4., 3.],
                [2., 1., 0., 1., 2., 1., 0.],
                [5., 4., 3., 4., 5., 4., 3.],
                [2., 1., 0., 1., 2., 1., 0.],
                [5., 4., 3., 4., 5., 4., 3.]])
    """
    if input.ndim != 4 or min(input.shape[2:]) < 2 or margin < 0:
        raise ShapeError(
            f"reflect_pad: got shape {tuple(input.shape)} and a margin of {margin}, "
            "expected (B, C, H, W) with H and W of at least 2 pixels, and a margin of at least 0"
        )
    # torch reflects by at most size - 1 pixels; the result is again symmetric about its edges, so repeating is exact.
    rows = cols = margin
    while rows or cols:
        # A branch, not min(): an exporter turns it into a lower bound on the size instead of a symbolic padding.
        top = rows if rows < input.shape[2] else input.shape[2] - 1
        left = cols if cols < input.shape[3] else input.shape[3] - 1
        input = F.pad(input, (left, left, top, top), mode="reflect")
        rows, cols = rows - top, cols - left
    return input
