"""The segmentation task for Lightning.

Legend: B batch, C classes, H, W label size, h, w score size.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from atrous.models import ScoreUpsample

IGNORE = 255
"""The label that no loss and no metric counts."""


class SegmentationModule(lightning.LightningModule):
    """Train a network of scores, by cross-entropy on the scores' own grid; judge it at full size.

    Batches are (inputs, labels): inputs anything that the network takes, labels (B, H, W) integers with 255 to ignore.
    Logged: `train/loss` per step, `val/mean_iou` and `test/mean_iou` per epoch.

    Args:
        network: its `features(inputs)`, or its call if it has none, are the scores (B, C, h, w): a whole network on
            images, or a context module on cached scores of a front end.
        upsample: brings scores to the size of the labels, and labels to the grid of the scores.
        num_classes: C.
        learning_rate: of Adam, cut to a third when the validation mean IoU has not risen for two epochs.

    Source: Yu and Koltun 2016, section 4: labels are sampled at the scores, not scores up-sampled.

    Example:
        >>> module = SegmentationModule(torch.nn.Identity(), ScoreUpsample(4, "centre"), num_classes=3)
        >>> scores, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2, 16, 16).long()
        >>> round(module.training_step((scores, labels), 0).item(), 4)  # log 3
        1.0986
    """

    def __init__(
        self, network: torch.nn.Module, upsample: ScoreUpsample, num_classes: int, learning_rate: float = 3e-3
    ) -> None:
        super().__init__()
        self.network = network
        self.upsample = upsample
        self.learning_rate = learning_rate
        metrics = MetricCollection(
            {
                "mean_iou": MulticlassJaccardIndex(num_classes, average="macro", ignore_index=IGNORE),
                "class_iou": MulticlassJaccardIndex(num_classes, average="none", ignore_index=IGNORE),
                "confusion": MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE),
            }
        )
        self.val_metrics = metrics.clone()
        self.test_metrics = metrics.clone()
        self.test_result: dict[str, torch.Tensor] = {}

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return scores (B, C, h, w)."""
        scores: torch.Tensor = getattr(self.network, "features", self.network)(inputs)
        return scores

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_index: int) -> torch.Tensor:
        """Return the loss of one batch."""
        inputs, labels = batch
        loss = F.cross_entropy(self(inputs), self.upsample.sample(labels).long(), ignore_index=IGNORE)
        if self._trainer is not None:
            self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_index: int) -> None:
        """Count one batch."""
        self.val_metrics.update(*self._labels(batch))

    def on_validation_epoch_end(self) -> None:
        """Log the mean IoU of the epoch."""
        self.log("val/mean_iou", self.val_metrics.compute()["mean_iou"], prog_bar=True)
        self.val_metrics.reset()

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_index: int) -> None:
        """Count one batch."""
        self.test_metrics.update(*self._labels(batch))

    def on_test_epoch_end(self) -> None:
        """Keep mean IoU, IoU per class and the confusion matrix in `test_result`."""
        self.test_result = self.test_metrics.compute()
        self.log("test/mean_iou", self.test_result["mean_iou"])
        self.test_metrics.reset()

    def configure_optimizers(self) -> Any:
        """Return Adam, and the schedule that follows the validation mean IoU."""
        optimizer = torch.optim.Adam(self.network.parameters(), self.learning_rate)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=1 / 3, patience=1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/mean_iou"}}

    def _labels(self, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, labels = batch
        return self.upsample(self(inputs), labels.shape[1:]).argmax(1), labels
