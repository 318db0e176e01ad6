"""One run of training: progress bar, logs, checkpoints, early stopping, the best weights at the end."""

from __future__ import annotations

import csv
import logging
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from atrous._errors import DataError
from atrous.train.data.augment import mixed
from atrous.train.tasks.task import Task

LOG = "metrics.csv"


@dataclass(frozen=True)
class History:
    """What a run logged.

    Args:
        losses: (step, training loss).
        validation: (step, the metric that is watched).
        seconds: of wall time.

    Example:
        >>> history = History(losses=((4, 2.0), (9, 1.5)), validation=((9, 0.25),), seconds=1.0)
        >>> history.validation[-1]
        (9, 0.25)
    """

    losses: tuple[tuple[int, float], ...]
    validation: tuple[tuple[int, float], ...]
    seconds: float


@dataclass(frozen=True)
class Hardware:
    """Where a run runs, in Lightning's words.

    Args:
        devices: how many of a machine, or 'auto'.
        nodes: machines.
        strategy: how they share the work.
        accelerator: what they are.

    Example:
        >>> Hardware(devices=2, strategy="ddp").nodes
        1
    """

    devices: int | str = "auto"
    nodes: int = 1
    strategy: str = "auto"
    accelerator: str = "auto"


class _Chance(lightning.Callback):
    """Draw what dropout and mixtures need from a seed of the batch, so that a resumed run draws the same."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        torch.manual_seed(mixed(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank))


def fit(
    task: Task,
    data: lightning.LightningDataModule,
    folder: str | Path,
    *,
    hardware: Hardware | None = None,
    steps_per_epoch: int | None = None,
    resume: bool = False,
) -> History:
    """Train for the epochs of the task, or until its metric stops rising, and leave the best weights in `task`.

    Args:
        task: what to train, in place.
        data: training and validation batches.
        folder: for `metrics.csv`, TensorBoard's events and the checkpoints `best.ckpt` and `last.ckpt`, which are
            written at the end of every epoch.
        hardware: where to run; None chooses.
        steps_per_epoch: an epoch takes so many of the batches; None takes all.
        resume: go on from `last.ckpt`, if there is one: weights end as if the run had never stopped.

    Returns:
        The history of the run.

    Raises:
        DataError: log or checkpoints cannot be written, or the loss is no finite number.

    Source: Lightning's Trainer does the work.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from atrous.models import ScoreUpsample
        >>> from atrous.train import Batched, Segment, SegmentRecipe, Splits, Textures
        >>> recipe = SegmentRecipe(epochs=2, batch_size=1)
        >>> task = Segment(torch.nn.Conv2d(1, 8, 1), ScoreUpsample(1), 8, recipe)
        >>> data = Batched(Splits(Textures("train", 3, (8, 8)), Textures("val", 1, (8, 8))), recipe)
        >>> with TemporaryDirectory() as folder:
        ...     history = fit(task, data, folder)
        >>> [step for step, mean_iou in history.validation]
        [2, 5]
    """
    folder, recipe, where = Path(folder), task.recipe, hardware or Hardware()
    watched = f"val/{task.watched}"
    best = ModelCheckpoint(
        folder, "best", watched, mode="max", save_last=True, save_on_train_epoch_end=True, enable_version_counter=False
    )
    callbacks: list[lightning.Callback] = [best, _progress(), _Chance(recipe.seed)]
    if recipe.patience is not None:
        callbacks.append(EarlyStopping(watched, mode="max", patience=recipe.patience))
    last = folder / "last.ckpt"
    goes_on = resume and last.is_file()
    if goes_on:
        _set_aside(folder / LOG)
    start = time.perf_counter()
    task.train()
    with _quiet():
        trainer = _trainer(
            where,
            callbacks=callbacks,
            limit_train_batches=steps_per_epoch,
            log_every_n_steps=5,
            logger=[CSVLogger(folder, name="", version=""), TensorBoardLogger(folder, name="", version="")],
            max_epochs=task.epochs,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
        )
        try:
            with _one_sentence():
                trainer.fit(task, datamodule=data, ckpt_path=last if goes_on else None)
        except OSError as error:
            raise DataError(f"{folder}: training stopped, log or checkpoint cannot be written ({error})") from error
    state = torch.load(folder / "best.ckpt", weights_only=True)["state_dict"]
    task.load_state_dict(state)
    rows = _read_log(folder)
    return History(_column(rows, "train/loss"), _column(rows, watched), time.perf_counter() - start)


def evaluate(task: Task, batches: Any, hardware: Hardware | None = None) -> dict[str, torch.Tensor]:
    """Judge a network.

    Args:
        task: with the weights to judge.
        batches: inputs and targets, or a data module with a test split.
        hardware: where to run; None chooses.

    Returns:
        The metrics of the task by name.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> from atrous.models import ScoreUpsample
        >>> from atrous.train import Segment, SegmentRecipe
        >>> task = Segment(torch.nn.Identity(), ScoreUpsample(1), 2, SegmentRecipe())
        >>> pairs = [(torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]]), torch.tensor([[1, 1]]))]
        >>> evaluate(task, DataLoader(pairs))["confusion"]
        tensor([[0, 0],
                [1, 1]])
    """
    with _quiet():
        trainer = _trainer(
            hardware or Hardware(),
            logger=False,
            callbacks=[_progress()],
        )
        with _one_sentence():
            trainer.test(task, batches, verbose=False)
    return task.test_result


def _trainer(where: Hardware, **options: Any) -> lightning.Trainer:
    try:
        return lightning.Trainer(
            accelerator=where.accelerator,
            devices=where.devices,
            num_nodes=where.nodes,
            strategy=where.strategy,
            enable_model_summary=False,
            use_distributed_sampler=False,
            **options,
        )
    except (MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"hardware: got {where}, which cannot run here ({reason}); see `atrous info`") from error


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Leave the sentence alone of what a worker process raises with its traceback as text."""
    try:
        yield
    except DataError as error:
        _, wrapped, last = str(error).strip().rpartition("DataError: ")
        if wrapped and "Original Traceback" in str(error):
            raise DataError(last) from None
        raise


