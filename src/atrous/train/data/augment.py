"""Chance in training images: the same for the same seed, epoch and image, whatever process reads them.

Legend: A channels, H, W image size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from atrous.plots.masks import IGNORE
from atrous.train.config import Recipe
from atrous.train.data.source import Item, Source


class Numbered(NamedTuple):
    """One pair of a batch, and which one it is."""

    input: torch.Tensor
    target: torch.Tensor
    number: int


class Epoch(torch.utils.data.Dataset[Numbered]):
    """One pass over a source, with or without chance.

    Args:
        source: of the pairs.
        recipe: says what is augmented; None serves the pairs as they are.
        epoch: which pass.

    Example:
        >>> from atrous.train import Textures
        >>> from atrous.train.config import SegmentRecipe
        >>> epoch = Epoch(Textures("train", length=3, size=(40, 48)), SegmentRecipe(crop=32), epoch=7)
        >>> image, labels, index = epoch[2]
        >>> image.shape, labels.shape, index
        (torch.Size([1, 32, 32]), torch.Size([32, 32]), 2)
    """

    def __init__(self, source: Source, recipe: Recipe | None = None, epoch: int = 0) -> None:
        self.source, self.recipe, self.epoch = source, recipe, epoch

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.source)

    def __getitem__(self, index: int) -> Numbered:
        """Return one pair."""
        pair = self.source[index]
        if self.recipe is not None:
            chance = torch.Generator().manual_seed(mixed(self.recipe.seed, self.epoch, index))
            pair = augment(pair, self.recipe, chance)
        return Numbered(*pair, index)


def mixed(*numbers: int) -> int:
    """Return one seed made of several numbers, of which neighbours have nothing in common.

    Example:
        >>> len({mixed(seed, epoch) for seed in range(9) for epoch in range(9)})
        81
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def augment(pair: Item, recipe: Recipe, chance: torch.Generator) -> Item:
    """Mirror, resize, crop and recolour an image, and its target alike where it is as large.

    Args:
        pair: (A, H, W) float32, and (H, W) labels, a (M, H, W) map, or () a class.
        recipe: says what.
        chance: where numbers are drawn.

    Returns:
        The pair, (A, crop, crop) if the recipe crops; beside a smaller image lies its reflection, and no label counts.

    Example:
        >>> from atrous.train.config import SegmentRecipe
        >>> pair = torch.arange(6.0).view(1, 2, 3), torch.zeros(2, 3).long()
        >>> image, labels = augment(pair, SegmentRecipe(mirror=False, crop=2), torch.Generator().manual_seed(1))
        >>> image.shape, labels.shape
        (torch.Size([1, 2, 2]), torch.Size([2, 2]))
    """
    image, target = pair
    same = target is image
    if recipe.scale > 1:
        limit = math.log(recipe.scale)
        factor = math.exp(_draw(chance, -limit, limit))
        size = [max(1, round(side * factor)) for side in image.shape[1:]]
        image, target = _resized(image, size), _resized(target, size)
    if recipe.crop is not None:
        image, target = _cropped(image, target, recipe.crop, chance)
    if recipe.mirror and _draw(chance) < 0.5:
        image = image.flip(-1)
        target = target.flip(-1) if target.ndim else target
    if recipe.colour:
        image = _recoloured(image, recipe.colour, chance)
    return image.contiguous(), (image if same else target).contiguous()


def _draw(chance: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * torch.rand((), generator=chance).item()


def _resized(values: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Return an image or map at another size, labels by the nearest one, a class as it is."""
    if values.ndim == 0:
        return values
    if values.is_floating_point():
        return F.interpolate(values[None], size, mode="bilinear", antialias=True)[0]
    return F.interpolate(values[None, None].double(), size, mode="nearest-exact")[0, 0].long()


def _cropped(
    image: torch.Tensor, target: torch.Tensor, side: int, chance: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    height, width = image.shape[1:]
    more = [max(0, side - width), max(0, side - height)]
    if any(more):
        image = _beside(image, more)
        if target.ndim == 2:
            target = F.pad(target, (0, more[0], 0, more[1]), value=IGNORE)
        elif target.ndim == 3:
            target = _beside(target, more)
    top, left = (int(_draw(chance, 0, size - side + 1)) for size in image.shape[1:])
    window = (..., slice(top, top + side), slice(left, left + side))
    return image[window], target[window] if target.ndim else target


def _beside(image: torch.Tensor, more: list[int]) -> torch.Tensor:
    """Return an image with its reflection to the right and below, as often as that takes."""
    for axis, missing in ((2, more[0]), (1, more[1])):
        if missing:
            size = image.shape[axis]
            places = torch.arange(size + missing) % (2 * size)
            image = image.index_select(axis, torch.where(places < size, places, 2 * size - 1 - places))
    return image


def _recoloured(image: torch.Tensor, share: float, chance: torch.Generator) -> torch.Tensor:
    """Return an image of other brightness and contrast, and of other saturation if it has colours."""
    spread = image.std().clamp(min=1e-6)
    brightness, contrast, saturation = (_draw(chance, -share, share) for _ in range(3))
    mean = image.mean()
    image = (image - mean) * (1 + contrast) + mean + brightness * spread
    if len(image) == 3:
        grey = image.mean(0, keepdim=True)
        image = (image - grey) * (1 + saturation) + grey
    return image
