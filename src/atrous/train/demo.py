"""The experiment of Yu and Koltun in small: does a dilated context module behind a front end raise mean IoU?

Legend: B batch, C classes, H, W mosaic size, h, w score size.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Subset
from torchmetrics.functional.classification import multiclass_jaccard_index

from atrous._errors import DataError
from atrous._files import whole_file, writable_folder
from atrous.analysis.effective import effective_receptive_field
from atrous.analysis.receptive_field import LayerField, receptive_field
from atrous.models import DilatedNet, dilation_small
from atrous.nn import ContextModule, Conv2d
from atrous.plots import Report, Variant, contact_sheet, grey, save_picture, write_report
from atrous.train.config import SegmentRecipe
from atrous.train.data.batches import Batched
from atrous.train.data.source import Item, Source, Splits
from atrous.train.data.textures import SPLITS, Split, Textures
from atrous.train.loop import History, evaluate, fit
from atrous.train.tasks import Segment
from atrous.train.weights import NetworkConfig, save_network

CONTEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "with_context": ("with context", {}),
    "undilated": ("undilated control", {"dilated": False}),
    "default_init": ("default initialisation", {"init": "default"}),
}
"""Name -> title, and the arguments of its context module that differ."""


@dataclass(frozen=True)
class Settings:
    """How much the demo does; the defaults are the published demo, tests take less.

    Args:
        size: (H, W) of the training mosaics.
        mosaic: (H, W) of the one that is shown.
        lengths: mosaics of 'train' to draw from, of 'val' and of 'test'.
        cached: training mosaics whose scores the context modules learn from.
        front_end: options of `fit` for the front end.
        context: options of `fit` for every context module.

    Example:
        >>> Settings().context
        {'epochs': 14, 'steps_per_epoch': 20}
    """

    size: tuple[int, int] = (256, 256)
    mosaic: tuple[int, int] = (1024, 1536)
    lengths: tuple[int, int, int] = (4096, 32, 64)
    cached: int = 320
    front_end: dict[str, int] = field(default_factory=lambda: {"epochs": 18, "steps_per_epoch": 50, "patience": 3})
    context: dict[str, int] = field(default_factory=lambda: {"epochs": 14, "steps_per_epoch": 20})


def run_demo(out: str | Path, seed: int = 0, settings: Settings | None = None) -> dict[str, Any]:
    """Train the front end, the context module and its two controls; write a report and return the metrics.

    The three context modules see the same cached scores of the frozen front end in the same order for the same number
    of steps. Writes into `out`: `report.html`, `metrics.json`, `overview.png`, `mosaic.png`, and
    `front_end.safetensors` and `with_context.safetensors` for `atrous predict`; logs and checkpoints into `out/logs`.

    Args:
        out: the folder; made if absent, files of the same names are replaced.
        seed: of data, weights and order.
        settings: how much to do.

    Returns:
        What stands in `metrics.json`: the four mean IoUs on the test mosaics, seed, seconds, versions.

    Raises:
        DataError: the folder cannot be written, or the seed is out of range; raised before any work.

    Source: Yu and Koltun 2016, sections 3 to 5.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> one = {"epochs": 1, "steps_per_epoch": 1}
        >>> little = Settings((32, 32), (64, 96), (4, 1, 1), cached=2, front_end=one, context=one)
        >>> with TemporaryDirectory() as folder:
        ...     metrics = run_demo(folder, seed=1, settings=little)
        >>> list(metrics)
        ['front_end', 'with_context', 'undilated', 'default_init', 'seed', 'seconds', 'versions']
    """
    start = time.perf_counter()
    settings = settings or Settings()
    if not 0 <= seed < 2**32:
        raise DataError(f"demo: seed: got {seed}, expected 0 to {2**32 - 1}")
    out = writable_folder(out)
    console = Console(stderr=True)
    data = {
        split: Textures(split, length, settings.size, seed=seed)
        for split, length in zip(SPLITS, settings.lengths, strict=True)
    }
    unseen = settings.lengths[-1]
    image, truth = Textures("test", unseen + 1, settings.mosaic, seed=seed)[unseen]
    outcomes = []
    for outcome in _experiment(data, settings, out / "logs", seed):
        outcomes.append(outcome)
        console.print(f"{outcome.title}: mean IoU {outcome.result['mean_iou']:.3f} on the test mosaics")
    variants = tuple(_variant(outcome, image, truth) for outcome in outcomes)
    report = Report(
        seed=seed,
        seconds=time.perf_counter() - start,
        versions={name: version(name) for name in ("atrous", "torch", "numpy", "lightning", "scikit-image")},
        classes=Textures.classes,
        image=image[0].numpy(),
        truth=truth.numpy(),
        variants=variants,
        growth=_growth(outcomes[1].network, image[None]),
        effective=effective_receptive_field(outcomes[1].network, _turned(image)),
    )
    metrics: dict[str, Any] = {variant.name: variant.mean_iou for variant in variants}
    metrics |= {"seed": seed, "seconds": report.seconds, "versions": report.versions}
    _write(out, report, metrics, outcomes)
    return metrics


@dataclass(frozen=True)
class _Outcome:
    name: str
    title: str
    network: DilatedNet
    trained: torch.nn.Module
    history: History
    result: dict[str, torch.Tensor]


def _experiment(data: dict[Split, Textures], settings: Settings, logs: Path, seed: int) -> Iterator[_Outcome]:
    """Yield the front end alone, then each context module behind it."""
    classes = len(Textures.classes)
    recipe, steps = _recipe(settings.front_end, 4, seed)
    lightning.seed_everything(seed, verbose=False)
    front_end = dilation_small(classes, Textures.channels).front_end
    # Contiguous float32 convolutions of few channels are a third slower on a CPU.
    network = DilatedNet(front_end, torch.nn.Identity(), "centre")
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task = Segment(network, network.upsample, classes, recipe)
    batches = Batched(Splits(data["train"], data["val"], data["test"]), recipe)
    history = fit(task, batches, logs / "front_end", steps_per_epoch=steps)
    yield _Outcome("front_end", "front end", network, front_end, history, evaluate(task, batches))

    recipe, steps = _recipe(settings.context, 16, seed)
    scores = Splits(*(_Scores(network, data[split], settings.cached) for split in SPLITS))
    for name, (title, options) in CONTEXTS.items():
        lightning.seed_everything(seed, verbose=False)
        context = ContextModule(classes, "basic", 8, "same", **options)
        task = Segment(context, network.upsample, classes, recipe)
        batches = Batched(scores, recipe)
        history = fit(task, batches, logs / name, steps_per_epoch=steps)
        whole = DilatedNet(front_end, context, "centre")
        yield _Outcome(name, title, whole, context, history, evaluate(task, batches))


def _recipe(options: dict[str, int], batch_size: int, seed: int) -> tuple[SegmentRecipe, int]:
    """Return the recipe of a stage, and its steps in an epoch."""
    steps = options["steps_per_epoch"]
    rest: dict[str, Any] = {name: value for name, value in options.items() if name != "steps_per_epoch"}
    return SegmentRecipe(**rest, batch_size=batch_size, mirror=False, schedule="plateau", seed=seed), steps


class _Scores(Source):
    """Serve the frozen front end's scores of the first mosaics, with their labels."""

    def __init__(self, network: DilatedNet, mosaics: Textures, most: int) -> None:
        console = Console(stderr=True)
        chosen = Subset(mosaics, range(min(most, len(mosaics))))
        batches = track(
            DataLoader(chosen, 8),
            f"scores of {mosaics.split} mosaics",
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        with torch.inference_mode():
            pairs = [(network.features(images), labels) for images, labels in batches]
        self.scores, self.labels = (torch.cat(part).clone() for part in zip(*pairs, strict=True))
        self.mosaics, self.channels, self.classes = mosaics, self.scores.shape[1], mosaics.classes

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int) -> Item:
        return self.scores[index], self.labels[index]

    def name(self, index: int) -> str:
        return self.mosaics.name(index)


