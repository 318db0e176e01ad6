"""One run of training: progress bar, log, checkpoints, early stopping, the best weights at the end."""

from __future__ import annotations

import csv
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from atrous._errors import DataError
from atrous.train.module import SegmentationModule

Batches = DataLoader[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class History:
    """What a run logged.

    Args:
        losses: (step, training loss).
        validation: (step, validation mean IoU).
        seconds: of wall time.

    Example:
        >>> history = History(losses=((4, 2.0), (9, 1.5)), validation=((9, 0.25),), seconds=1.0)
        >>> history.validation[-1]
        (9, 0.25)
    """

    losses: tuple[tuple[int, float], ...]
    validation: tuple[tuple[int, float], ...]
    seconds: float


def fit(
    module: SegmentationModule,
    train: Batches,
    val: Batches,
    folder: str | Path,
    *,
    max_epochs: int,
    steps_per_epoch: int,
    patience: int | None = None,
) -> History:
    """Train until the validation mean IoU stops rising, and leave the best weights in `module`.

    Args:
        module: what to train, in place.
        train: training batches; an epoch takes the first `steps_per_epoch` of them.
        val: validation batches.
        folder: for `metrics.csv` and the checkpoints `best.ckpt` and `last.ckpt`.
        max_epochs: the most epochs.
        steps_per_epoch: training steps between validations.
        patience: epochs without a rise of the validation mean IoU before the run stops; None never stops early.

    Returns:
        The history of the run.

    Raises:
        DataError: log or checkpoints cannot be written.

    Source: Lightning's Trainer does the work.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from atrous.models import ScoreUpsample
        >>> module = SegmentationModule(torch.nn.Conv2d(1, 2, 1), ScoreUpsample(1), num_classes=2)
        >>> pairs = [(torch.ones(1, 4, 4), torch.ones(4, 4).long())] * 3
        >>> with TemporaryDirectory() as folder:
        ...     history = fit(module, DataLoader(pairs), DataLoader(pairs), folder, max_epochs=2, steps_per_epoch=3)
        >>> [step for step, mean_iou in history.validation]
        [2, 5]
    """
    folder = Path(folder)
    best = ModelCheckpoint(folder, "best", "val/mean_iou", mode="max", save_last=True, enable_version_counter=False)
    callbacks: list[lightning.Callback] = [best, _progress()]
    if patience is not None:
        callbacks.append(EarlyStopping("val/mean_iou", mode="max", patience=patience))
    start = time.perf_counter()
    with _quiet():
        trainer = lightning.Trainer(
            accelerator="auto",
            callbacks=callbacks,
            limit_train_batches=steps_per_epoch,
            log_every_n_steps=min(5, steps_per_epoch),
            logger=CSVLogger(folder, name="", version=""),
            max_epochs=max_epochs,
            num_sanity_val_steps=0,
            enable_model_summary=False,
        )
        try:
            trainer.fit(module, train, val)
        except OSError as error:
            raise DataError(f"{folder}: training stopped, log or checkpoint cannot be written ({error})") from error
    state = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    module.load_state_dict(state)
    rows = _read_log(folder / "metrics.csv")
    return History(_column(rows, "train/loss"), _column(rows, "val/mean_iou"), time.perf_counter() - start)


def evaluate(module: SegmentationModule, batches: Batches) -> dict[str, torch.Tensor]:
    """Judge a network at the labels' full size.

    Args:
        module: with the weights to judge.
        batches: inputs and labels.

    Returns:
        `mean_iou` (), `class_iou` (C,) and `confusion` (C, C; row: true class, column: predicted).

    Example:
        >>> from atrous.models import ScoreUpsample
        >>> module = SegmentationModule(torch.nn.Identity(), ScoreUpsample(1), num_classes=2)
        >>> pairs = [(torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]]), torch.tensor([[1, 1]]))]
        >>> evaluate(module, DataLoader(pairs))["confusion"]
        tensor([[0, 0],
                [1, 1]])
    """
    with _quiet():
        trainer = lightning.Trainer(
            accelerator="auto", logger=False, callbacks=[_progress()], enable_model_summary=False
        )
        trainer.test(module, batches, verbose=False)
    return module.test_result


def _progress() -> RichProgressBar:
    return RichProgressBar(console_kwargs={"stderr": True})


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advertisements and its advice on workers off the screen."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")
        warnings.filterwarnings("ignore", ".*`isinstance.treespec, LeafSpec.` is deprecated.*")
        try:
            yield
        finally:
            log.setLevel(level)


def _read_log(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _column(rows: list[dict[str, str]], name: str) -> tuple[tuple[int, float], ...]:
    return tuple((int(row["step"]), float(row[name])) for row in rows if row.get(name))
