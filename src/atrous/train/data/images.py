"""Image files as tensors.

Legend: A channels, H, W image size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from atrous._errors import DataError, ShapeError

Array = NDArray[Any]

_COLOURS = ("PALETTE", "SEPARATED", "YCBCR", "CIELAB")
"""TIFF photometrics of three channels or four that Pillow makes three of."""


def read_image(path: str | Path, channels: int, *, unit: bool = False) -> torch.Tensor:
    """Read an image file upright, as grey (1 channel), RGB (3), or with all channels of a TIFF file.

    Args:
        path: JPEG, PNG, TIFF or whatever Pillow reads; 8 or 16 bit, TIFF of any type and number of channels.
        channels: A. Grey and colours become one another, other numbers have to be those of the file.
        unit: integers are divided by the most that their type holds.

    Returns:
        (A, H, W) float32 in the file's own units, 0 to 255 for 8-bit files, or 0 to 1.

    Raises:
        DataError: a file that is absent, truncated, no image, of other channels, or holds NaN or infinity; names it.
        ShapeError: channels below 1.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
        ...     Image.new("RGB", (5, 4), (255, 0, 0)).save(file.name)
        ...     read_image(file.name, 3).shape
        torch.Size([3, 4, 5])
    """
    if channels < 1:
        raise ShapeError(f"read_image: channels: got {channels}, expected 1 (grey), 3 (RGB) or more")
    pixels = read_array(path, {1: "L", 3: "RGB"}.get(channels))
    if not np.isfinite(pixels).all():
        raise DataError(f"{path}: holds pixels that are no finite number; expected finite values")
    planes = torch.from_numpy(pixels.astype(np.float32)).reshape(*pixels.shape[:2], -1).movedim(2, 0)
    if unit and pixels.dtype.kind in "ui":
        planes = planes / float(np.iinfo(pixels.dtype).max)
    if channels == 1 and len(planes) == 3:
        planes = (planes * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
    if len(planes) not in (1, channels):
        raise DataError(f"{path}: got {len(planes)} channels, expected {channels}")
    return planes.expand(channels, -1, -1).contiguous()


def read_array(path: str | Path, mode: str | None = None) -> Array:
    """Read the numbers of an image file upright: (H, W), or (H, W, A); of a file with a palette, its indices.

    Args:
        path: as in `read_image`.
        mode: 'L' or 'RGB' converts what has 8 bits, and reads no other channels of a TIFF file.

    Raises:
        DataError: a file that is absent, truncated or no image; names it.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
        ...     Image.new("L", (5, 4), 7).save(file.name)
        ...     read_array(file.name).shape
        (4, 5)
    """
    try:
        if (bands := _bands(path)) is not None:
            return bands
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            # Grey of 16 or 32 bits (modes I and F) would be clipped to 8 by a conversion.
            deep = image.mode[0] in "IF"
            return np.asarray(image if deep or mode is None else image.convert(mode))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def count_channels(path: str | Path) -> int:
    """Return the channels of an image file: 1 for grey, 3 for colours with or without alpha, all of other TIFF files.

    Raises:
        DataError: as in `read_array`.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
        ...     Image.new("RGBA", (5, 4)).save(file.name)
        ...     count_channels(file.name)
        3
    """
    try:
        if (bands := _bands(path)) is not None:
            return int(bands.shape[2]) if bands.ndim == 3 else 1
        with Image.open(path) as file:
            grey = file.mode in ("1", "L", "LA", "La") or file.mode[0] in "IF"
            return 1 if grey else 3
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(path, error) from error


def standardise(image: torch.Tensor) -> torch.Tensor:
    """Shift and scale an image to mean 0 and standard deviation 1, over all its pixels and channels.

    Args:
        image: (A, H, W), any units.

    Returns:
        (A, H, W); zeros for an image of one colour.

    Example:
        >>> standardise(torch.tensor([[[1.0, 3.0]]]))
        tensor([[[-1.,  1.]]])
    """
    centred = image - image.mean()
    deviation = centred.square().mean().sqrt()
    return centred / deviation if deviation > 0 else centred


def _unreadable(path: str | Path, error: Exception) -> DataError:
    # Pillow's own words for an unknown format repeat the path; a missing file's are the system's.
    reason = getattr(error, "strerror", None) or ("no such format" if "identify" in str(error) else str(error))
    return DataError(f"{path}: cannot be read as an image ({reason}); expected a whole JPEG, PNG or TIFF")


def _bands(path: str | Path) -> Array | None:
    """Return the pixels of a TIFF file, (H, W) or (H, W, A), channels last; None of what Pillow reads as well."""
    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            if _pillow_reads(series):
                return None
            pixels, axes = np.asarray(series.asarray()), series.axes
    except (tifffile.TiffFileError, IndexError):
        return None  # Pillow has the better words
    if pixels.ndim == 3 and axes[-2:] == "YX":
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim not in (2, 3):
        raise ValueError(f"has axes {axes} of {pixels.shape}, expected rows, columns and channels")
    return pixels


def _pillow_reads(series: tifffile.TiffPageSeries) -> bool:
    """Return whether grey or colours of a TIFF file are what Pillow makes of it."""
    page: Any = series.keyframe
    samples, bits = page.samplesperpixel, page.bitspersample
    alpha = sum(int(extra) in (1, 2) for extra in page.extrasamples)
    if len(series.shape) > 2 + (samples > 1):  # planes on pages of their own
        return False
    if page.photometric.name in _COLOURS:
        return True
    return samples - alpha == 1 if bits > 8 else samples - alpha in (1, 3)
