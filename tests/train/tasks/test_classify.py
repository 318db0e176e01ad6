import numpy as np
import pytest
import torch

from atrous.models import ConvNeXt
from atrous.nn import Dcls2d
from atrous.plots import viewable
from atrous.recipe import share_positions
from atrous.train import Batched, ClassifyRecipe, Splits
from atrous.train.data import Source
from atrous.train.loop import evaluate, fit
from atrous.train.tasks.classify import WRONG, Classify


class Stripes(Source):
    """Stripes along one of two axes, under noise; two of three run along the first."""

    channels, classes = 1, ("rows", "columns")

    def __init__(self, length, seed):
        chance = torch.Generator().manual_seed(seed)
        self.labels = (torch.arange(length) % 3 == 0).long()
        waves = torch.sin(torch.arange(16) * 1.5 + torch.rand(length, 1, generator=chance) * 6)
        rows, columns = waves[:, :, None].expand(-1, 16, 16), waves[:, None].expand(-1, 16, 16)
        images = torch.where(self.labels.view(-1, 1, 1) == 0, rows, columns)
        self.images = (images + torch.randn(length, 16, 16, generator=chance))[:, None]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]

    def name(self, index):
        return f"stripes {index}"


def task(**settings):
    recipe = ClassifyRecipe(**{"epochs": 4, "batch_size": 16, "warmup_epochs": 0, "learning_rate": 0.01, **settings})
    torch.manual_seed(0)
    network = ConvNeXt(2, 1, (1, 1), (8, 16), patch=2, drop_path=recipe.drop_path)
    splits = Splits(Stripes(64, 0), Stripes(48, 1), Stripes(48, 2))
    return Classify(network, 2, recipe), Batched(splits, recipe)


def weights(trained):
    return torch.cat([weight.flatten() for weight in trained.network.state_dict().values()])


def test_learns_more_than_the_most_frequent_class(tmp_path):
    trained, data = task(epochs=16, learning_rate=0.02)
    history = fit(trained, data, tmp_path)
    result = evaluate(trained, data)
    most_frequent = Stripes(48, 2).labels.bincount().max() / 48
    assert most_frequent == pytest.approx(2 / 3)
    assert result["accuracy"] > 0.9
    confusion = result["confusion"]
    assert confusion.sum() == 48
    assert result["accuracy"] == pytest.approx(confusion.trace() / 48)
    torch.testing.assert_close(result["class_accuracy"], confusion.diag() / confusion.sum(1))
    assert len(history.validation) == 16


EVERYTHING = {"mixup": 0.8, "cutmix": 1.0, "ema": 0.9, "layer_decay": 0.8, "drop_path": 0.2, "schedule": "constant"}


def test_a_resumed_run_with_all_of_the_recipe_ends_in_the_same_weights(tmp_path):
    whole, data = task(**EVERYTHING)
    fit(whole, data, tmp_path / "whole")
    first, data = task(**EVERYTHING, epochs=2)
    fit(first, data, tmp_path / "parts")
    second, data = task(**EVERYTHING)
    fit(second, data, tmp_path / "parts", resume=True)
    one, other = (torch.load(tmp_path / run / "last.ckpt", weights_only=True) for run in ("whole", "parts"))
    for part in ("state_dict", "current_model_state"):
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(weight, other[part][name]) for name, weight in one[part].items())


class Recorded(Classify):
    """Keeps the weights of every step and of every validation."""

    def on_train_start(self):
        self.steps, self.validated = [], []

    def on_before_zero_grad(self, optimizer):
        self.steps.append(weights(self))

    def validation_step(self, batch, batch_index):
        self.validated.append(weights(self))
        super().validation_step(batch, batch_index)


