"""Arrays made ready for a picture: grey values brought to 8 bits, large maps thinned.

Legend: H, W image size.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from atrous._errors import ShapeError

Labels = NDArray[np.integer[Any]]
Pixels = NDArray[np.uint8]
Kind = TypeVar("Kind", bound=np.generic)


def grey(image: NDArray[Any]) -> Pixels:
    """Return an image as 8-bit grey: 0 and 255 are its 0.5th and 99.5th percentile, so that no outlier dims it.

    Args:
        image: (H, W) of any real type; uint8 comes back as it is.

    Raises:
        ShapeError: another shape, or no pixel.

    Example:
        >>> grey(np.array([[-1.0, 0.0, 1.0]])).tolist()
        [[0, 128, 255]]
    """
    if image.ndim != 2 or not image.size:
        raise ShapeError(
            f"grey: image: got shape {image.shape}, expected (H, W) with at least 1 pixel; pass one channel"
        )
    if image.dtype == np.uint8:
        return image
    low, high = np.percentile(image, (0.5, 99.5))
    scaled = (image - low) / max(high - low, np.finfo(float).tiny)
    levels: Pixels = np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
    return levels


def viewable(image: NDArray[Any]) -> Pixels:
    """Return an image of any units as 8-bit colours: its three channels, or the first of others as grey.

    Args:
        image: (A, H, W) of any real type, stretched as in `grey`, all channels alike.

    Example:
        >>> viewable(np.array([[[-1.0, 0.0, 1.0]]])).tolist()
        [[[0, 0, 0], [128, 128, 128], [255, 255, 255]]]
    """
    planes = image if len(image) == 3 else image[:1]
    flat = grey(planes.reshape(len(planes) * planes.shape[1], -1)).reshape(planes.shape)
    return np.repeat(flat, 3 // len(flat), 0).transpose(1, 2, 0)


def thin(image: NDArray[Kind], longest: int) -> NDArray[Kind]:
    """Return every n-th pixel, with the least n that brings both sides to at most `longest` pixels.

    Args:
        image: (H, W).
        longest: side to keep within, pixels.

    Example:
        >>> thin(np.zeros((1024, 1536)), 768).shape
        (512, 768)
    """
    step = max(1, -(-max(image.shape) // longest))
    return image[::step, ::step]
