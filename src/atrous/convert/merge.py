"""Bake the layers of learned spacings of a model into plain convolutions, in place."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from atrous._errors import UnsupportedModule
from atrous.convert.report import check_model
from atrous.nn.dcls import _Dcls

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


def merge_dcls(model: torch.nn.Module) -> torch.nn.Module:
    """Turn every layer of learned spacings of a model into a convolution with its dense kernel, for deployment.

    Each becomes what its `merge()` returns: a `torch.nn.Conv1d`, `Conv2d` or `Conv3d`, or the `atrous.nn` module of
    that name where the two sides of an axis are padded differently. The model computes the same up to rounding, has no
    positions any more, and exports like any other; `atrous.accelerate` works on it. Biases, names of modules, training
    mode and hooks of calls stay. To go on training, merge a deep copy.

    Args:
        model: any module, changed in place, or such a layer.

    Returns:
        The model; of a layer, its merged convolution.

    Raises:
        UnsupportedModule: something else than a module, one without such a layer, or a layer with a parameter that a
            parametrization or a hook computes.

    Example:
        >>> from atrous.nn import Dcls2d
        >>> layer = Dcls2d(8, 8, 5, padding="same", dilated_kernel_size=9, groups=8)
        >>> merge_dcls(torch.nn.Sequential(layer, torch.nn.GELU()))
        Sequential(
          (0): Conv2d(8, 8, kernel_size=(9, 9), stride=(1, 1), padding=(4, 4), groups=8)
          (1): GELU(approximate='none')
        )
    """
    check_model("merge_dcls", model)
    made: dict[torch.nn.Module, torch.nn.Module] = {
        layer: _merged(name, layer) for name, layer in model.named_modules() if isinstance(layer, _Dcls)
    }
    if not made:
        raise UnsupportedModule(
            f"merge_dcls: got a {type(model).__name__} without a layer of learned spacings, expected at least one; "
            "replace_depthwise makes some"
        )
    return exchange(model, made)


def exchange(model: torch.nn.Module, made: Mapping[torch.nn.Module, torch.nn.Module]) -> torch.nn.Module:
    """Put new modules in the places of old ones, wherever these stand, with their hooks of calls and training mode.

    Returns:
        The model, or what stands in its own place.
    """
    for old, new in made.items():
        new.train(old.training)
        for name in _HOOKS:
            # The dict itself: whoever holds a handle can still remove the hook.
            setattr(new, name, getattr(old, name))
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in made:
                parent._modules[name] = made[child]
    return made.get(model, model)


def _merged(name: str, layer: _Dcls) -> torch.nn.Module:
    if not {"weight", "P", "SIG", "bias"} <= layer._parameters.keys():
        raise UnsupportedModule(
            f"merge_dcls: {name or 'the model'}: got a layer with a parameter that a parametrization or a hook "
            "computes, expected plain ones; remove the parametrization first"
        )
    merged = layer.merge()
    merged.get_parameter("weight").requires_grad_(layer.weight.requires_grad)
    merged.register_parameter("bias", layer._parameters["bias"])
    return merged
