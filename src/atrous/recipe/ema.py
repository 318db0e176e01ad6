"""The mean of a model over the steps of its training."""

from __future__ import annotations

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from atrous.recipe.positions import clamp_positions


class EMA(AveragedModel):
    """Keep the exponential mean of parameters and buffers of a model, whose positions it clamps first.

    A `torch.optim.swa_utils.AveragedModel`: call `update_parameters(model)` after every step, and use `module`, or the
    object itself, as the model. A position outside of its window never enters the mean, so that its positions stay
    inside.

    Args:
        model: what learns.
        decay: share of the old mean in the new one, 0 to 1.

    Raises:
        ValueError: another decay.

    Example:
        >>> from atrous.nn import Dcls1d
        >>> layer = Dcls1d(1, 1, 1, dilated_kernel_size=5)
        >>> mean = EMA(layer, decay=0.5)
        >>> for position in (0.0, 40.0):
        ...     _ = torch.nn.init.constant_(layer.P, position)
        ...     mean.update_parameters(layer)
        >>> mean.module.P.item()
        1.0
    """

    def __init__(self, model: torch.nn.Module, decay: float = 0.9999) -> None:
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        super().__init__(model, multi_avg_fn=average, use_buffers=True)

    def update_parameters(self, model: torch.nn.Module) -> None:
        """Clamp the positions of `model`, and take it into the mean."""
        clamp_positions(model)
        super().update_parameters(model)
