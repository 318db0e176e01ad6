"""The convolutions of a model, whoever wrote them, what may become of them, and the report of what did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from atrous._errors import UnsupportedModule
from atrous._table import aligned

_NAMES = {f"Conv{kind}{ndim}d" for kind in ("", "Transpose") for ndim in (1, 2, 3)}

_DEFAULTS = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}


@dataclass(frozen=True)
class Row:
    """One convolution of a model.

    Args:
        name: of the module in the model, '' for the model itself; the first one, if it has several.
        what: its class and arguments, as they were.
        reason: why it changed, or to what, or why not.

    Example:
        >>> from atrous import accelerate
        >>> accelerate(torch.nn.Conv2d(3, 8, 1)).kept[0].what
        'Conv2d(3, 8, 1)'
    """

    name: str
    what: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What `accelerate` or `replace_depthwise` did to the convolutions of a model; prints as a table.

    Args:
        model: the model, changed.
        changed: the convolutions that are modules of `atrous.nn` now.
        kept: the others.

    Example:
        >>> from atrous import accelerate
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


def check_model(name: str, model: object) -> None:
    """Raise what the function `name` says of a model that is none.

    Raises:
        UnsupportedModule: something else than a module.
    """
    if not isinstance(model, torch.nn.Module):
        raise UnsupportedModule(f"{name}: got a {type(model).__name__}, expected a torch.nn.Module")


def convolutions(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield every convolution by its first name; also the quantised ones and those inside of torch.jit."""
    for name, module in model.named_modules():
        alike = _has_arguments(module) and not [*module.children()]
        if isinstance(module, torch.nn.modules.conv._ConvNd) or alike or _called(module) in _NAMES:
            yield name, module


def refusal(module: torch.nn.Module, eligible: Container[type]) -> str | None:
    """Return why a module does not count as one of the eligible classes, whatever its arguments, or None."""
    kind = parametrize.type_before_parametrizations(module)
    if isinstance(module, torch.jit.ScriptModule):
        return "torch.jit has compiled it"
    if isinstance(module, LazyModuleMixin):
        return "its channels are not known before its first call"
    if kind not in eligible:
        return f"its class is {kind.__module__}.{kind.__qualname__}, whose forward may be its own"
    if "forward" in vars(module) or "_conv_forward" in vars(module):
        return "its forward was replaced"
    return None


def tied(model: torch.nn.Module) -> set[torch.Tensor]:
    """Return the parameters that several modules have."""
    counts = Counter(one for module in model.modules() for one in module._parameters.values() if one is not None)
    return {parameter for parameter, count in counts.items() if count > 1}


def bound(module: Any, shared: Container[torch.Tensor]) -> str | None:
    """Return why the weight of a module cannot be replaced by other parameters, or None."""
    if not {"weight", "bias"} <= module._parameters.keys():
        return "a parametrization or a hook computes its weight or bias; remove that first"
    if module.weight in shared:
        return "another module has the same weight, and the two would come apart"
    if not module.weight.is_floating_point():
        return f"its weight is {module.weight.dtype}"
    return None


def describe(module: Any) -> str:
    """Return a convolution, or a linear layer, as it would be written, without what is default."""
    if isinstance(module, torch.nn.Linear):
        return f"{_called(module)}({module.in_features}, {module.out_features})"
    if not _has_arguments(module):
        return f"{_called(module)}(...)"
    arguments = [str(module.in_channels), str(module.out_channels), _short(module.kernel_size)]
    for name, default in _DEFAULTS.items():
        value = _short(getattr(module, name, default))
        if value != str(default):
            arguments.append(f"{name}={value}")
    return f"{_called(module)}({', '.join(arguments)})"


def _has_arguments(module: torch.nn.Module) -> bool:
    return all(hasattr(module, name) for name in ("in_channels", "out_channels", "kernel_size", "groups"))


def _called(module: Any) -> str:
    """Return the name of the class that was written, inside of torch.jit and under parametrizations too."""
    if isinstance(module, torch.jit.ScriptModule):
        return str(module.original_name)
    return parametrize.type_before_parametrizations(module).__name__


def _short(value: Any) -> str:
    """Return one entry for all axes where they are alike."""
    return repr(value[0] if isinstance(value, (tuple, list)) and len(set(value)) == 1 else value)
