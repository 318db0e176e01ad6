"""A whole run: data in, a trained network and honest numbers out."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from rich.console import Console

from atrous._errors import DataError
from atrous._files import whole_file, writable_folder
from atrous.models import DilatedNet
from atrous.plots import save_picture
from atrous.train.build import describe, make_task, open_data
from atrous.train.config import RECIPES, Recipe, SegmentRecipe, read_recipe
from atrous.train.data.batches import Batched, name_batch
from atrous.train.data.source import Splits
from atrous.train.loop import Hardware, evaluate, fit
from atrous.train.weights import NetworkConfig, load_network, save_network, start_from

RECIPE = "recipe.json"
DATA = "data.json"
WEIGHTS = "weights.safetensors"
METRICS = "metrics.json"


def train(
    recipe: Recipe,
    data: str | Path,
    out: str | Path,
    *,
    hardware: Hardware | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Train a network on a data set, judge it, and leave everything that later use needs in one folder.

    Writes into `out`: `weights.safetensors` (the best of the last stage's validation, with its config), `recipe.json`,
    `data.json` (a digest of the file names), `metrics.json`, `val.png` and `test.png` (the first image and its
    prediction), and for each stage of training a folder with `metrics.csv`, TensorBoard's events, `best.ckpt` and
    `last.ckpt`.

    Args:
        recipe: settings.
        data: as in `open_data`.
        out: the folder; made if absent.
        hardware: where to run; None chooses.
        resume: go on with the run in `out`, as if it had never stopped.

    Returns:
        What stands in `metrics.json`: by split, each metric of the task.

    Raises:
        DataError: data that cannot be used, a folder that holds another run, or a loss that is no number.

    Source: the stages are those of Yu and Koltun 2016.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     train(SegmentRecipe(epochs=1), "absent", folder)
        Traceback (most recent call last):
            ...
        atrous._errors.DataError: absent: no such folder of images
    """
    out = writable_folder(out)
    if first_process():
        _check_run(recipe, out, resume)
    splits = open_data(data, recipe.task, skip_bad=recipe.skip_bad)
    lightning.seed_everything(recipe.seed, verbose=False)
    config = describe(recipe, splits.train)
    network = config.build()
    if recipe.init is not None:
        Console(stderr=True).print(start_from(network, recipe.init), highlight=False, markup=False)
    if first_process():
        _claim(recipe, splits, out)
    for stage in stages(recipe):
        done = out / stage.name / WEIGHTS
        if resume and done.is_file():
            network.load_state_dict(load_network(done)[0].state_dict())
            continue
        part = _part(network, stage)
        task = make_task(part, config, recipe, stage.epochs, stage.learning_rate)
        task.describe = partial(name_batch, splits.train)
        fit(task, Batched(splits, recipe), out / stage.name, hardware=hardware, resume=resume)
        network.requires_grad_(True)
        if first_process():
            save_network(network, config, done)
    metrics = _judged(network, config, splits, recipe, out, hardware)
    if first_process():
        save_network(network, config, out / WEIGHTS)
        with whole_file(out / METRICS) as file:
            file.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


def judge(
    data: str | Path, weights: str | Path, *, split: str = "test", skip_bad: bool = False, batch_size: int = 8
) -> dict[str, Any]:
    """Return the metrics of trained weights on one split of a data set.

    Args:
        data: as in `open_data`.
        weights: a file of `save_network`.
        split: 'train', 'val' or 'test'.
        skip_bad: leave out broken images, and list them.
        batch_size: images at a time.

    Raises:
        CheckpointError: a weights file that is not what it should be.
        DataError: data that cannot be used, or has other classes or channels than the network.

    Example:
        >>> judge("textures", "absent.safetensors")
        Traceback (most recent call last):
            ...
        atrous._errors.CheckpointError: absent.safetensors: no such weights file
    """
    network, config = load_network(weights)
    splits = open_data(data, config.task, skip_bad=skip_bad)
    source = getattr(splits, split)
    if source is None:
        raise DataError(f"{data}: has no split {split!r}, expected train, val and test")
    if source.classes != config.classes:
        raise DataError(
            f"{data}: has the classes {', '.join(source.classes)}, expected those of {weights}: "
            f"{', '.join(config.classes)}"
        )
    wanted = 3 if config.settings.get("degradation") == "mosaic" else config.channels
    if source.channels != wanted:
        raise DataError(f"{data}: has {source.channels} channels, expected {wanted} as {weights}")
    recipe = RECIPES[config.task](network=config.network, batch_size=batch_size, **config.settings)
    task = make_task(network, config, recipe)
    return plain(evaluate(task, Batched(Splits(source, source, source), recipe)))


