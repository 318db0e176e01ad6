"""Segmentation: a class for every pixel.

Legend: B batch, C classes, H, W label size, h, w score size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from atrous.models import ScoreUpsample
from atrous.plots import overlay, palette, viewable
from atrous.plots.masks import IGNORE
from atrous.plots.pixels import Pixels
from atrous.train.config import Recipe
from atrous.train.tasks.task import Task


class Segment(Task):
    """Train a network of scores, by cross-entropy on the scores' own grid; judge it at full size.

    Batches are (inputs, labels): inputs anything that the network takes, labels (B, H, W) integers with 255 to ignore.
    Metrics are `mean_iou`, `class_iou` (C,) and `confusion` (C, C; row: true class, column: predicted).

    Args:
        network: its `features(inputs)`, or its call if it has none, are the scores (B, C, h, w): a whole network on
            images, or a context module on cached scores of a front end.
        upsample: brings scores to the size of the labels, and labels to the grid of the scores.
        num_classes: C.
        recipe: settings.
        epochs: of this run; None are those of the recipe.
        learning_rate: of this run; None is that of the recipe.
        colours: RGB of every class in pictures; without them those of `atrous.plots.palette`.

    Source: Yu and Koltun 2016, section 4: labels are sampled at the scores, not scores up-sampled.

    Example:
        >>> from atrous.train.config import SegmentRecipe
        >>> task = Segment(torch.nn.Identity(), ScoreUpsample(4, "centre"), 3, SegmentRecipe())
        >>> scores, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2, 16, 16).long()
        >>> round(task.training_step((scores, labels), 0).item(), 4)  # log 3
        1.0986
    """

    watched = "mean_iou"

    def __init__(
        self,
        network: torch.nn.Module,
        upsample: ScoreUpsample,
        num_classes: int,
        recipe: Recipe,
        epochs: int | None = None,
        learning_rate: float | None = None,
        *,
        colours: Sequence[tuple[int, int, int]] = (),
    ) -> None:
        self.num_classes = num_classes
        self.colours: Pixels = np.array(colours or palette(num_classes), np.uint8)
        super().__init__(network, recipe, epochs, learning_rate)
        self.upsample = upsample

    def on_train_epoch_start(self) -> None:
        """Keep dropout out of a front end that does not learn."""
        front_end = getattr(self.network, "front_end", None)
        if front_end is not None and not any(one.requires_grad for one in front_end.parameters()):
            front_end.eval()

    def metrics(self) -> MetricCollection:
        """Return mean IoU, IoU of every class and the confusion matrix."""
        return MetricCollection(
            {
                "mean_iou": MulticlassJaccardIndex(self.num_classes, average="macro", ignore_index=IGNORE),
                "class_iou": MulticlassJaccardIndex(self.num_classes, average="none", ignore_index=IGNORE),
                "confusion": MulticlassConfusionMatrix(self.num_classes, ignore_index=IGNORE),
            }
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return scores (B, C, h, w)."""
        scores: torch.Tensor = getattr(self.network, "features", self.network)(inputs)
        return scores

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy of the labels that count, over all processes."""
        labels = self.upsample.sample(targets).long()
        total = F.cross_entropy(self(inputs), labels, ignore_index=IGNORE, reduction="sum")
        return total / self.share((labels != IGNORE).sum())

    def judge(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the likeliest classes (B, H, W), and the labels."""
        return self.upsample(self(inputs), targets.shape[1:]).argmax(1), targets

    def on_test_epoch_end(self) -> None:
        """Keep all metrics in `test_result`; the IoU of a class that is neither there nor predicted is no number."""
        super().on_test_epoch_end()
        seen = self.test_result["confusion"].sum(0) + self.test_result["confusion"].sum(1) > 0
        self.test_result["class_iou"] = self.test_result["class_iou"].where(seen, torch.nan)

    def picture(self, inputs: torch.Tensor, targets: torch.Tensor) -> Pixels:
        """Return an image, its labels and its prediction side by side."""
        labels, _ = self.judge(inputs[:1], targets[:1])
        # Scores of a front end are smaller than their labels.
        image = viewable(F.interpolate(inputs[:1].float(), targets.shape[1:])[0].cpu().numpy())
        parts = [overlay(image, one[0].cpu().numpy(), self.colours) for one in (targets, labels)]
        return np.concatenate([image, *parts], axis=1)