def _progress() -> RichProgressBar:
    return RichProgressBar(console_kwargs={"stderr": True})


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advertisements and its advice on workers off the screen."""
    log = logging.getLogger("lightning.pytorch")
    level, hook = log.level, threading.excepthook
    log.setLevel(logging.WARNING)

    def but_for_files(stop: threading.ExceptHookArgs) -> None:
        # TensorBoard writes in a thread of its own; where that cannot write, the next checkpoint cannot, and says so.
        if not issubclass(stop.exc_type, OSError):
            hook(stop)

    threading.excepthook = but_for_files
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")
        # Metrics are the same in all processes.
        warnings.filterwarnings("ignore", ".*sync_dist=True.*")
        warnings.filterwarnings("ignore", ".*all_gather.* is deprecated.*")
        warnings.filterwarnings("ignore", ".*`isinstance.treespec, LeafSpec.` is deprecated.*")
        warnings.filterwarnings("ignore", ".*number of training batches.*smaller than the logging interval.*")
        try:
            yield
        finally:
            log.setLevel(level)
            threading.excepthook = hook


def _set_aside(log: Path) -> None:
    """Give the log of the run so far another name: Lightning's logger would delete it."""
    if log.is_file():
        parts = len(list(log.parent.glob(f"{log.stem}.*{log.suffix}")))
        log.rename(log.with_suffix(f".{parts:03}{log.suffix}"))


def _read_log(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a run, those of its earlier parts before those of the last, no step twice."""
    rows: list[dict[str, str]] = []
    # A run that ended with its last epoch has no new part.
    for path in (*sorted(folder.glob("metrics.*.csv")), *folder.glob(LOG)):
        with path.open(newline="") as file:
            part = list(csv.DictReader(file))
        first = min((int(row["step"]) for row in part), default=0)
        rows = [row for row in rows if not part or int(row["step"]) < first] + part
    return rows


def _column(rows: list[dict[str, str]], name: str) -> tuple[tuple[int, float], ...]:
    return tuple((int(row["step"]), float(row[name])) for row in rows if row.get(name))
