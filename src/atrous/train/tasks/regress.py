"""Regression: one or more numbers for every pixel, such as depth, saliency or heat maps of key points.

Legend: B batch, A channels, M maps, H, W image size, h, w size of the network's maps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection, R2Score

from atrous._errors import DataError
from atrous.models import ScoreUpsample
from atrous.plots import viewable
from atrous.plots.pixels import Pixels
from atrous.train.config import RegressRecipe
from atrous.train.tasks.task import Task

LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "binary": F.binary_cross_entropy_with_logits,
}


class Regress(Task):
    """Train a network of maps by the loss of the recipe, at the size of the image; judge it there.

    Labels have to be sampled at the scores' own grid, for no class lies between two; maps are continuous, so that all
    pixels teach through the interpolation. Batches are (images, targets), targets (B, M, H, W) float, with the loss
    'binary' from 0 to 1. Metrics are `mae` and `rmse` in the targets' units, and `score`, which is R^2: 1 is perfect,
    0 is what predicting the mean of the targets gets, less is worse than that.

    Args:
        network: its `features(images)`, or its call if it has none, are the maps (B, M, h, w), logits for 'binary'.
        upsample: brings maps to the size of the image.
        outputs: M.
        recipe: settings.
        epochs: of this run; None are those of the recipe.
        learning_rate: of this run; None is that of the recipe.

    Raises:
        DataError: in a step, targets of another number of maps, or, in training with 'binary', out of 0 to 1.

    Example:
        >>> task = Regress(torch.nn.Identity(), ScoreUpsample(4, "centre"), 1, RegressRecipe(loss="l1"))
        >>> task.training_step((torch.zeros(2, 1, 4, 4), torch.full((2, 1, 16, 15), 0.5)), 0)
        tensor(0.5000)
    """

    watched = "score"
    recipe: RegressRecipe

    def __init__(
        self,
        network: torch.nn.Module,
        upsample: ScoreUpsample,
        outputs: int,
        recipe: RegressRecipe,
        epochs: int | None = None,
        learning_rate: float | None = None,
    ) -> None:
        super().__init__(network, recipe, epochs, learning_rate)
        self.upsample = upsample
        self.outputs = outputs

    def metrics(self) -> MetricCollection:
        """Return mean absolute error, root mean squared error and R^2, of all pixels; R^2 is the mean over the maps."""
        found = MetricCollection(
            {"mae": MeanAbsoluteError(), "rmse": MeanSquaredError(squared=False), "score": R2Score()},
            compute_groups=False,
        )
        # R^2 takes a difference of sums over all pixels, which float32 loses.
        return found.set_dtype(torch.float64)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return maps (B, M, h, w), before any sigmoid."""
        maps: torch.Tensor = getattr(self.network, "features", self.network)(inputs)
        return maps

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss over all pixels."""
        binary = self.recipe.loss == "binary"
        if binary and not 0 <= targets.min() <= targets.max() <= 1:
            raise DataError(
                f"regress: loss 'binary': got targets from {targets.min():.4g} to {targets.max():.4g}, "
                "expected 0 to 1; choose l1 or l2, or scale the maps"
            )
        return LOSSES[self.recipe.loss](self._maps(inputs, targets), targets)

    def judge(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return predictions and targets, (B H W, M) float64."""
        predicted = self._predicted(inputs, targets)
        flat = [maps.movedim(1, -1).reshape(-1, self.outputs).double().contiguous() for maps in (predicted, targets)]
        return flat[0], flat[1]

    def picture(self, inputs: torch.Tensor, targets: torch.Tensor) -> Pixels:
        """Return an image, its first map and the prediction of that side by side, both maps on one scale of grey."""
        predicted = self._predicted(inputs[:1], targets[:1])
        maps = torch.cat([targets[0, :1], predicted[0, :1]], dim=2)
        parts = [viewable(one.float().cpu().numpy()) for one in (inputs[0], maps)]
        return np.concatenate(parts, axis=1)

    def _predicted(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        maps = self._maps(inputs, targets)
        return maps.sigmoid() if self.recipe.loss == "binary" else maps

    def _maps(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if targets.ndim != 4 or targets.shape[1] != self.outputs:
            raise DataError(
                f"regress: got targets of shape {tuple(targets.shape)}, expected (B, {self.outputs}, H, W); "
                "all files of targets have as many channels"
            )
        maps: torch.Tensor = self.upsample(self(inputs), targets.shape[2:])
        return maps
