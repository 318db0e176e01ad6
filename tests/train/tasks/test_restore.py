import numpy as np
import pytest
import skimage.data
import torch
from skimage.metrics import peak_signal_noise_ratio

from atrous import DataError
from atrous.models.ircnn import IRCNN
from atrous.train.config import RestoreRecipe
from atrous.train.data.batches import Batched
from atrous.train.data.source import Source, Splits
from atrous.train.degrade import degrade, interpolated
from atrous.train.loop import Hardware, evaluate, fit
from atrous.train.tasks.restore import Restore

CPU = Hardware(devices=1, accelerator="cpu")


class Crops(Source):
    """Squares of photographs, side by side."""

    channels = 3

    def __init__(self, rows, side):
        self.crops = []
        for name in ("astronaut", "coffee", "chelsea", "rocket"):
            pixels = torch.from_numpy(getattr(skimage.data, name)()).movedim(2, 0)[:, rows] / 255
            squares = pixels.unfold(1, side, side).unfold(2, side, side).movedim(0, 2)
            self.crops += list(squares.reshape(-1, 3, side, side))

    def __len__(self):
        return len(self.crops)

    def __getitem__(self, index):
        return self.crops[index], self.crops[index]

    def name(self, index):
        return f"crop {index}"


def clean(count=2, side=24):
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(0))


def batch(images, first=0):
    return images, images, torch.arange(first, first + len(images))


@pytest.fixture(scope="module")
def splits():
    """Upper parts of photographs to learn from, lower parts to judge by."""
    judged = Crops(slice(220, 284), 64)
    return Splits(Crops(slice(0, 192), 48), judged, judged)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "network", "least"),
    [
        ({"degradation": "noise", "sigma": 25.0, "crop": 32, "epochs": 4}, {}, 3.0),
        ({"degradation": "small", "factor": 4, "crop": 48, "epochs": 10, "batch_size": 4}, {"factor": 4}, 0.1),
        ({"degradation": "mosaic", "crop": 32, "epochs": 8}, {"channels": 1, "out_channels": 3}, 0.3),
    ],
)
def test_a_trained_network_beats_interpolation(tmp_path, splits, settings, network, least):
    torch.manual_seed(0)
    recipe = RestoreRecipe(width=0.25, learning_rate=3e-3, **settings)
    task = Restore(IRCNN(width=0.25, **network), recipe)
    data = Batched(splits, recipe)
    before = evaluate(task, data, CPU)
    history = fit(task, data, tmp_path, hardware=CPU)
    after = evaluate(task, data, CPU)
    assert after["psnr"] > after["input_psnr"] + least
    assert after["ssim"] > before["ssim"]
    # The same noise every time: of the baseline as of every epoch.
    assert after["input_psnr"] == before["input_psnr"]
    assert after["psnr"].item() == pytest.approx(max(value for _, value in history.validation), abs=1e-4)


def test_psnr_is_the_mean_over_images_as_scikit_image_counts_it():
    images = torch.cat([clean(2) * 0.2, clean(1)])
    task = Restore(torch.nn.Identity(), RestoreRecipe(sigma=60))
    task.test_step(batch(images), 0)
    found = task.test_metrics.compute()
    inputs, _, _ = task._degraded(batch(images))
    seen = inputs.clamp(0, 1).numpy()
    each = [peak_signal_noise_ratio(*pair, data_range=1.0) for pair in zip(images.numpy(), seen, strict=True)]
    assert found["psnr"].item() == pytest.approx(np.mean(each), abs=1e-4)
    assert found["input_psnr"] == found["psnr"]


def test_images_of_many_sizes_count_alike():
    task = Restore(torch.nn.Identity(), RestoreRecipe())
    large, small = batch(clean(2)), batch(clean(1, 16), first=2)
    found = []
    for parts in ([large, small], [large], [small]):
        task.validation_step(parts, 0)
        found.append(task.val_metrics.compute())
        task.val_metrics.reset()
    for name in ("psnr", "ssim", "input_psnr"):
        both, first, second = (one[name].item() for one in found)
        assert both == pytest.approx((2 * first + second) / 3, rel=1e-5)
        assert abs(first - second) > 1e-3


def test_the_baseline_is_interpolation():
    recipe = RestoreRecipe(degradation="small", factor=2)
    images = clean()
    task = Restore(IRCNN(3, width=1 / 16, factor=2).eval(), recipe)
    task.test_step(batch(images), 0)
    guess = interpolated(degrade(images, recipe), recipe).clamp(0, 1)
    expected = -10 * (guess - images).square().mean((1, 2, 3)).log10().mean()
    assert task.test_metrics.compute()["input_psnr"].item() == pytest.approx(expected.item(), abs=1e-4)


def test_the_loss_is_the_mean_squared_error_to_what_fits():
    class Zero(torch.nn.Module):
        def forward(self, image):
            return torch.zeros(len(image), 3, *image.shape[2:])

    images = clean(side=13)
    task = Restore(Zero(), RestoreRecipe(degradation="mosaic"))
    expected = images[..., :12, :12].square().mean()
    torch.testing.assert_close(task.training_step(batch(images), 0), expected)


def test_noise_of_an_image_does_not_hang_on_its_batch():
    images = clean(3)
    task = Restore(torch.nn.Identity(), RestoreRecipe())
    whole, part = task._degraded(batch(images))[0], task._degraded(batch(images[2:], first=2))[0]
    assert torch.equal(whole[2:], part)
    assert not torch.equal(whole[0] - images[0], whole[1] - images[1])


def test_noise_of_training_is_new_in_every_epoch():
    images = clean(1)
    task = Restore(torch.nn.Identity(), RestoreRecipe())
    steps = [task._degraded(batch(images), *epoch)[0] for epoch in ((), (0,), (1,), (1,))]
    assert torch.equal(steps[2], steps[3])
    assert not any(torch.equal(steps[2], other) for other in steps[:2])
    other = Restore(torch.nn.Identity(), RestoreRecipe(seed=1))
    assert not torch.equal(other._degraded(batch(images))[0], steps[0])


@pytest.mark.parametrize("degradation", ["noise", "small", "mosaic"])
def test_picture_is_input_output_and_clean(degradation):
    recipe = RestoreRecipe(degradation=degradation, factor=4)
    network = {"small": {"factor": 4}, "mosaic": {"channels": 1, "out_channels": 3}}.get(degradation, {})
    task = Restore(IRCNN(width=1 / 16, **network).eval(), recipe)
    images = clean()
    picture = task.picture(*task._degraded(batch(images))[:2])
    assert picture.shape == (24, 72, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[:, 48:], (255 * images[0]).round().byte().permute(1, 2, 0))


def test_an_image_smaller_than_the_window_of_ssim_is_named():
    task = Restore(torch.nn.Identity(), RestoreRecipe())
    message = r"restore: got an image of 10 x 10 pixels, expected sides of at least 11, the window of SSIM"
    with pytest.raises(DataError, match=message):
        task.test_step(batch(clean(side=10)), 0)
    task.test_step(batch(clean(side=11)), 0)
    assert task.test_metrics.compute()["ssim"] < 1
