"""Image files as tensors.

Legend: A channels, H, W image size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from atrous._errors import DataError, ShapeError


def read_image(path: str | Path, channels: int) -> torch.Tensor:
    """Read an image file upright, as grey (1 channel) or RGB (3), in the file's own units.

    Args:
        path: JPEG, PNG, TIFF or whatever Pillow reads; 8 or 16 bit.
        channels: 1 or 3.

    Returns:
        (A, H, W) float32, 0 to 255 for 8-bit files.

    Raises:
        DataError: a file that is absent, truncated, no image, or holds NaN or infinity; names it.
        ShapeError: another number of channels.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
        ...     Image.new("RGB", (5, 4), (255, 0, 0)).save(file.name)
        ...     read_image(file.name, 3).shape
        torch.Size([3, 4, 5])
    """
    if channels not in (1, 3):
        raise ShapeError(f"read_image: channels: got {channels}, expected 1 (grey) or 3 (RGB)")
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            # Grey of 16 or 32 bits (modes I and F) would be clipped to 8 by a conversion.
            deep = image.mode[0] in "IF"
            pixels = np.asarray(image if deep else image.convert("L" if channels == 1 else "RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow's own words for an unknown format repeat the path; a missing file's are the system's.
        reason = getattr(error, "strerror", None) or ("no such format" if "identify" in str(error) else str(error))
        raise DataError(f"{path}: cannot be read as an image ({reason}); expected a whole JPEG, PNG or TIFF") from error
    if not np.isfinite(pixels).all():
        raise DataError(f"{path}: holds pixels that are no finite number; expected finite values")
    planes = torch.from_numpy(pixels.astype(np.float32)).reshape(*pixels.shape[:2], -1).movedim(2, 0)
    return planes.expand(channels, -1, -1).contiguous()


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
