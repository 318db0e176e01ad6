import numpy as np
import pytest
import torch
import torch.nn.functional as F

from atrous import DataError
from atrous.models import DilatedNet, FrontEnd, ScoreUpsample, dilation_small
from atrous.models.yu_koltun import SMALL, SMALL_HEAD
from atrous.train import Textures
from atrous.train.config import RegressRecipe
from atrous.train.data.batches import Batched
from atrous.train.data.source import Source, Splits
from atrous.train.loop import Hardware, evaluate, fit
from atrous.train.tasks.regress import Regress

CPU = Hardware(devices=1, accelerator="cpu")


class Edges(Source):
    """Textures, and the blurred magnitude of their gradient, cut off at 1."""

    channels = 1

    def __init__(self, split, length):
        self.textures = Textures(split, length, (48, 48), noise=0.2)

    def __len__(self):
        return len(self.textures)

    def __getitem__(self, index):
        image, _ = self.textures[index]
        down, right = (F.pad(image.diff(dim=dim), pad) for dim, pad in ((1, (0, 0, 0, 1)), (2, (0, 1))))
        magnitude = F.avg_pool2d(down.square() + right.square(), 9, 1, 4, count_include_pad=False).sqrt()
        return image, (magnitude / 1.5).clamp(max=1)

    def name(self, index):
        return self.textures.name(index)


def task(loss="l2", outputs=1, network=None, factor=1):
    recipe = RegressRecipe(loss=loss)
    return Regress(network or torch.nn.Identity(), ScoreUpsample(factor, "centre"), outputs, recipe)


def maps(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("loss", ["l1", "l2", "binary"])
def test_a_trained_network_beats_the_mean(tmp_path, loss):
    """`score` is 0 for the mean of the targets that it is judged by."""
    torch.manual_seed(0)
    recipe = RegressRecipe(loss=loss, epochs=8, batch_size=4, learning_rate=3e-3)
    judged = Edges("test", 8)
    data = Batched(Splits(Edges("train", 48), judged, judged), recipe)
    network = DilatedNet(FrontEnd(1, 1, 1 / 8, stages=SMALL, head=SMALL_HEAD), torch.nn.Identity(), "centre")
    trained = Regress(network, network.upsample, 1, recipe)
    history = fit(trained, data, tmp_path, hardware=CPU)
    found = evaluate(trained, data, CPU)
    targets = torch.cat([target for _, target in judged])
    assert found["score"] > 0.4
    assert found["rmse"] < 0.8 * targets.std()
    assert found["score"].item() == pytest.approx(max(value for _, value in history.validation), abs=1e-5)


@pytest.mark.parametrize(
    ("loss", "expected"), [("l1", F.l1_loss), ("l2", F.mse_loss), ("binary", F.binary_cross_entropy_with_logits)]
)
def test_the_loss_is_taken_at_full_size(loss, expected):
    features, targets = maps(2, 3, 4, 4), maps(2, 3, 15, 16)
    module = task(loss, 3, factor=4)
    full = module.upsample(features, (15, 16))
    torch.testing.assert_close(module.training_step((features, targets), 0), expected(full, targets))


def test_a_network_with_features_is_trained_before_its_upsampling():
    net = dilation_small(2, 1, width=1 / 16)
    assert task(outputs=2, network=net, factor=4)(torch.zeros(1, 1, 40, 44)).shape == (1, 2, 10, 11)


def test_metrics_by_hand():
    module = task(outputs=2)
    predicted, targets = maps(3, 2, 5, 4), maps(3, 2, 4, 5).reshape(3, 2, 5, 4).flip(3) * 2
    for part in (slice(0, 2), slice(2, 3)):
        module.test_step((predicted[part], targets[part]), 0)
    found = module.test_metrics.compute()
    wrong = (predicted - targets).double()
    spread = (targets - targets.mean((0, 2, 3), keepdim=True)).double()
    score = 1 - wrong.square().sum((0, 2, 3)) / spread.square().sum((0, 2, 3))
    assert found["mae"].item() == pytest.approx(wrong.abs().mean().item())
    assert found["rmse"].item() == pytest.approx(wrong.square().mean().sqrt().item())
    assert found["score"].item() == pytest.approx(score.mean().item())


def test_the_mean_scores_nothing_and_a_large_offset_loses_nothing():
    module = task()
    targets = maps(4, 1, 64, 64) + 1000
    module.test_step((targets.mean().expand_as(targets), targets), 0)
    assert module.test_metrics.compute()["score"].item() == pytest.approx(0, abs=1e-5)
    module.test_metrics.reset()
    module.test_step((targets, targets), 0)
    assert module.test_metrics.compute()["score"] == 1


def test_binary_predicts_by_the_sigmoid():
    logits, targets = maps(1, 1, 3, 3) - 0.5, maps(1, 1, 3, 3)
    predicted, flat = task("binary").judge(logits, targets)
    torch.testing.assert_close(predicted, logits.sigmoid().reshape(9, 1).double())
    assert torch.equal(flat, targets.reshape(9, 1).double())


@pytest.mark.parametrize("wrong", [-0.1, 1.5])
def test_binary_takes_no_targets_out_of_0_to_1(wrong):
    targets = torch.tensor([wrong, 0.5]).view(1, 1, 1, 2)
    with pytest.raises(DataError, match=r"regress: loss 'binary': got targets from .* to .*, expected 0 to 1; choose"):
        task("binary").training_step((targets, targets), 0)
    assert task("l1").training_step((targets, targets), 0) == 0


@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (1, 4, 4)])
def test_targets_of_another_number_of_maps_are_named(shape):
    message = r"regress: got targets of shape .*, expected \(B, 3, H, W\); all files of targets have as many channels"
    with pytest.raises(DataError, match=message):
        task(outputs=3).test_step((maps(1, 3, 4, 4), torch.zeros(shape)), 0)


def test_picture_is_image_target_and_prediction_on_one_scale():
    image = maps(1, 1, 8, 9)
    picture = task().picture(image, image + 1)
    assert picture.shape == (8, 27, 3)
    assert picture.dtype == np.uint8
    target, predicted = picture[:, 9:18].astype(int), picture[:, 18:].astype(int)
    assert (target > predicted).all()
