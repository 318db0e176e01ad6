"""Make a model faster in place: torch's convolutions become their twins of `atrous.nn`, and back.

A convolution changes its class and nothing else, so that all that points at it (hooks, optimizers, wrappers of
parallel training) and all that it holds (parameters, buffers, flags, parametrizations) stay as they are.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.nn.utils import parametrize

from atrous import nn
from atrous._backends import Prospect, prospect, prospect_transpose
from atrous._errors import UnsupportedModule
from atrous._geometry import Geometry
from atrous.convert.report import Report, Row, check_model, convolutions, describe, refusal

_TWINS: dict[type, type] = {
    torch.nn.Conv1d: nn.Conv1d,
    torch.nn.Conv2d: nn.Conv2d,
    torch.nn.Conv3d: nn.Conv3d,
    torch.nn.ConvTranspose1d: nn.ConvTranspose1d,
    torch.nn.ConvTranspose2d: nn.ConvTranspose2d,
    torch.nn.ConvTranspose3d: nn.ConvTranspose3d,
}
_ORIGINALS = {twin: original for original, twin in _TWINS.items()}

_MARK = "_accelerated"
"""The attribute of a module that `accelerate` changed; who wrote an `atrous.nn` module keeps it."""


def accelerate(model: torch.nn.Module, *, inplace: bool = True) -> Report:
    """Turn every convolution of a model that `atrous` may run faster into its twin of `atrous.nn`.

    A `torch.nn.Conv1d`, `Conv2d`, `Conv3d` or `ConvTranspose1d`, `2d`, `3d` changes its class where timings say that
    torch is not the fastest in the dtype of the weight, for an input of any size, or is wrong (bfloat16). The model
    computes the same; parameters, `state_dict`, hooks, parametrizations, training mode and the names of modules stay.
    Every call still chooses by its own tensors: what is not on a CPU runs on torch's operators.

    Args:
        model: any module, also one in `torch.compile` or in `DistributedDataParallel`, or a convolution.
        inplace: False leaves the model alone and changes a deep copy of it, which is `report.model`.

    Returns:
        What changed, and why the rest did not: print it.

    Raises:
        UnsupportedModule: something else than a module.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 7, padding=3, groups=8), torch.nn.Conv2d(8, 32, 1))
        >>> [row.name for row in accelerate(model).changed]
        ['0']
        >>> model
        Sequential(
          (0): Conv2d(8, 8, kernel_size=(7, 7), stride=(1, 1), padding=(3, 3), groups=8)
          (1): Conv2d(8, 32, kernel_size=(1, 1), stride=(1, 1))
        )
        >>> type(model[0]).__module__, type(model[1]).__module__
        ('atrous.nn.conv', 'torch.nn.modules.conv')
    """
    check_model("accelerate", model)
    if not inplace:
        model = copy.deepcopy(model)
    changed, kept = [], []
    for name, module in convolutions(model):
        what, refusal = describe(module), refused(module)
        better, reason = Prospect(False, refusal) if refusal else _prospect(module)
        if not better:
            kept.append(Row(name, what, reason))
            continue
        to_twin(module)
        changed.append(Row(name, what, reason))
    return Report(model, tuple(changed), tuple(kept))


def restore(model: torch.nn.Module) -> torch.nn.Module:
    """Undo `accelerate` and `tune`, however often they were called: what they changed is torch's own again.

    Modules of `atrous.nn` that were written as such stay.

    Args:
        model: changed in place.

    Returns:
        The model.

    Raises:
        UnsupportedModule: something else than a module, or one whose class something else has changed since.

    Example:
        >>> layer = torch.nn.Conv2d(8, 8, 7, groups=8)
        >>> accelerate(layer).model is restore(layer) is layer
        True
        >>> type(layer).__module__
        'torch.nn.modules.conv'
    """
    check_model("restore", model)
    for name, module in model.named_modules():
        if _MARK in vars(module):
            kind = parametrize.type_before_parametrizations(module)
            if kind not in _ORIGINALS:
                raise UnsupportedModule(
                    f"restore: {name or 'the model'}: got a {kind.__qualname__}, which is not what accelerate made of "
                    "it; restore first, then wrap the model"
                )
            to_original(module)
    return model


def to_twin(module: torch.nn.Module) -> None:
    """Make one of torch's convolutions, which `refused` says nothing of, its twin."""
    _become(module, _TWINS[parametrize.type_before_parametrizations(module)])
    setattr(module, _MARK, True)


def to_original(module: torch.nn.Module) -> None:
    """Undo `to_twin`."""
    _become(module, _ORIGINALS[parametrize.type_before_parametrizations(module)])
    delattr(module, _MARK)


def refused(module: torch.nn.Module) -> str | None:
    """Return why a module is not eligible whatever its arguments, or None."""
    if parametrize.type_before_parametrizations(module) in _ORIGINALS:
        return "it is a module of atrous already"
    return refusal(module, _TWINS)


def _prospect(module: Any) -> Prospect:
    options = module.kernel_size, module.stride, module.padding, module.dilation
    geometry = Geometry.resolve(*options, ndim=len(module.kernel_size))
    find = prospect_transpose if module.transposed else prospect
    # Not of `module.weight`: to ask a parametrization for it may change its state.
    dtype = next((one.dtype for one in module.parameters()), torch.get_default_dtype())
    return find(dtype, geometry, module.in_channels // module.groups, module.out_channels // module.groups)


def _become(module: torch.nn.Module, cls: type) -> None:
    """Change the class of a module, under its parametrizations if it has some."""
    if parametrize.is_parametrized(module):
        # torch made a class for this module; deep copies share it, so it is made anew.
        made = type(module)
        members = {name: value for name, value in vars(made).items() if name not in ("__dict__", "__weakref__")}
        cls = type(made.__name__, (cls,), members)
    module.__class__ = cls
