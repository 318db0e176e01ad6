import csv
import subprocess
import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from atrous import DataError
from atrous.train import evaluate, fit


def test_learns_logs_and_leaves_the_best_weights(tmp_path, signs):
    task, data = signs(epochs=6)
    before = evaluate(task, data)["mean_iou"]
    history = fit(task, data, tmp_path)
    result = evaluate(task, data)
    assert result["mean_iou"] > max(0.9, before)
    assert result["mean_iou"].item() == max(value for _, value in history.validation)
    assert [step for step, _ in history.validation] == [5, 11, 17, 23, 29, 35]
    assert history.losses[-1][1] < history.losses[0][1]
    assert result["confusion"].sum() == 24 * 36
    names = {path.name for path in tmp_path.iterdir()}
    assert {"best.ckpt", "last.ckpt", "metrics.csv"} <= names
    with (tmp_path / "metrics.csv").open() as file:
        assert {"step", "train/loss", "val/mean_iou"} <= set(csv.DictReader(file).fieldnames)


def test_tensorboard_has_curves_and_pictures(tmp_path, signs):
    fit(*signs(epochs=2), tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert len(events.Scalars("val/mean_iou")) == 2
    first = events.Images("val/first")[0]
    assert (first.width, first.height) == (18, 6)


def test_an_epoch_may_be_shorter_than_the_data(tmp_path, signs):
    history = fit(*signs(epochs=2), tmp_path, steps_per_epoch=4)
    assert [step for step, _ in history.validation] == [3, 7]


def test_a_folder_that_cannot_be_written(tmp_path, signs):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file: training stopped, log or checkpoint cannot be written"):
        fit(*signs(epochs=1), tmp_path / "file")


def test_stops_when_the_validation_no_longer_rises(tmp_path, signs):
    task, data = signs(epochs=20, patience=2)
    task.learning_rate = 0.0
    assert len(fit(task, data, tmp_path).validation) == 3


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_a_resumed_run_ends_as_one_that_never_stopped(tmp_path, signs, schedule):
    def weights(folder, *runs):
        for epochs in runs:
            torch.manual_seed(5)
            task, data = signs(epochs=6, schedule=schedule)
            with pytest.MonkeyPatch.context() as patch:
                if epochs < 6:
                    patch.setattr(type(task), "training_step", _stopping(type(task).training_step, 6 * epochs + 2))
                    with pytest.raises(KeyboardInterrupt):
                        _interrupted(task, data, folder)
                else:
                    history = fit(task, data, folder, resume=True)
        return task.network.weight.detach().clone(), history

    whole, history = weights(tmp_path / "whole", 6)
    parts, pieced = weights(tmp_path / "parts", 1, 3, 6)
    assert torch.equal(parts, whole)
    assert pieced.validation == history.validation


def _stopping(step, at):
    def stopping(self, batch, index):
        if self.global_step == at:
            raise KeyboardInterrupt
        return step(self, batch, index)

    return stopping


def _interrupted(task, data, folder):
    """Lightning ends the process on an interrupt."""
    try:
        fit(task, data, folder, resume=True)
    except (SystemExit, KeyboardInterrupt) as stop:
        raise KeyboardInterrupt from stop


def test_a_loss_that_is_no_number_names_step_files_and_checkpoint(tmp_path, signs):
    task, data = signs(epochs=3)
    step = task.loss

    def loss(inputs, targets):
        return step(inputs, targets) * (float("nan") if task.global_step == 8 else 1)

    task.loss = loss
    task.describe = lambda indices: ", ".join(data.splits.train.name(index) for index in indices)
    with pytest.raises(DataError, match=r"the loss is nan at step 8, in the batch of sign \d+, .*last\.ckpt; try"):
        fit(task, data, tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 6


FULL = """
import resource, signal, sys
from atrous import DataError
from atrous.train import Batched, SegmentRecipe, Splits, Textures, describe, fit, make_task
recipe = SegmentRecipe(width=1 / 16, epochs=int(sys.argv[2]), crop=32)
data = Batched(Splits(Textures("train", 2, (32, 32)), Textures("val", 1, (32, 32))), recipe)
config = describe(recipe, data.splits.train)
if sys.argv[2] == "2":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    fit(make_task(config.build(), config, recipe), data, sys.argv[1], resume=True)
except DataError as error:
    sys.exit(str(error))
"""


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    runs = []
    for epochs in ("1", "2"):
        command = [sys.executable, "-W", "ignore", "-c", FULL, str(tmp_path), epochs]
        runs.append(subprocess.run(command, capture_output=True, text=True, check=False))
        if epochs == "1":
            before = (tmp_path / "last.ckpt").read_bytes()
    assert runs[0].returncode == 0, runs[0].stderr
    assert "training stopped, log or checkpoint cannot be written" in runs[1].stderr
    assert "Traceback" not in runs[1].stderr
    assert (tmp_path / "last.ckpt").read_bytes() == before
