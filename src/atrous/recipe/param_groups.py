"""Parameters of a network, grouped by weight decay and learning rate, for any optimizer of torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from atrous._errors import ShapeError


def param_groups(
    model: torch.nn.Module, learning_rate: float, weight_decay: float, *, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Return the parameters that learn, in groups with a learning rate and a weight decay each.

    Parameters of fewer than two axes (biases, norms, layer scales) do not decay. Layer i of n learns at
    learning_rate layer_decay^(n - 1 - i): the nearer to the image, the slower.

    Args:
        model: its `layers()`, if it has them, are lists of modules from image to scores; else each child is a layer.
            What belongs to no layer learns as fast as the last one.
        learning_rate: of the last layer.
        weight_decay: of what decays.
        layer_decay: learning rate of a layer over that of the next.

    Raises:
        ShapeError: layer_decay not above 0, or above 1.

    Source: Bao et al., BEiT, 2022, and Liu et al. 2022, appendix A, for fine-tuning.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 2, 1, bias=False))
        >>> for group in param_groups(net, 0.1, 0.05, layer_decay=0.5):
        ...     print([tuple(one.shape) for one in group["params"]], group["lr"], group["weight_decay"])
        [(4, 1, 3, 3)] 0.05 0.05
        [(4,)] 0.05 0.0
        [(2, 4, 1, 1)] 0.1 0.05
    """
    if not 0 < layer_decay <= 1:
        raise ShapeError(f"param_groups: layer_decay: got {layer_decay}, expected above 0 and at most 1, which is none")
    layers = [list(modules) for modules in _layers(model)]
    before_last = {
        parameter: len(layers) - 1 - number
        for number, modules in enumerate(layers)
        for module in modules
        for parameter in module.parameters()
    }
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            rate = learning_rate * layer_decay ** before_last.get(parameter, 0)
            groups.setdefault((rate, weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def _layers(model: torch.nn.Module) -> Iterable[Iterable[torch.nn.Module]]:
    if callable(own := getattr(model, "layers", None)) and not isinstance(own, torch.nn.Module):
        found: Iterable[Iterable[torch.nn.Module]] = own()
        return found
    return ([child] for child in model.children())
