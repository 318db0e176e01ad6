"""What all tasks share: steps, logs, optimizers, and the end of a run whose loss is no number.

Legend: B batch, A channels, H, W image size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, cast

import lightning
import torch
from torchmetrics import MetricCollection

from atrous._errors import DataError
from atrous.nn.dcls import _Dcls
from atrous.plots.pixels import Pixels
from atrous.recipe import param_groups
from atrous.train.callbacks import ClampPositions
from atrous.train.config import Recipe
from atrous.train.optim import optimizer, schedule


class Task(lightning.LightningModule, ABC):
    """Train and judge a network on one kind of target.

    Batches are (inputs, targets, indices). Logged: `train/loss` per step, `val/NAME` of every metric of one number
    per epoch, pictures of the first images of the validation.

    Args:
        network: what learns; gives what `loss` takes.
        recipe: settings.
        epochs: of this run; None are those of the recipe.
        learning_rate: of this run; None is that of the recipe.

    Raises:
        DataError: in a step, a loss that is no finite number.

    Example:
        >>> from atrous.train.tasks import Segment
        >>> issubclass(Segment, Task), Segment.watched
        (True, 'mean_iou')
    """

    watched: ClassVar[str]
    """The metric that chooses the best weights; more is better."""

    def __init__(
        self, network: torch.nn.Module, recipe: Recipe, epochs: int | None = None, learning_rate: float | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.epochs = recipe.epochs if epochs is None else epochs
        self.learning_rate = recipe.learning_rate if learning_rate is None else learning_rate
        self.val_metrics = self.metrics()
        self.test_metrics = self.metrics()
        self.test_result: dict[str, torch.Tensor] = {}
        self.shown: Pixels | None = None
        """The picture of the last validation or test."""
        self.describe: Callable[[list[int]], str] = str
        """Names the pairs of a batch by their indices."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Return what judges; every metric takes what `judge` returns."""

    @abstractmethod
    def loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch."""

    @abstractmethod
    def judge(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return predictions and targets for the metrics."""

    @abstractmethod
    def picture(self, inputs: torch.Tensor, targets: torch.Tensor) -> Pixels:
        """Return the first pair of a batch and its prediction as one picture."""

    def training_step(self, batch: Any, batch_index: int) -> torch.Tensor:
        """Return the loss of one batch.

        Raises:
            DataError: it is no finite number; names step, files and the last good checkpoint.
        """
        inputs, targets, *indices = batch
        loss = self.loss(inputs, targets)
        if not loss.isfinite():
            raise DataError(self._stop(loss.item(), indices))
        if self._trainer is not None:
            self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Count one batch."""
        for inputs, targets, *_ in parts(batch):
            self.val_metrics.update(*self.judge(inputs, targets))
            if batch_index == 0:
                self._show(inputs, targets)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the epoch that are one number.

        Raises:
            DataError: the one that is watched is none.
        """
        found = self.val_metrics.compute()
        if found[self.watched].isnan():
            raise DataError(f"val: {self.watched} is no number; expected some target that counts")
        self.log_dict({f"val/{name}": value for name, value in found.items() if not value.ndim}, prog_bar=True)
        self.val_metrics.reset()

    def test_step(self, batch: Any, batch_index: int) -> None:
        """Count one batch."""
        for inputs, targets, *_ in parts(batch):
            self.test_metrics.update(*self.judge(inputs, targets))
            if batch_index == 0:
                self._show(inputs, targets)

    def on_test_epoch_end(self) -> None:
        """Keep all metrics in `test_result`."""
        self.test_result = self.test_metrics.compute()
        self.log_dict({f"test/{name}": value for name, value in self.test_result.items() if not value.ndim})
        self.test_metrics.reset()

    def configure_optimizers(self) -> Any:
        """Return optimizer and schedule of the recipe."""
        chosen = optimizer(self.parameter_groups(), self.recipe, self.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        return {
            "optimizer": chosen,
            "lr_scheduler": schedule(chosen, self.recipe, self.epochs, steps, f"val/{self.watched}"),
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters that learn, with what differs between them."""
        return param_groups(self.network, self.learning_rate, self.recipe.weight_decay)

    def configure_callbacks(self) -> list[lightning.Callback]:
        """Return what keeps learned positions inside of their windows, if the network has any."""
        return [ClampPositions()] if any(isinstance(module, _Dcls) for module in self.network.modules()) else []

    def share(self, count: torch.Tensor) -> torch.Tensor:
        """Return what this process divides a sum by, so that the mean over all processes is that of one.

        Gradients are averaged over processes; `count` is what the sum of this one has, at least 1 over all.
        """
        world = 1 if self._trainer is None else self.trainer.world_size
        if world > 1:
            count = cast(torch.Tensor, self.all_gather(count)).sum()
        return count.clamp(min=1) / world

    def _stop(self, loss: float, indices: list[torch.Tensor]) -> str:
        where = self.describe(indices[0].tolist()) if indices else "unknown"
        checkpoint = getattr(self.trainer.checkpoint_callback, "last_model_path", "") if self._trainer else ""
        return (
            f"training: the loss is {loss} at step {self.global_step}, in the batch of {where}; last good checkpoint: "
            f"{checkpoint or 'none'}; try a smaller learning_rate"
        )

    def _show(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        picture = self.shown = self.picture(inputs, targets)
        for logger in self.loggers:
            if isinstance(logger, lightning.pytorch.loggers.TensorBoardLogger):
                logger.experiment.add_image("val/first", picture, self.global_step, dataformats="HWC")


def parts(batch: Any) -> list[Any]:
    """Return the batches of one size that a batch of the evaluation has."""
    return [batch] if torch.is_tensor(batch[0]) else batch
