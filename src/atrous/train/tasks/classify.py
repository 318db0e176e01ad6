"""Classification: one class for an image.

Legend: B batch, C classes, A image channels, H, W image size.
"""

from __future__ import annotations

from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from atrous.plots.pixels import Pixels, viewable
from atrous.recipe import param_groups
from atrous.train.config import ClassifyRecipe
from atrous.train.mixing import mix
from atrous.train.tasks.task import Task

SHOWN = 8
"""Images of a picture."""
WRONG = (214, 40, 40)
"""RGB of the frame around an image whose class is not found."""


class Classify(Task):
    """Train a network that gives an image one class, by cross-entropy on smoothed and mixed labels.

    Batches are (images, labels): (B, A, H, W) and (B,) integers. Metrics are `accuracy`, `class_accuracy` (C,; share of
    the images of a class that are found) and `confusion` (C, C; row: true class, column: predicted). With `recipe.ema`,
    the mean of the weights over the steps is what is validated, and what checkpoints hold under `state_dict`.

    Args:
        network: gives scores (B, C) of images.
        num_classes: C.
        recipe: settings.
        epochs: of this run; None are those of the recipe.
        learning_rate: of this run; None is that of the recipe.

    Source: Liu et al. 2022, appendix A.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.Threshold(9, 0))
        >>> task = Classify(network, 3, ClassifyRecipe())
        >>> round(task.training_step((torch.zeros(2, 1, 2, 2), torch.tensor([0, 2])), 0).item(), 4)  # log 3
        1.0986
    """

    watched = "accuracy"
    recipe: ClassifyRecipe

    def __init__(
        self,
        network: torch.nn.Module,
        num_classes: int,
        recipe: ClassifyRecipe,
        epochs: int | None = None,
        learning_rate: float | None = None,
    ) -> None:
        self.num_classes = num_classes
        super().__init__(network, recipe, epochs, learning_rate)

    def metrics(self) -> MetricCollection:
        """Return accuracy, accuracy of every class and the confusion matrix."""
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(self.num_classes, average="micro"),
                "class_accuracy": MulticlassAccuracy(self.num_classes, average="none"),
                "confusion": MulticlassConfusionMatrix(self.num_classes),
            }
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return scores (B, C)."""
        scores: torch.Tensor = self.network(inputs)
        return scores

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy of a batch, mixed and smoothed as the recipe says."""
        recipe = self.recipe
        images, labels = mix(
            inputs,
            targets,
            self.num_classes,
            mixup=recipe.mixup,
            cutmix=recipe.cutmix,
            smoothing=recipe.label_smoothing,
        )
        return F.cross_entropy(self(images), labels)

    def judge(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the likeliest classes (B,), and the labels."""
        return self(inputs).argmax(1), targets

    def picture(self, inputs: torch.Tensor, targets: torch.Tensor) -> Pixels:
        """Return the first images side by side, a red frame around each whose class is not found."""
        found, labels = self.judge(inputs[:SHOWN], targets[:SHOWN])
        images = [viewable(image) for image in inputs[:SHOWN].float().cpu().numpy()]
        for image, wrong in zip(images, (found != labels).tolist(), strict=True):
            if wrong:
                _frame(image)
        return np.concatenate(images, axis=1)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters that learn, positions faster, and layers near the image slower with `layer_decay`."""
        recipe = self.recipe
        scales = recipe.position_lr_scale, recipe.layer_decay
        return param_groups(self.network, self.learning_rate, recipe.weight_decay, *scales)

    def configure_callbacks(self) -> list[lightning.Callback]:
        """Return what every task has, and what averages the weights after every step if the recipe says so."""
        callbacks = super().configure_callbacks()
        if self.recipe.ema:
            # Made before the weights move to the accelerator, the mean would stay behind on the CPU.
            callbacks.append(EMAWeightAveraging(self.trainer.strategy.root_device, decay=self.recipe.ema))
        return callbacks


def _frame(image: Pixels) -> None:
    """Draw the frame of a wrong image into it."""
    thick = max(1, min(image.shape[:2]) // 14)
    inside = image[thick:-thick, thick:-thick].copy()
    image[:] = WRONG
    image[thick:-thick, thick:-thick] = inside