def test_validates_and_keeps_the_mean_of_the_weights(tmp_path):
    plain, data = task(ema=0.5, epochs=1)
    trained = Recorded(plain.network, 2, plain.recipe)
    fit(trained, data, tmp_path)
    checkpoint = torch.load(tmp_path / "best.ckpt", weights_only=True)
    # What precedes the gradients of a step is what the step before left; the first is the start.
    last = torch.cat([weight.flatten() for weight in checkpoint["current_model_state"].values()])
    after = [*trained.steps[1:], last]
    mean = after[0]
    for weight in after[1:]:
        mean = 0.5 * mean + 0.5 * weight
    assert len(after) == 4
    assert not torch.equal(mean, last)
    torch.testing.assert_close(trained.validated[0], mean)
    torch.testing.assert_close(weights(trained), mean)
    kept = torch.cat([weight.flatten() for weight in checkpoint["state_dict"].values()])
    assert torch.equal(kept, weights(trained))


def test_without_decay_no_mean_is_taken(tmp_path):
    trained, data = task(epochs=1)
    fit(trained, data, tmp_path)
    assert trained.configure_callbacks() == []
    assert "current_model_state" not in torch.load(tmp_path / "last.ckpt", weights_only=True)


class Spaced(torch.nn.Module):
    """Two layers that share the positions that they learn, and nothing else to learn."""

    def __init__(self):
        super().__init__()
        spaced = (Dcls2d(1, 1, 3, padding="same", dilated_kernel_size=5) for _ in range(2))
        self.stage = torch.nn.Sequential(*spaced)
        self.head = torch.nn.Linear(1, 2)
        share_positions(self.requires_grad_(False))
        self.stage[0].P.requires_grad_(True)

    def forward(self, images):
        return self.head(self.stage(images).abs().mean((2, 3)))


def test_learned_positions_are_clamped_before_the_mean_and_saved_once(tmp_path):
    plain, data = task(ema=0.5, epochs=1, learning_rate=1.0)
    trained = Recorded(Spaced(), 2, plain.recipe)
    fit(trained, data, tmp_path)
    checkpoint = torch.load(tmp_path / "best.ckpt", weights_only=True)
    for state in (checkpoint["state_dict"], checkpoint["current_model_state"]):
        assert [name for name in state if name.endswith("P")] == ["network.stage.0.P"]
        assert state["network.stage.0.P"].abs().max() <= 2
    assert checkpoint["current_model_state"]["network.stage.0.P"].abs().max() == 2
    assert trained.network.stage[1].P is trained.network.stage[0].P


def test_the_loss_is_the_cross_entropy_of_smoothed_labels():
    trained, _ = task(label_smoothing=0.2, drop_path=0.0)
    images, labels = Stripes(4, 0).images, Stripes(4, 0).labels
    expected = torch.nn.functional.cross_entropy(trained(images), labels, label_smoothing=0.2)
    torch.testing.assert_close(trained.loss(images, labels), expected)


def test_the_loss_mixes_as_the_recipe_says():
    plain, _ = task(drop_path=0.0)
    mixed, _ = task(drop_path=0.0, mixup=1.0)
    images, labels = Stripes(16, 0).images, Stripes(16, 0).labels
    assert not torch.isclose(plain.loss(images, labels), mixed.loss(images, labels), rtol=1e-6)


def test_layers_near_the_image_learn_slower():
    trained, _ = task(layer_decay=0.5, learning_rate=1.0)
    assert {group["lr"] for group in trained.parameter_groups()} == {1 / 8, 1 / 4, 1 / 2, 1.0}
    assert {group["weight_decay"] for group in trained.parameter_groups()} == {0.0, 0.05}


class Sure(torch.nn.Module):
    """Says class 0."""

    def forward(self, images):
        return torch.tensor([1.0, 0.0]).expand(len(images), 2)


def test_the_picture_frames_what_is_wrong():
    images, labels = torch.randn(10, 1, 28, 20), torch.tensor([0, 1] * 5)
    picture = Classify(Sure(), 2, ClassifyRecipe()).picture(images, labels)
    assert picture.shape == (28, 8 * 20, 3)
    assert picture.dtype == np.uint8
    right, wrong = (viewable(image.numpy()) for image in images[:2])
    assert np.array_equal(picture[:, :20], right)
    framed = picture[:, 20:40]
    assert np.array_equal(framed[1:-1, 1:-1], wrong[1:-1, 1:-1])
    border = np.ones((28, 20), bool)
    border[1:-1, 1:-1] = False
    assert (framed[border] == WRONG).all()
