"""Make a model faster in place: torch's convolutions become their twins of `atrous.nn`, and back.

A convolution changes its class and nothing else, so that all that points at it (hooks, optimizers, wrappers of
parallel training) and all that it holds (parameters, buffers, flags, parametrizations) stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from atrous import nn
from atrous._backends import Prospect, prospect, prospect_transpose
from atrous._errors import UnsupportedModule
from atrous._geometry import Geometry
from atrous._table import aligned

_TWINS: dict[type, type] = {
    torch.nn.Conv1d: nn.Conv1d,
    torch.nn.Conv2d: nn.Conv2d,
    torch.nn.Conv3d: nn.Conv3d,
    torch.nn.ConvTranspose1d: nn.ConvTranspose1d,
    torch.nn.ConvTranspose2d: nn.ConvTranspose2d,
    torch.nn.ConvTranspose3d: nn.ConvTranspose3d,
}
_NAMES = {original.__name__ for original in _TWINS}
_ORIGINALS = {twin: original for original, twin in _TWINS.items()}

_MARK = "_accelerated"
"""The attribute of a module that `accelerate` changed; who wrote an `atrous.nn` module keeps it."""

_DEFAULTS = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}


@dataclass(frozen=True)
class Row:
    """One convolution of a model.

    Args:
        name: of the module in the model, '' for the model itself; the first one, if it has several.
        what: its class and arguments.
        reason: why it changed, or why not.

    Example:
        >>> accelerate(torch.nn.Conv2d(3, 8, 1)).kept[0].what
        'Conv2d(3, 8, 1)'
    """

    name: str
    what: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What `accelerate` did to the convolutions of a model; prints as a table.

    Args:
        model: the model, changed.
        changed: the convolutions that are modules of `atrous.nn` now.
        kept: the others.

    Example:
        >>> report = accelerate(torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, groups=8), torch.nn.Conv2d(8, 32, 1)))
        >>> print(report)
        1 of 2 convolutions changed
        changed  0  Conv2d(8, 8, 3, groups=8)  taps are faster for depthwise images (8x96x56-k7-d4)
        kept     1  Conv2d(8, 32, 1)           no row of the table says otherwise
    """

    model: torch.nn.Module = field(repr=False)
    changed: tuple[Row, ...]
    kept: tuple[Row, ...]

    def __str__(self) -> str:
        rows = [("changed", row) for row in self.changed] + [("kept", row) for row in self.kept]
        cells = [(word, row.name or "(the model)", row.what, row.reason) for word, row in rows]
        head = f"{len(self.changed)} of {len(rows)} convolutions changed"
        return f"{head}\n{aligned(cells)}" if cells else head

    def to_dict(self) -> dict[str, list[dict[str, str]]]:
        """Return the rows as plain data, without the model."""
        return {"changed": [asdict(row) for row in self.changed], "kept": [asdict(row) for row in self.kept]}


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
    _check("accelerate", model)
    if not inplace:
        model = copy.deepcopy(model)
    changed, kept = [], []
    for name, module in _convolutions(model):
        what, refusal = _describe(module), _refusal(module)
        better, reason = Prospect(False, refusal) if refusal else _prospect(module)
        if not better:
            kept.append(Row(name, what, reason))
            continue
        _become(module, _TWINS[parametrize.type_before_parametrizations(module)])
        setattr(module, _MARK, True)
        changed.append(Row(name, what, reason))
    return Report(model, tuple(changed), tuple(kept))


def restore(model: torch.nn.Module) -> torch.nn.Module:
    """Undo `accelerate`, however often it was called: what it changed is torch's own again.

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
    _check("restore", model)
    for name, module in model.named_modules():
        if _MARK in vars(module):
            kind = parametrize.type_before_parametrizations(module)
            if kind not in _ORIGINALS:
                raise UnsupportedModule(
                    f"restore: {name or 'the model'}: got a {kind.__qualname__}, which is not what accelerate made of "
                    "it; restore first, then wrap the model"
                )
            _become(module, _ORIGINALS[kind])
            delattr(module, _MARK)
    return model


def _check(name: str, model: object) -> None:
    if not isinstance(model, torch.nn.Module):
        raise UnsupportedModule(f"{name}: got a {type(model).__name__}, expected a torch.nn.Module")


def _convolutions(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield every convolution, whoever wrote it; also the quantised ones and those inside of torch.jit."""
    for name, module in model.named_modules():
        alike = _has_arguments(module) and not [*module.children()]
        if isinstance(module, torch.nn.modules.conv._ConvNd) or alike or _called(module) in _NAMES:
            yield name, module


def _has_arguments(module: torch.nn.Module) -> bool:
    return all(hasattr(module, name) for name in ("in_channels", "out_channels", "kernel_size", "groups"))


def _called(module: Any) -> str:
    """Return the name of the class that was written, inside of torch.jit and under parametrizations too."""
    if isinstance(module, torch.jit.ScriptModule):
        return str(module.original_name)
    return parametrize.type_before_parametrizations(module).__name__


def _refusal(module: torch.nn.Module) -> str | None:
    """Return why a module is not eligible whatever its arguments, or None."""
    kind = parametrize.type_before_parametrizations(module)
    if kind in _ORIGINALS:
        return "it is a module of atrous already"
    if isinstance(module, torch.jit.ScriptModule):
        return "torch.jit has compiled it"
    if isinstance(module, LazyModuleMixin):
        return "its channels are not known before its first call"
    if kind not in _TWINS:
        return f"its class is {kind.__module__}.{kind.__qualname__}, whose forward may be its own"
    if "forward" in vars(module) or "_conv_forward" in vars(module):
        return "its forward was replaced"
    return None


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


def _describe(module: Any) -> str:
    """Return a convolution as it would be written, without what is default."""
    if not _has_arguments(module):
        return f"{_called(module)}(...)"
    arguments = [str(module.in_channels), str(module.out_channels), _short(module.kernel_size)]
    for name, default in _DEFAULTS.items():
        value = _short(getattr(module, name, default))
        if value != str(default):
            arguments.append(f"{name}={value}")
    return f"{_called(module)}({', '.join(arguments)})"


def _short(value: Any) -> str:
    """Return one entry for all axes where they are alike."""
    return repr(value[0] if isinstance(value, (tuple, list)) and len(set(value)) == 1 else value)
