import csv

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from atrous import DataError
from atrous.models import ScoreUpsample
from atrous.train import SegmentationModule, evaluate, fit


def problem():
    """Two classes that the sign of one channel tells apart."""
    inputs = torch.randn(24, 1, 6, 6)
    return DataLoader(TensorDataset(inputs, (inputs[:, 0] > 0).long()), 4)


def module():
    return SegmentationModule(torch.nn.Conv2d(1, 2, 1), ScoreUpsample(1), 2, learning_rate=0.1)


def test_learns_logs_and_leaves_the_best_weights(tmp_path):
    batches, trained = problem(), module()
    before = evaluate(trained, batches)["mean_iou"]
    history = fit(trained, batches, batches, tmp_path, max_epochs=6, steps_per_epoch=6)
    result = evaluate(trained, batches)
    assert result["mean_iou"] > max(0.9, before)
    assert result["mean_iou"].item() == max(value for _, value in history.validation)
    assert [step for step, _ in history.validation] == [5, 11, 17, 23, 29, 35]
    assert history.losses[-1][1] < history.losses[0][1]
    assert result["confusion"].sum() == 24 * 36
    assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt", "last.ckpt", "metrics.csv"}
    with (tmp_path / "metrics.csv").open() as file:
        assert {"step", "train/loss", "val/mean_iou"} <= set(csv.DictReader(file).fieldnames)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file: training stopped, log or checkpoint cannot be written"):
        fit(module(), problem(), problem(), tmp_path / "file", max_epochs=1, steps_per_epoch=1)


def test_stops_when_the_validation_no_longer_rises(tmp_path):
    batches = problem()
    stuck = module()
    stuck.learning_rate = 0.0
    history = fit(stuck, batches, batches, tmp_path, max_epochs=20, steps_per_epoch=1, patience=2)
    assert len(history.validation) == 3


def test_the_same_seed_gives_the_same_weights(tmp_path):
    results = []
    for run in ("a", "b"):
        torch.manual_seed(5)
        batches, trained = problem(), module()
        fit(trained, batches, batches, tmp_path / run, max_epochs=2, steps_per_epoch=4)
        results.append(trained.network.weight.detach().clone())
    assert torch.equal(*results)
