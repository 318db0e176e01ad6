"""Kernels of a ConvNeXt compared: plain, dilated, dense, and with learned spacings in all their ways.

Legend: S seeds.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import lightning
import torch
from rich.console import Console
from rich.progress import track

from atrous import plots
from atrous._errors import DataError
from atrous._files import whole_file, writable_folder
from atrous.analysis.comparison import Comparison, Contender
from atrous.analysis.effective import effective_receptive_field
from atrous.models import ConvNeXt
from atrous.nn.dcls import _Dcls
from atrous.train.build import open_data
from atrous.train.callbacks import RecordPositions
from atrous.train.config import ClassifyRecipe
from atrous.train.corrupt import CORRUPTIONS, Corrupted
from atrous.train.data.batches import Batched
from atrous.train.data.source import Chosen, Splits
from atrous.train.kernels import KERNELS, Budget, build, size
from atrous.train.loop import Hardware, evaluate, fit
from atrous.train.tasks import Classify

DATA = ("fashion-mnist", "textures")
FIELDS = ("plain", "dilated2", "dense17", "bilinear")
"""Whose effective receptive fields are drawn."""
SHOWN = 64
"""Images over which these are the mean."""
TURNS = 15
"""Steps of every variant that are timed, one of each in turn."""


def run_experiment(
    data: str,
    out: str | Path,
    *,
    seeds: int = 3,
    kernels: Sequence[str] = tuple(KERNELS),
    jobs: int | None = None,
    budget: Budget | None = None,
) -> Comparison:
    """Train a small ConvNeXt with each kind of kernel from several seeds, and compare what they reach.

    All runs take the same steps on the same images in the same order. A network is judged, by the weights that were
    best in its validation, on the test images as they are and under each corruption of `Corrupted`. Writes into `out`:
    `comparison.json`, `comparison.png` and `times.json`; of the networks of seed 0, `fields.png`, their effective
    receptive fields, and `movement_KERNEL.png`, how their positions moved; and for each run a folder with logs,
    checkpoints, `scores.json` and `weights.pt`. A second call goes on where the first one stopped.

    Args:
        data: 'fashion-mnist' or 'textures'.
        out: the folder; made if absent.
        seeds: S, of weights and order: 0 to S - 1.
        kernels: names in `KERNELS`.
        jobs: runs at a time, each with one thread; None are as many as there are processors, or 1 beside a GPU.
        budget: how much to do; None is the published experiment.

    Returns:
        What each kind of kernel reached.

    Raises:
        DataError: unknown data or kernel, or one named twice, no seed, no job, or a folder that cannot be written or
            holds another experiment or anything else.

    Source: the comparison of Khalfaoui-Hassani, Pellegrini and Masquelier 2023, section 4, in small.

    Example:
        >>> run_experiment("mnist", "absent")
        Traceback (most recent call last):
            ...
        atrous._errors.DataError: experiment: data: got 'mnist', expected one of ('fashion-mnist', 'textures')
    """
    budget = budget or Budget()
    _check(data, seeds, kernels, jobs)
    splits = _open(data, budget)
    out = writable_folder(out)
    _claim(out, data, budget)
    missing = [
        (name, seed)
        for seed in range(seeds)
        for name in kernels
        if not (out / f"{name}_{seed}" / "scores.json").is_file()
    ]
    for _ in _finished(partial(_run, data, out, budget), missing, jobs):
        pass
    times = _times(out, kernels, splits, budget)
    result = Comparison(tuple(_contender(out, name, seeds, splits, budget, times) for name in kernels))
    _write(out / "comparison.json", {"data": data, "versions": _versions(), **result.to_dict()})
    with whole_file(out / "comparison.png") as part:
        plots.comparison(result).savefig(part, dpi=110)
    _draw(out, kernels, splits, budget)
    return result


class _Watched(Classify):
    """Classify, and record positions; with `decayed`, they decay as weights do, which the recipe advises against."""

    def __init__(self, network: ConvNeXt, num_classes: int, recipe: ClassifyRecipe, *, decayed: bool) -> None:
        super().__init__(network, num_classes, recipe)
        self.decayed = decayed
        self.record = RecordPositions(network)

    def configure_callbacks(self) -> list[lightning.Callback]:
        """Return what every task has, and what records."""
        return [*super().configure_callbacks(), self.record]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of the recipe, but for the decay."""
        groups = super().parameter_groups()
        positions = {layer.P for layer in self.network.modules() if isinstance(layer, _Dcls)}
        for group in groups:
            if self.decayed and positions.intersection(group["params"]):
                group["weight_decay"] = self.recipe.weight_decay
        return groups