def _variant(outcome: _Outcome, image: torch.Tensor, truth: torch.Tensor) -> Variant:
    """Segment the large mosaic, and put everything that the report shows together."""
    with torch.inference_mode():
        labels = outcome.network.eval()(image[None]).argmax(1)[0]
    return Variant(
        name=outcome.name,
        title=outcome.title,
        mean_iou=outcome.result["mean_iou"].item(),
        class_iou=tuple(outcome.result["class_iou"].tolist()),
        prediction=labels.numpy(),
        mosaic_iou=multiclass_jaccard_index(labels, truth, len(Textures.classes)).item(),
        losses=outcome.history.losses,
        validation=outcome.history.validation,
        parameters=sum(p.numel() for p in outcome.trained.parameters()),
        seconds=outcome.history.seconds,
    )


def _turned(image: torch.Tensor) -> torch.Tensor:
    """Return an image and its mirror images."""
    return torch.stack([image.flip(dims) for dims in ((), (1,), (2,), (1, 2))])


def _growth(network: DilatedNet, image: torch.Tensor) -> tuple[tuple[str, LayerField], ...]:
    """Return what the front end sees, then each 3x3 layer of the context module."""
    # The last call of a module is the one that counts.
    layers = {layer.module: layer for layer in receptive_field(network, image).layers}
    front_end = layers["front_end.final"]
    growth = [("front end alone", front_end)]
    for name, conv in network.context.named_children():
        if isinstance(conv, Conv2d) and conv.kernel_size != (1, 1):
            layer = layers[f"context.{name}"]
            features = 1 + (layer.receptive_field[0] - front_end.receptive_field[0]) // network.upsample.factor
            growth.append((f"{features} features, dilation {conv.dilation[0]}", layer))
    return tuple(growth)


def _write(out: Path, report: Report, metrics: dict[str, Any], outcomes: list[_Outcome]) -> None:
    for outcome in outcomes[:2]:
        arguments = {"num_classes": len(report.classes), "in_channels": Textures.channels}
        config = NetworkConfig("dilation_small", arguments, report.classes, context=outcome.name != "front_end")
        save_network(outcome.network, config, out / f"{outcome.name}.safetensors")
    save_picture(grey(report.image), out / "mosaic.png")
    with whole_file(out / "overview.png") as part:
        contact_sheet(report).savefig(part, dpi=110)
    write_report(report, out / "report.html")
    with whole_file(out / "metrics.json") as part:
        part.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
