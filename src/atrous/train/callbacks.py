"""The recipe of learned spacings as callbacks of Lightning, for any module that it trains."""

from __future__ import annotations

import copy
import statistics
from typing import Any

import lightning
import torch

from atrous._errors import GeometryError
from atrous.analysis.movement import Movement, movement, snapshot
from atrous.nn.dcls import _Dcls
from atrous.recipe import anneal_scales, clamp_after_steps, repulsive_loss


class ClampPositions(lightning.Callback):
    """Clamp positions after every step of every optimizer, by `atrous.recipe.clamp_after_steps`.

    Lightning averages weights when a batch ends, which is later: no position outside of its window enters a mean. The
    tasks of `atrous.train` have this callback by themselves.

    Example:
        >>> trainer = lightning.Trainer(callbacks=[ClampPositions()], logger=False, accelerator="cpu")
    """

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Register what clamps."""
        for optimizer in trainer.optimizers:
            clamp_after_steps(pl_module, optimizer)


class Repulsion(lightning.Callback):
    """Add the gradient of the square of `atrous.recipe.repulsive_loss` before every step, late in training.

    The loss of the module, and what is logged of it, stay as they are. Processes need not agree on anything: all have
    the same positions.

    Args:
        after_epoch: the last epoch without it; the first epoch is 0.

    Raises:
        UnsupportedModule: at the start, a module without a layer of learned spacings.

    Source: Khalfaoui-Hassani, Pellegrini and Masquelier, Dilated convolution with learnable spacings, ICLR 2023.

    Example:
        >>> trainer = lightning.Trainer(callbacks=[Repulsion(after_epoch=5)], logger=False, accelerator="cpu")
    """

    def __init__(self, after_epoch: int = 20) -> None:
        self.after_epoch = after_epoch

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Find out now, not after so many epochs, whether there is something to part."""
        with torch.no_grad():
            repulsive_loss(pl_module)

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the gradient to that of the positions, if it is late enough."""
        if trainer.current_epoch <= self.after_epoch:
            return
        learned = [one for group in optimizer.param_groups for one in group["params"] if one.requires_grad]
        with torch.enable_grad():
            loss = repulsive_loss(pl_module).square()
        if not loss.requires_grad:
            return  # positions are frozen
        gradients = torch.autograd.grad(loss, learned, allow_unused=True)
        for parameter, gradient in zip(learned, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


class AnnealScales(lightning.Callback):
    """Narrow the widths of elements from epoch to epoch, by `atrous.recipe.anneal_scales`.

    Args:
        epochs: after so many the scales stay at their last value; the papers take a quarter of the run.

    Raises:
        GeometryError: epochs not above 0.

    Source: Hammouamri, Khalfaoui-Hassani and Masquelier, Learning delays in spiking neural networks using dilated
    convolutions with learnable spacings, ICLR 2024.

    Example:
        >>> trainer = lightning.Trainer(callbacks=[AnnealScales(epochs=25)], logger=False, accelerator="cpu")
    """

    def __init__(self, epochs: int) -> None:
        if not epochs > 0:
            raise GeometryError(f"AnnealScales: epochs: got {epochs}, expected above 0")
        self.epochs = epochs

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Set the first scales, and freeze them before optimizers and processes take hold of parameters."""
        if stage == "fit":
            anneal_scales(pl_module, 0)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Set the scales of the epoch."""
        anneal_scales(pl_module, min(1.0, trainer.current_epoch / self.epochs))


class RecordPositions(lightning.Callback):
    """Keep the positions of a network from before training and after every epoch, and the learning rate of each epoch.

    A run that is resumed goes on with what its checkpoint has.

    Args:
        network: whose positions.

    Example:
        >>> from atrous.nn import Dcls1d
        >>> record = RecordPositions(Dcls1d(1, 1, 1, dilated_kernel_size=5))
        >>> trainer = lightning.Trainer(callbacks=[record], logger=False, accelerator="cpu")
        >>> record.positions, record.learning_rates
        ([], [])
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network
        self.positions: list[dict[str, torch.Tensor]] = []
        """For every snapshot: `P` by the name of its layer, once where layers share it."""
        self.learning_rates: list[float] = []
        """For every epoch: the mean over its steps of the rate of the first group."""
        self._rates: list[float] = []

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep the first positions, unless a checkpoint has brought them."""
        if not self.positions:
            self._keep()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the learning rate."""
        self._rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep positions and learning rate of the epoch."""
        self._keep()
        self.learning_rates.append(statistics.fmean(self._rates))
        self._rates.clear()

    def movement(self) -> Movement:
        """Return how the elements moved; needs one epoch at least."""
        network, snapshots = copy.deepcopy(self.network), []
        with torch.no_grad():
            for positions in self.positions:
                for name, places in positions.items():
                    network.get_parameter(f"{name}.P").copy_(places)
                snapshots.append(snapshot(network))
        return movement(snapshots, self.learning_rates)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"positions": self.positions, "learning_rates": self.learning_rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint kept."""
        self.positions, self.learning_rates = list(state_dict["positions"]), list(state_dict["learning_rates"])

    def _keep(self) -> None:
        names: dict[torch.Tensor, str] = {}
        for name, layer in self.network.named_modules():
            if isinstance(layer, _Dcls):
                names.setdefault(layer.P, name)
        self.positions.append({name: places.detach().cpu().clone() for places, name in names.items()})
