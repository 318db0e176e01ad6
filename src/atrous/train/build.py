"""From settings and data to a network, and to the task that trains it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from atrous._errors import DataError
from atrous.models import DilatedNet
from atrous.train.config import KERNEL, ClassifyRecipe, Recipe, RegressRecipe, RestoreRecipe, SegmentRecipe
from atrous.train.data.folder import open_folder
from atrous.train.data.idx import fashion_mnist, holds_idx, open_idx
from atrous.train.data.patches import TexturePatches
from atrous.train.data.source import Source, Splits, checked
from atrous.train.data.textures import SPLITS, Textures
from atrous.train.tasks import Classify, Regress, Restore, Segment, Task
from atrous.train.weights import NetworkConfig

MOSAICS = (512, 32, 64)
"""Of 'train', 'val' and 'test'."""
PATCHES = (40000, 2000, 8000)
"""Of 'train', 'val' and 'test'."""


def open_data(data: str | Path, task: str, *, skip_bad: bool = False) -> Splits:
    """Return the sources of a data set, every pair of a folder read once.

    Args:
        data: a folder, see `open_folder` and `open_idx`; or 'textures' (mosaics to segment, patches to classify)
            or 'fashion-mnist' (classify).
        task: what for.
        skip_bad: leave out what cannot be used, and list it.

    Raises:
        DataError: data that is absent, not laid out for the task, or cannot be used; names the file.

    Example:
        >>> open_data("textures", "segment").train.classes[:2]
        ('brick', 'camera')
    """
    if str(data) in ("textures", "fashion-mnist") and not Path(data).exists():
        wanted = {"textures": ("segment", "classify"), "fashion-mnist": ("classify",)}[str(data)]
        if task not in wanted:
            raise DataError(f"data: got {data} for {task}, expected a folder; {data} is for {' and '.join(wanted)}")
        if str(data) == "fashion-mnist":
            return fashion_mnist()
        cls, lengths = (Textures, MOSAICS) if task == "segment" else (TexturePatches, PATCHES)
        return Splits(*(cls(split, length) for split, length in zip(SPLITS, lengths, strict=True)))
    if task == "classify" and holds_idx(Path(data)):
        return open_idx(data)
    splits = open_folder(data, task)
    return Splits(**{name: checked(source, name, skip_bad=skip_bad) for name, source in splits.items()})


def describe(recipe: Recipe, source: Source) -> NetworkConfig:
    """Return the network that a recipe asks for, for images like those of a source.

    Example:
        >>> describe(SegmentRecipe(width=0.5), Textures("val", 1)).arguments
        {'num_classes': 8, 'in_channels': 1, 'width': 0.5, 'channels': 'basic', 'dilated': True}
    """
    arguments: dict[str, Any]
    settings: dict[str, Any] = {}
    if isinstance(recipe, RestoreRecipe):
        settings = {"degradation": recipe.degradation, "sigma": recipe.sigma, "factor": recipe.factor}
        arguments = {"channels": source.channels, "width": recipe.width}
        if recipe.degradation == "small":
            arguments["factor"] = recipe.factor
        if recipe.degradation == "mosaic":
            arguments |= {"channels": 1, "out_channels": 3}
    elif isinstance(recipe, ClassifyRecipe):
        arguments = {"num_classes": len(source.classes), "in_channels": source.channels, "width": recipe.width}
        side = min(source[0][0].shape[1:]) if recipe.crop is None else recipe.crop
        # The last map has an eighth of the first one's sides.
        fitting = next((patch for patch in (4, 2) if 8 * patch <= side), 1)
        arguments |= {"patch": recipe.patch or fitting, "drop_path": recipe.drop_path}
        arguments |= recipe.model_dump(include={*KERNEL}, exclude_none=True)
    elif isinstance(recipe, RegressRecipe):
        settings = {"loss": recipe.loss}
        arguments = {"outputs": source[0][1].shape[0], "in_channels": source.channels, "width": recipe.width}
    else:
        recipe = cast(SegmentRecipe, recipe)
        arguments = {"num_classes": len(source.classes), "in_channels": source.channels, "width": recipe.width}
        arguments |= {"channels": "basic" if recipe.context == "none" else recipe.context, "dilated": recipe.dilated}
    context = not isinstance(recipe, SegmentRecipe) or recipe.context != "none"
    return NetworkConfig(
        recipe.network, arguments, source.classes, context, recipe.task, source.colours, settings
    )  # fmt: skip


def make_task(
    network: torch.nn.Module,
    config: NetworkConfig,
    recipe: Recipe,
    epochs: int | None = None,
    learning_rate: float | None = None,
) -> Task:
    """Return the task of a network.

    Args:
        network: built by `config`.
        config: says what it is for.
        recipe: settings of the task.
        epochs: of this run; None are those of the recipe.
        learning_rate: of this run; None is that of the recipe.

    Example:
        >>> config = describe(SegmentRecipe(width=1 / 16), Textures("val", 1))
        >>> make_task(config.build(), config, SegmentRecipe(width=1 / 16)).watched
        'mean_iou'
    """
    more = epochs, learning_rate
    if isinstance(recipe, RestoreRecipe):
        return Restore(network, recipe, *more)
    if isinstance(recipe, ClassifyRecipe):
        return Classify(network, len(config.classes), recipe, *more)
    upsample = cast(DilatedNet, network).upsample
    if isinstance(recipe, RegressRecipe):
        return Regress(network, upsample, int(config.arguments["outputs"]), recipe, *more)
    return Segment(network, upsample, len(config.classes), recipe, *more, colours=config.colours)