class _LastMap(torch.nn.Module):
    """The features of a network, for the reading of its field."""

    def __init__(self, network: ConvNeXt) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network.features(image)[-1]


def _check(data: str, seeds: int, kernels: Sequence[str], jobs: int | None) -> None:
    if data not in DATA:
        raise DataError(f"experiment: data: got {data!r}, expected one of {DATA}")
    if seeds < 1:
        raise DataError(f"experiment: seeds: got {seeds}, expected at least 1")
    if jobs is not None and jobs < 1:
        raise DataError(f"experiment: jobs: got {jobs}, expected at least 1")
    unknown = [name for name in kernels if name not in KERNELS]
    if unknown or not kernels:
        got = repr(unknown[0]) if unknown else "none"
        raise DataError(f"experiment: kernels: got {got}, expected some of {', '.join(KERNELS)}")
    if len({*kernels}) < len(kernels):
        raise DataError(f"experiment: kernels: got {', '.join(kernels)}, expected each of them once")


def _open(data: str, budget: Budget) -> Splits:
    splits = open_data(data, "classify")
    if budget.lengths is None:
        return splits
    return Splits(
        *(Chosen(source, range(length)) for (_, source), length in zip(splits.items(), budget.lengths, strict=True))
    )


def _claim(out: Path, data: str, budget: Budget) -> None:
    """Write what the experiment is, or make sure that the one in `out` is the same."""
    path = out / "experiment.json"
    wanted = json.loads(json.dumps({"data": data, **asdict(budget)}))
    if not path.is_file():
        if any(out.iterdir()):
            raise DataError(f"{out}: holds something else than an experiment, expected an empty folder; choose another")
        _write(path, wanted)
        return
    found = _read(path)
    if found != wanted:
        name = next((name for name in wanted if found.get(name) != wanted[name]), "more")
        raise DataError(
            f"{out}: holds an experiment with {name} {found.get(name)}, got {wanted.get(name)}; choose another folder"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); choose another folder") from error
    return dict(found)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _finished(run: Callable[[tuple[str, int]], None], runs: list[tuple[str, int]], jobs: int | None) -> Iterator[None]:
    """Yield after each run; several at a time are processes of their own."""
    on_gpu = torch.cuda.is_available()
    if jobs is None:
        jobs = 1 if on_gpu else os.cpu_count() or 1
    show = partial(track, description="runs", total=len(runs), console=Console(stderr=True))
    if jobs == 1:
        yield from show(map(run, runs))
        return
    # A forked process cannot use the threads of this one.
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin) as pool:
        futures = [pool.submit(run, one) for one in runs]
        try:
            for future in show(as_completed(futures)):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Give a process one thread, and end it with the one that made it, lest two work on one run later."""
    torch.set_num_threads(1)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _run(data: str, out: Path, budget: Budget, which: tuple[str, int]) -> None:
    """Train and judge one network; scores are written last."""
    name, seed = which
    kernel, folder = KERNELS[name], writable_folder(out / f"{name}_{seed}")
    splits = _open(data, budget)
    recipe = ClassifyRecipe(epochs=budget.epochs, seed=seed, **{**budget.recipe, **kernel.recipe})
    with (folder / "log.txt").open("a", encoding="utf-8") as log, redirect_stderr(log):
        lightning.seed_everything(seed, verbose=False)
        network = build(name, splits, budget)
        task = _Watched(network, len(splits.train.classes), recipe, decayed=kernel.decayed)
        hardware, steps = Hardware(devices=1), budget.steps_per_epoch
        fit(task, Batched(splits, recipe), folder, hardware=hardware, steps_per_epoch=steps, resume=True)
        test = splits.items()[-1][1]
        sources = {"clean": test, **{kind: Corrupted(test, kind) for kind in CORRUPTIONS}}
        scores = {
            heading: evaluate(task, Batched(Splits(test, test, source), recipe), hardware)["accuracy"].item()
            for heading, source in sources.items()
        }
    with whole_file(folder / "weights.pt") as part:
        torch.save({"network": network.state_dict(), "record": task.record.state_dict()}, part)
    _write(folder / "scores.json", scores)


def _times(out: Path, kernels: Sequence[str], splits: Splits, budget: Budget) -> dict[str, float]:
    """Return the milliseconds of a training step, the median over turns in which every kind has one step.

    What was measured before, here and with the same versions, is measured again where a kind is new: turns compare.
    """
    path = out / "times.json"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = {"device": torch.cuda.get_device_name() if device == "cuda" else _processor(), "versions": _versions()}
    found = _read(path) if path.is_file() else {}
    if found.get("where") == where:
        if found["milliseconds"].keys() >= {*kernels}:
            return dict(found["milliseconds"])
        kernels = [*dict.fromkeys((*found["milliseconds"], *kernels))]
    batch = next(iter(Batched(splits, ClassifyRecipe(**budget.recipe)).train_dataloader()))
    images, labels = batch[0].to(device), batch[1].to(device)
    with _one_thread():
        steps = {name: _stepper(build(name, splits, budget).to(device), images, labels) for name in kernels}
        turns: dict[str, list[float]] = {name: [] for name in kernels}
        for turn in range(TURNS + 1):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                if turn:  # the first one builds what later ones use
                    turns[name].append(1000 * (time.perf_counter() - start))
    medians = {name: statistics.median(taken) for name, taken in turns.items()}
    _write(path, {"where": where, "milliseconds": medians})
    return medians


def _stepper(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(network.parameters())

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()  # waits for a GPU

    return step


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _draw(out: Path, kernels: Sequence[str], splits: Splits, budget: Budget) -> None:
    """Draw what the networks of seed 0 look at, and how their positions went there."""
    images = torch.stack([splits.val[index][0] for index in range(min(SHOWN, len(splits.val)))])
    fields = {}
    for name in kernels:
        saved = torch.load(out / f"{name}_0" / "weights.pt", weights_only=True)
        network = build(name, splits, budget).eval()
        network.load_state_dict(saved["network"])
        if name in FIELDS:
            fields[KERNELS[name].title] = effective_receptive_field(_LastMap(network), images)
        record = RecordPositions(network)
        record.load_state_dict(saved["record"])
        if record.positions[0]:
            with whole_file(out / f"movement_{name}.png") as part:
                plots.movement(record.movement()).savefig(part, dpi=90)
    if fields:
        with whole_file(out / "fields.png") as part:
            plots.effective_receptive_fields(fields).savefig(part, dpi=90)


def _contender(
    out: Path, name: str, seeds: int, splits: Splits, budget: Budget, times: Mapping[str, float]
) -> Contender:
    found = [_read(out / f"{name}_{seed}" / "scores.json") for seed in range(seeds)]
    scores = {heading: tuple(float(one[heading]) for one in found) for heading in found[0]}
    with torch.device("meta"):
        parameters = size(build(name, splits, budget))
    return Contender(KERNELS[name].title, parameters, times[name], scores)


def _processor() -> str:
    return f"{os.cpu_count()} processors {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("atrous", "torch", "numpy", "lightning")}
