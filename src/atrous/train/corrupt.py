"""What happens to photographs on their way: noise, blur, loss of contrast, JPEG.

Legend: A channels, H, W image size.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import skimage.filters
import torch
from numpy.typing import NDArray
from PIL import Image

from atrous._errors import DataError
from atrous.train.data.source import Item, Source

Plane = NDArray[np.float64]

NOISE, BLUR, CONTRAST, QUALITY = 25.0, 1.0, 0.4, 15
"""Deviation of the noise of 255, deviation of the blur in pixels, factor on the contrast, quality of the JPEG."""


class Corrupted(Source):
    """Serve the images of a source as they look after a corruption, with their targets as they are.

    An image is made one of 8 bits, from its least value to its largest; what comes back is in its own units.

    Args:
        source: of the images.
        kind: 'noise' (Gaussian, 25 of 255), 'blur' (Gaussian, 1 pixel), 'contrast' (times 0.4) or 'jpeg' (quality 15).

    Raises:
        DataError: an unknown kind.

    Source: the kinds are four of Hendrycks and Dietterich 2019; their strengths are ours.

    Example:
        >>> from atrous.train.data.patches import TexturePatches
        >>> patches = TexturePatches("test", 2)
        >>> round((Corrupted(patches, "contrast")[0][0].std() / patches[0][0].std()).item(), 1)
        0.4
    """

    def __init__(self, source: Source, kind: str) -> None:
        if kind not in tuple(CORRUPTIONS):
            raise DataError(f"Corrupted: kind: got {kind!r}, expected one of {tuple(CORRUPTIONS)}")
        self.source, self.kind = source, kind
        self.channels, self.classes, self.colours = source.channels, source.classes, source.colours

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.source)

    def __getitem__(self, index: int) -> Item:
        """Return one image, corrupted the same way every time, and its target."""
        image, target = self.source[index]
        low, high = image.min().item(), image.max().item()
        unit = (high - low) / 255 or 1.0
        chance = np.random.default_rng(index)
        planes = [CORRUPTIONS[self.kind](plane, chance) for plane in ((image - low) / unit).double().numpy()]
        pixels = torch.from_numpy(np.stack(planes).clip(0, 255).round())
        return (pixels * unit + low).to(image.dtype), target

    def name(self, index: int) -> str:
        """Say which image it is."""
        return self.source.name(index)


def _noisy(plane: Plane, chance: np.random.Generator) -> Plane:
    return plane + NOISE * chance.standard_normal(plane.shape)


def _blurred(plane: Plane, _: np.random.Generator) -> Plane:
    blurred: Plane = skimage.filters.gaussian(plane, BLUR, mode="nearest", preserve_range=True)
    return blurred


def _faded(plane: Plane, _: np.random.Generator) -> Plane:
    faded: Plane = plane.mean() + CONTRAST * (plane - plane.mean())
    return faded


def _compressed(plane: Plane, _: np.random.Generator) -> Plane:
    with io.BytesIO() as file:
        Image.fromarray(plane.round().astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
        with Image.open(file) as image:
            return np.asarray(image, np.float64)


CORRUPTIONS: dict[str, Callable[[Plane, np.random.Generator], Plane]] = {
    "noise": _noisy,
    "blur": _blurred,
    "contrast": _faded,
    "jpeg": _compressed,
}
"""Kind -> what it makes of one channel, 0 to 255."""
