"""Optimizers and schedules of the learning rate, by the words of a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from atrous.train.config import Recipe

PLATEAU = {"mode": "max", "factor": 1 / 3, "patience": 1}


def optimizer(parameters: list[dict[str, Any]], recipe: Recipe, learning_rate: float) -> torch.optim.Optimizer:
    """Return the optimizer of a recipe.

    Example:
        >>> from atrous.train.config import SegmentRecipe
        >>> type(optimizer([{"params": [torch.zeros(1)]}], SegmentRecipe(optimizer="sgd"), 0.1)).__name__
        'SGD'
    """
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, learning_rate, momentum=recipe.momentum)
    adam = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return adam(parameters, learning_rate)


def schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, epochs: int, steps: int, monitor: str) -> dict[str, Any]:
    """Return the schedule of a recipe in the form that Lightning takes.

    Args:
        optimizer: of the parameters.
        recipe: says which.
        epochs: of the run.
        steps: of the run.
        monitor: the metric that a plateau is seen in.

    Example:
        >>> from atrous.train.config import SegmentRecipe
        >>> one = torch.optim.SGD([torch.zeros(1)], 1.0)
        >>> kept = schedule(one, SegmentRecipe(warmup_epochs=1), 2, 4, "val/mean_iou")["scheduler"]
        >>> [round(kept.lr_lambdas[0](step), 3) for step in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    if recipe.schedule == "plateau":
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **PLATEAU)  # type: ignore[arg-type]
        return {"scheduler": plateau, "monitor": monitor}
    rising = steps * recipe.warmup_epochs // epochs
    falling: dict[str, Callable[[float], float]] = {
        "constant": lambda done: 1.0,
        "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
        "poly": lambda done: (1 - done) ** 0.9,
    }

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return falling[recipe.schedule](min(1.0, (step - rising) / max(1, steps - rising)))

    return {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"}