def _judged(
    network: torch.nn.Module,
    config: NetworkConfig,
    splits: Splits,
    recipe: Recipe,
    out: Path,
    hardware: Hardware | None,
) -> dict[str, Any]:
    """Return the metrics on 'val' and 'test', and write the picture of each."""
    metrics = {}
    for name, source in splits.items()[1:]:
        task = make_task(network, config, recipe)
        metrics[name] = plain(evaluate(task, Batched(replace(splits, test=source), recipe), hardware))
        if first_process() and task.shown is not None:
            save_picture(task.shown, out / f"{name}.png")
    return metrics


class Stage(NamedTuple):
    """One run of training: its name, epochs and learning rate."""

    name: str
    epochs: int
    learning_rate: float


def stages(recipe: Recipe) -> tuple[Stage, ...]:
    """Return what a recipe trains, one after the other.

    Example:
        >>> [stage.name for stage in stages(SegmentRecipe(context_epochs=5, joint_epochs=2))]
        ['front_end', 'context', 'joint']
    """
    if not isinstance(recipe, SegmentRecipe):
        return (Stage("whole", recipe.epochs, recipe.learning_rate),) if recipe.epochs else ()
    if recipe.context == "none" or not recipe.context_epochs:
        name = "front_end" if recipe.context == "none" else "whole"
        return (Stage(name, recipe.epochs, recipe.learning_rate),) if recipe.epochs else ()
    found = [
        Stage("front_end", recipe.epochs, recipe.learning_rate),
        Stage("context", recipe.context_epochs, recipe.context_learning_rate),
    ]
    if recipe.joint_epochs:
        found.append(Stage("joint", recipe.joint_epochs, recipe.joint_learning_rate))
    return tuple(stage for stage in found if stage.epochs)


def plain(metrics: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return metrics as numbers and lists, for JSON; None is no finite number.

    Example:
        >>> plain({"mean_iou": torch.tensor(0.5)})
        {'mean_iou': 0.5}
    """
    return {name: _finite(value.tolist()) for name, value in metrics.items()}


def first_process() -> bool:
    """Return whether this is the process that writes.

    Example:
        >>> first_process()
        True
    """
    return int(os.environ.get("LOCAL_RANK", 0)) == 0 and int(os.environ.get("NODE_RANK", 0)) == 0


def _part(network: torch.nn.Module, stage: Stage) -> torch.nn.Module:
    """Return what learns in a stage: a front end alone, a context module on a frozen one, or all."""
    if not isinstance(network, DilatedNet) or stage.name not in ("front_end", "context"):
        return network
    if stage.name == "front_end":
        return DilatedNet(network.front_end, torch.nn.Identity(), network.upsample.alignment)
    network.front_end.requires_grad_(False)
    return network


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return value if math.isfinite(value) else None


def _check_run(recipe: Recipe, out: Path, resume: bool) -> None:
    """Make sure that `out` is free, or has a run with the same settings to resume."""
    path = out / RECIPE
    if path.is_file() != resume:
        if resume:
            raise DataError(f"{out}: holds no run to resume")
        raise DataError(f"{out}: holds another run; resume it, or choose another folder")
    if resume:
        found, wanted = (one.model_dump() for one in (read_recipe(recipe.task, path), recipe))
        changed = [name for name in found if found[name] != wanted[name]]
        if changed:
            name = changed[0]
            raise DataError(f"{name}: got {wanted[name]}, but the run in {out} has {found[name]}; expected the same")


def _claim(recipe: Recipe, splits: Splits, out: Path) -> None:
    """Write settings and a digest of the data, or make sure that the run in `out` has the same data."""
    names = [
        f"{split}/{Path(source.name(index)).name}" for split, source in splits.items() for index in range(len(source))
    ]
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    if (out / DATA).is_file():
        found = json.loads((out / DATA).read_text(encoding="utf-8"))
        if found["sha256"] != digest:
            raise DataError(f"data: got {len(names)} images, but the run in {out} has {found['images']} others")
        return
    content = {RECIPE: {"task": recipe.task, **recipe.model_dump()}, DATA: {"images": len(names), "sha256": digest}}
    for name, entries in reversed(content.items()):
        with whole_file(out / name) as part:
            part.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
