"""Parameters of a network, grouped by weight decay and learning rate, for any optimizer of torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from atrous._errors import ShapeError
from atrous.nn.dcls import _Dcls


def param_groups(
    model: torch.nn.Module,
    lr: float,
    weight_decay: float,
    position_lr_scale: float = 5.0,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Return the parameters that learn, in groups with a learning rate and a weight decay each.

    Parameters of fewer than two axes (biases, norms, layer scales) do not decay, nor do positions and scales of learned
    spacings: decay would pull every element to the centre. Layer i of n learns at lr layer_decay^(n - 1 - i): the
    nearer to the image, the slower; positions and scales at position_lr_scale times that. What several layers share
    learns with the last of them.

    Args:
        model: its `layers()`, if it has them, are lists of modules from image to scores; else each child is a layer.
            What belongs to no layer learns as fast as the last one.
        lr: learning rate of the last layer.
        weight_decay: of what decays.
        position_lr_scale: learning rate of `P` and `SIG` over that of the weights; the papers have 5, and 100 for
            delays in time.
        layer_decay: learning rate of a layer over that of the next; None is 1.

    Raises:
        ShapeError: layer_decay not above 0, or above 1; a position_lr_scale below 0.

    Source: Bao et al., BEiT, 2022, and Liu et al. 2022, appendix A, for fine-tuning; Khalfaoui-Hassani, Pellegrini and
    Masquelier, Dilated convolution with learnable spacings, ICLR 2023, for positions.

    Example:
        >>> from atrous.nn import Dcls2d
        >>> layer = Dcls2d(4, 2, 3, dilated_kernel_size=5, bias=False)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), layer)
        >>> for group in param_groups(net, 0.1, 0.05, layer_decay=0.5):
        ...     print([tuple(one.shape) for one in group["params"]], group["lr"], group["weight_decay"])
        [(4, 1, 3, 3)] 0.05 0.05
        [(4,)] 0.05 0.0
        [(2, 4, 3)] 0.1 0.05
        [(2, 2, 4, 3)] 0.5 0.0
    """
    layer_decay = 1.0 if layer_decay is None else layer_decay
    if not 0 < layer_decay <= 1:
        raise ShapeError(f"param_groups: layer_decay: got {layer_decay}, expected above 0 and at most 1, which is none")
    if not position_lr_scale >= 0:
        raise ShapeError(f"param_groups: position_lr_scale: got {position_lr_scale}, expected 0 or more")
    layers = [list(modules) for modules in _layers(model)]
    before_last = {
        parameter: len(layers) - 1 - number
        for number, modules in enumerate(layers)
        for module in modules
        for parameter in module.parameters()
    }
    # By the type of the layer: another module may well have a parameter called P.
    placed = {one for layer in model.modules() if isinstance(layer, _Dcls) for one in (layer.P, layer.SIG)}
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            moves = parameter in placed
            rate = lr * layer_decay ** before_last.get(parameter, 0) * (position_lr_scale if moves else 1)
            decay = 0.0 if moves or parameter.ndim < 2 else weight_decay
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def _layers(model: torch.nn.Module) -> Iterable[Iterable[torch.nn.Module]]:
    if callable(own := getattr(model, "layers", None)) and not isinstance(own, torch.nn.Module):
        found: Iterable[Iterable[torch.nn.Module]] = own()
        return found
    return ([child] for child in model.children())
