"""Restoration: a clean image from a noisy, small or mosaicked one, which is made of the clean one.

Legend: B batch, A channels, H, W size of the clean image, h, w size of the input.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torchmetrics import MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
from torchmetrics.wrappers import LambdaInputTransformer

from atrous._errors import DataError
from atrous.plots import viewable
from atrous.plots.pixels import Pixels
from atrous.train.config import RestoreRecipe
from atrous.train.data.augment import mixed
from atrous.train.data.folder import SSIM_WINDOW
from atrous.train.degrade import crop_to_fit, degrade, interpolated
from atrous.train.tasks.task import Task, parts

_NOISE = 1
"""Keeps the seeds of the noise apart from those of the augmentation."""


class Restore(Task):
    """Train a network to undo what the recipe does to images, by the mean squared error, which is what PSNR counts.

    Batches are (clean, clean, indices): clean images (B, A, H, W) from 0 to 1. Noise of a training image is a function
    of seed, epoch and index, of any other image of seed and index alone: results of two epochs compare, and the number
    of processes changes nothing. Metrics are `psnr` in dB and `ssim`, means over the images after values are cut off
    at 0 and 1, and `input_psnr`, the same of interpolation alone, which a network has to beat.

    Args:
        network: inputs as `degrade` makes them, to (B, A, H, W).
        recipe: settings.
        epochs: of this run; None are those of the recipe.
        learning_rate: of this run; None is that of the recipe.

    Raises:
        DataError: in a step, images that the degradation has no place for, see `crop_to_fit` and `degrade`, or in the
            validation and test, images smaller than the window of SSIM.

    Source: Zhang et al. 2017, section 4.1.

    Example:
        >>> task = Restore(torch.nn.Identity(), RestoreRecipe(sigma=25))
        >>> clean, index = torch.full((1, 3, 64, 64), 0.5), torch.tensor([0])
        >>> task.test_step((clean, clean, index), 0)
        >>> round(task.test_metrics.compute()["input_psnr"].item(), 1)  # 20 log10(255 / 25)
        20.2
    """

    watched = "psnr"
    recipe: RestoreRecipe

    def __init__(
        self,
        network: torch.nn.Module,
        recipe: RestoreRecipe,
        epochs: int | None = None,
        learning_rate: float | None = None,
    ) -> None:
        super().__init__(network, recipe, epochs, learning_rate)

    def metrics(self) -> MetricCollection:
        """Return PSNR and SSIM of the restored images, and PSNR of the interpolated ones, each a mean over images."""
        psnr = partial(PeakSignalNoiseRatio, data_range=(0.0, 1.0), dim=(1, 2, 3))
        ssim = StructuralSimilarityIndexMeasure(data_range=(0.0, 1.0))
        # No groups: metrics that start alike, as those of an untrained network do, would be counted as one.
        return MetricCollection(
            {
                "psnr": LambdaInputTransformer(psnr(), _restored),
                "ssim": LambdaInputTransformer(ssim, _restored),
                "input_psnr": LambdaInputTransformer(psnr(), _interpolated),
            },
            compute_groups=False,
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return restored images (B, A, H, W)."""
        return cast(torch.Tensor, self.network(inputs))

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error."""
        return F.mse_loss(self(inputs), targets)

    def judge(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return restored and interpolated images (2, B, A, H, W), and the clean ones.

        Raises:
            DataError: images smaller than the window of SSIM.
        """
        height, width = targets.shape[2:]
        if min(height, width) < SSIM_WINDOW:
            raise DataError(
                f"restore: got an image of {width} x {height} pixels, expected sides of at least {SSIM_WINDOW}, "
                "the window of SSIM; leave it out, or use larger images"
            )
        return torch.stack([self(inputs), interpolated(inputs, self.recipe)]), targets

    def picture(self, inputs: torch.Tensor, targets: torch.Tensor) -> Pixels:
        """Return what is left of an image, the restored image and the clean one side by side."""
        found, clean = self.judge(inputs[:1], targets[:1])
        row = torch.cat([_interpolated(found), _restored(found), clean], dim=3)[0]
        levels = (255 * row.clamp(0, 1)).round().byte()
        return viewable(np.asarray(levels.cpu()))

    def training_step(self, batch: Any, batch_index: int) -> torch.Tensor:
        """Return the loss of one batch."""
        epoch = 0 if self._trainer is None else self.current_epoch
        return super().training_step(self._degraded(batch, epoch), batch_index)

    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Count one batch."""
        super().validation_step([self._degraded(part) for part in parts(batch)], batch_index)

    def test_step(self, batch: Any, batch_index: int) -> None:
        """Count one batch."""
        super().test_step([self._degraded(part) for part in parts(batch)], batch_index)

    def _degraded(self, batch: Any, *epoch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return inputs, clean images of the size that fits, and indices."""
        images, _, indices = batch
        clean = crop_to_fit(images, self.recipe)
        inputs = [
            degrade(
                one[None], self.recipe, torch.Generator().manual_seed(mixed(self.recipe.seed, *epoch, index, _NOISE))
            )
            for one, index in zip(clean, indices.tolist(), strict=True)
        ]
        return torch.cat(inputs), clean, indices


def _restored(found: torch.Tensor) -> torch.Tensor:
    return found[0]


def _interpolated(found: torch.Tensor) -> torch.Tensor:
    return found[1]
