"""Mosaics of real textures, made on the fly from the photographs that scikit-image ships; nothing is downloaded.

Legend: H, W mosaic size in pixels, R regions.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import skimage.color
import skimage.data
import skimage.filters
import torch
import torch.nn.functional as F

from atrous._errors import DataError
from atrous.train.data.source import Source

Split = Literal["train", "val", "test"]
Floats = npt.NDArray[np.float32]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
PHOTOGRAPHS = {
    "brick": "brick",
    "camera": "camera",
    "coins": "coins",
    "grass": "grass",
    "gravel": "gravel",
    "hubble": "hubble_deep_field",
    "immunohistochemistry": "immunohistochemistry",
    "page": "page",
}
"""Class name -> loader in `skimage.data`; the label is the place in this table."""

_SPLIT_ACROSS_ROWS = ("page",)  # its two columns of the page show different things, top and bottom alike ones
_SHADING = 32  # pixels; slower changes of brightness are light, not texture


class Textures(Source):
    """Serve mosaics of photographs under noise; the label of a pixel is which photograph it comes from.

    Regions have random, wavy boundaries. Every photograph is cut in halves: `test` mosaics come from one half, `train`
    from three quarters of the other, `val` from its last quarter; each piece is freed of shading and standardised, and
    mirrored where a region is larger. Item i is a function of (split, seed, i) and the arguments, nothing else.

    Args:
        split: 'train', 'val' or 'test'.
        length: number of mosaics.
        size: (H, W).
        seed: of everything random.
        noise: standard deviation of the added Gaussian noise, in units of the texture's own.
        region: side of a region of mean area, in pixels.

    Shape:
        Items are (1, H, W) float32 of mean about 0 and deviation about 1, and (H, W) int64 labels.

    Raises:
        DataError: an unknown split, or a length, size, noise or region out of range.

    Source: photographs of `skimage.data`; see its README for their origins and licences.

    Example:
        >>> data = Textures("train", length=4, size=(64, 96))
        >>> image, labels = data[3]
        >>> image.shape, labels.shape, len(data), data.classes[:3]
        (torch.Size([1, 64, 96]), torch.Size([64, 96]), 4, ('brick', 'camera', 'coins'))
    """

    classes: tuple[str, ...] = tuple(PHOTOGRAPHS)
    channels = 1

    def __init__(
        self,
        split: Split,
        length: int,
        size: tuple[int, int] = (256, 256),
        *,
        seed: int = 0,
        noise: float = 1.5,
        region: float = 160,
    ) -> None:
        if split not in SPLITS:
            raise DataError(f"Textures: split: got {split!r}, expected one of {SPLITS}")
        if length < 0 or len(size) != 2 or min(size) < 1 or noise < 0 or region < 8 or seed < 0:
            raise DataError(
                f"Textures: got length={length}, size={size}, noise={noise}, region={region}, seed={seed}, "
                "expected length, noise and seed of at least 0, two sides of at least 1 and regions of at least 8"
                " pixels"
            )
        self.split = split
        self.length = length
        self.size = size
        self.seed = seed
        self.noise = noise
        self.region = region

    def __len__(self) -> int:
        """Return the number of mosaics."""
        return self.length

    def name(self, index: int) -> str:
        """Say which mosaic it is."""
        return f"{self.split} mosaic {index}"

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mosaic `index` and its labels."""
        if not 0 <= index < self.length:
            raise IndexError(f"Textures: got index {index}, expected 0 to {self.length - 1}")
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        regions, count = _regions(rng, self.size, self.region)
        # Every photograph once before any comes twice.
        rounds = [rng.permutation(len(self.classes)) for _ in range(-(-count // len(self.classes)))]
        photographs = np.concatenate(rounds)[:count]
        mosaic = np.empty(self.size, np.float32)
        for region, photograph in enumerate(photographs):
            _paste(rng, mosaic, regions == region, texture(self.classes[photograph], self.split))
        mosaic += self.noise * rng.standard_normal(self.size, np.float32)
        mosaic /= np.float32(np.hypot(1, self.noise))
        return torch.from_numpy(mosaic)[None], torch.from_numpy(photographs[regions].astype(np.int64))


def _regions(rng: np.random.Generator, size: tuple[int, int], region: float) -> tuple[npt.NDArray[np.intp], int]:
    """Return a map of region numbers and how many there are: the cells of random seeds, their borders warped."""
    height, width = size
    count = max(2, round(height * width / region**2))
    pitch = region / 5
    coarse = rng.standard_normal((1, 2, int(height / pitch) + 2, int(width / pitch) + 2), np.float32)
    warp = F.interpolate(torch.from_numpy(coarse), size, mode="bicubic")[0].numpy()
    rows, columns = np.mgrid[:height, :width].astype(np.float32) + np.float32(region / 8) * warp
    nearest = np.full(size, np.inf, np.float32)
    regions = np.empty(size, np.intp)
    for index, (row, column) in enumerate((rng.uniform(size=(count, 2)) * size).astype(np.float32)):
        distance = (rows - row) ** 2 + (columns - column) ** 2
        closer = distance < nearest
        nearest[closer] = distance[closer]
        regions[closer] = index
    return regions, count


def _paste(rng: np.random.Generator, mosaic: Floats, mask: npt.NDArray[np.bool_], texture: Floats) -> None:
    """Fill the mask from a random place of an endlessly repeating texture."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    top, left = rng.integers(texture.shape)
    patch = texture.take(range(top, top + box[0].stop - box[0].start), axis=0, mode="wrap")
    patch = patch.take(range(left, left + box[1].stop - box[1].start), axis=1, mode="wrap")
    mosaic[box][mask[box]] = patch[mask[box]]


@cache
def texture(name: str, split: Split) -> Floats:
    """Return the piece of a photograph for one split, standardised and mirrored so that it repeats without seams.

    Args:
        name: of its class.
        split: 'train', 'val' or 'test'.

    Example:
        >>> texture("brick", "val").shape
        (256, 512)
    """
    photograph = np.asarray(getattr(skimage.data, PHOTOGRAPHS[name])(), np.float32)
    if photograph.ndim == 3:
        photograph = skimage.color.rgb2gray(photograph)
    turned = name in _SPLIT_ACROSS_ROWS
    photograph = photograph.T if turned else photograph
    rows, columns = photograph.shape
    cut = rows * 3 // 4
    piece = {
        "train": photograph[:cut, : columns // 2],
        "val": photograph[cut:, : columns // 2],
        "test": photograph[:, columns // 2 :],
    }[split]
    piece = piece.T if turned else piece
    piece = piece - skimage.filters.gaussian(piece, _SHADING, mode="reflect", preserve_range=True)
    piece = (piece - piece.mean()) / piece.std()
    piece = np.concatenate([piece, piece[::-1]], axis=0)
    return np.concatenate([piece, piece[:, ::-1]], axis=1).astype(np.float32)
