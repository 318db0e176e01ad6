"""Patches of real textures to classify, made on the fly from the photographs that scikit-image ships.

Legend: H, W patch size in pixels.
"""

from __future__ import annotations

import numpy as np
import torch

from atrous._errors import DataError
from atrous.train.data.source import Source
from atrous.train.data.textures import SPLITS, Split, Textures, texture


class TexturePatches(Source):
    """Serve noisy patches of photographs; the class of a patch is which photograph it comes from.

    The pieces of the photographs and their splits are those of `Textures`, so that no patch of `test` shows what
    training has seen. Patch i is of class i modulo 8 and a function of (split, seed, i) and the arguments.

    Args:
        split: 'train', 'val' or 'test'.
        length: number of patches.
        size: (H, W).
        seed: of everything random.
        noise: standard deviation of the added Gaussian noise, in units of the texture's own.

    Shape:
        Items are (1, H, W) float32 of mean about 0 and deviation about 1, and () int64.

    Raises:
        DataError: an unknown split, or a length, size, noise or seed out of range.

    Source: photographs of `skimage.data`; see its README for their origins and licences.

    Example:
        >>> patch, label = TexturePatches("train", length=9)[8]
        >>> patch.shape, label, TexturePatches.classes[label]
        (torch.Size([1, 32, 32]), tensor(0), 'brick')
    """

    classes = Textures.classes
    channels = Textures.channels

    def __init__(
        self, split: Split, length: int, size: tuple[int, int] = (32, 32), *, seed: int = 0, noise: float = 1.5
    ) -> None:
        if split not in SPLITS:
            raise DataError(f"TexturePatches: split: got {split!r}, expected one of {SPLITS}")
        if length < 0 or len(size) != 2 or min(size) < 1 or noise < 0 or seed < 0:
            raise DataError(
                f"TexturePatches: got length={length}, size={size}, noise={noise}, seed={seed}, "
                "expected length, noise and seed of at least 0 and two sides of at least 1 pixel"
            )
        self.split, self.length, self.size, self.seed, self.noise = split, length, size, seed, noise

    def __len__(self) -> int:
        """Return the number of patches."""
        return self.length

    def name(self, index: int) -> str:
        """Say which patch it is."""
        return f"{self.split} patch {index}"

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return patch `index` and its class."""
        if not 0 <= index < self.length:
            raise IndexError(f"TexturePatches: got index {index}, expected 0 to {self.length - 1}")
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        label = index % len(self.classes)
        piece = texture(self.classes[label], self.split)
        top, left = rng.integers(piece.shape)
        (height, width) = self.size
        patch = piece.take(range(top, top + height), 0, mode="wrap").take(range(left, left + width), 1, mode="wrap")
        patch = patch + self.noise * rng.standard_normal(self.size, np.float32)
        patch = patch / np.float32(np.hypot(1, self.noise))
        return torch.from_numpy(patch)[None], torch.tensor(label)
