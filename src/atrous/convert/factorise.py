"""Compress a network under one budget of parameters: its kernels become products of smaller ones.

Legend: W a weight, W' what takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch.nn.modules.lazy import LazyModuleMixin

from atrous._errors import GeometryError, UnsupportedModule
from atrous._table import aligned
from atrous.convert.factors import METHODS, method_of, unfit
from atrous.convert.merge import exchange
from atrous.convert.report import Row, bound, check_model, convolutions, describe, refusal, tied


@dataclass(frozen=True)
class FactorisedLayer:
    """One layer that `factorise` changed.

    Args:
        name: of the module in the model, '' for the model itself; the first one, if it has several.
        what: its class and arguments, as they were.
        became: the class that took its place, the rank, and the shapes of Kronecker factors.
        parameters: before and after, without the bias.
        macs: before and after, for one output pixel (or row) of all channels, away from borders.
        error: norm of W - W' over that of W, all norms being Frobenius's.

    Example:
        >>> layer = factorise(torch.nn.Conv2d(16, 16, 3), budget=0.5, method="separable").changed[0]
        >>> layer.became, layer.parameters, layer.macs
        ('SeparableConv2d of rank 11', (2304, 1056), (2304, 1056))
    """

    name: str
    what: str
    became: str
    parameters: tuple[int, int]
    macs: tuple[int, int]
    error: float


@dataclass(frozen=True)
class Compression:
    """What `factorise` did to a model; prints as a table.

    Args:
        model: the model, changed.
        parameters: of the whole model, before and after; one that several modules have counts once.
        changed: the layers that are factored now.
        kept: the others, with the reason.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 5))
        >>> report = factorise(model, budget=5000, method="separable", keep=["0"])
        >>> report.parameters, [row.name for row in report.changed], report.kept[0].reason
        ((13280, 4800), ['2'], 'it is in `keep`')
    """

    model: torch.nn.Module = field(repr=False)
    parameters: tuple[int, int]
    changed: tuple[FactorisedLayer, ...]
    kept: tuple[Row, ...]

    @property
    def error(self) -> float:
        """What all layers together lose: the root of one minus the product of what each keeps, 1 - error^2."""
        return math.sqrt(1 - math.prod(1 - row.error**2 for row in self.changed))

    def __str__(self) -> str:
        before, after = self.parameters
        head = f"{before} parameters became {after}, {after / max(1, before):.1%}; error {self.error:.1%}"
        rows: list[tuple[str, ...]] = [
            (row.name, row.what, row.became, _arrow(row.parameters), _arrow(row.macs), f"{row.error:.1%}")
            for row in self.changed
        ]
        rows += [(row.name, row.what, f"kept: {row.reason}", "", "", "") for row in self.kept]
        titles = "layer", "was", "is", "parameters", "MACs", "error"
        return f"{head}\n{aligned([titles, *((name or '(the model)', *rest) for name, *rest in rows)])}"

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers and rows as plain data, without the model."""
        return {
            "parameters": list(self.parameters),
            "error": self.error,
            "changed": [asdict(row) for row in self.changed],
            "kept": [asdict(row) for row in self.kept],
        }


class _Choice(NamedTuple):
    """What a layer may become: parameters of its weight, minus the logarithm of what it keeps, and how."""

    parameters: int
    loss: float
    arguments: tuple[Any, ...] = ()


def factorise(
    model: torch.nn.Module,
    budget: float,
    *,
    method: str = "kronecker",
    keep: Collection[str] | Callable[[str], bool] = (),
) -> Compression:
    """Compress a network to a number of parameters in place, layer by layer, where it costs the least.

    Every layer that gains becomes one whose weight W' is a sum of products near W:

    - 'kronecker': `Conv1d`, `Conv2d`, `Conv3d` and `Linear` to `KroneckerConv1d`, `2d`, `3d` and `KroneckerLinear` of
      two factors, the nearest of all shapes that divide W's and up to 256 products.
    - 'separable': `Conv2d` to `SeparableConv2d`, the nearest of its rank.
    - 'cp': `Conv2d` without groups to `CPConv2d`, of the largest rank that saves anything, or of a half, a quarter ...
      of it. Each takes seconds, or minutes where there are many channels.
    - Both take `Linear` too, to a matrix of low rank: that is a `KroneckerLinear` of columns and rows.

    How the budget is shared out: a layer keeps 1 - |W - W'|^2 / |W|^2 of its weight's energy, which is the share of its
    output that W' still explains for white inputs. The product of these shares over all layers is what the network
    keeps. The step is taken again and again, in any layer, that lowers the logarithm of the product least for each
    parameter saved, until the network fits; the last step goes no further than it has to. No layer is given up for the
    others, because the product would vanish, and a larger budget never keeps less. Nothing is random, no data are used,
    and nothing is trained: train the network afterwards, with an optimizer made afterwards.

    Stride, padding, bias, dtype, device, training mode, `requires_grad`, hooks of calls and names of modules stay.

    Args:
        model: any module, or such a layer.
        budget: a float up to 1.0, the share of the model's parameters that it may have; or an integer, their number.
        method: 'kronecker', 'separable' or 'cp'.
        keep: modules that stay as they are, with all inside of them: their names, or a function that says so of a
            name. First and last layers are small and sensitive.

    Returns:
        What changed, to what, with parameters, MACs and errors, and why the rest did not: print it. Its `model` is the
        model; of a layer, what stands in its place.

    Raises:
        UnsupportedModule: something else than a module, or a lazy one before its first call.
        GeometryError: a budget that cannot be, or that no choice of ranks meets; an unknown method; names that the
            model does not have. The model is as it was.

    Source: Zhang, Zou, He and Sun, Accelerating very deep convolutional networks for classification and detection, 2016
    (the product of energies, step by step); the factors as in the modules.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 7, groups=8), torch.nn.Conv2d(8, 32, 1))
        >>> with torch.no_grad():
        ...     _ = model[0].weight.copy_(torch.ones(8, 1, 7, 7))
        >>> print(factorise(model, 0.6, method="separable"))
        688 parameters became 408, 59.3%; error 0.0%
        layer  was                        is                                 parameters  MACs        error
            0  Conv2d(8, 8, 7, groups=8)  SeparableConv2d of rank 1          392 -> 112  392 -> 112   0.0%
            1  Conv2d(8, 32, 1)           kept: it fits the budget as it is
    """
    check_model("factorise", model)
    if lazy := [type(one).__name__ for one in model.modules() if isinstance(one, LazyModuleMixin)]:
        raise UnsupportedModule(
            f"factorise: got a {lazy[0]}, whose channels are not known before its first call; call the model once"
        )
    if method not in METHODS:
        raise GeometryError(f"factorise: method: got {method!r}, expected one of {tuple(METHODS)}")
    total = _count(model)
    allowed = _allowed(budget, total)
    found, kept = [], []
    stays, shared = _stays(model, keep), tied(model)
    for name, module in _layers(model):
        reason = stays.get(module) or _refusal(module, shared, method)
        curve = [] if reason else _curve(module, method)
        if len(curve) > 1:
            found.append((name, module, curve))
        else:
            kept.append(Row(name, describe(module), reason or "no factors of it have fewer parameters"))
    chosen = _allocate([curve for *_, curve in found], total - allowed)
    fewest = total - sum(
        module.weight.numel() - choice.parameters for (_, module, _), choice in zip(found, chosen, strict=True)
    )
    if fewest > allowed:
        raise GeometryError(
            f"factorise: budget: got {budget}, {allowed} of {total} parameters, expected at least {fewest}, the fewest "
            f"that method {method!r} comes to; raise it, or keep fewer layers"
        )
    made, changed = {}, []
    for (name, module, _), choice in zip(found, chosen, strict=True):
        if not choice.arguments:
            kept.append(Row(name, describe(module), "it fits the budget as it is"))
            continue
        made[module] = layer = _built(module, choice, method)
        changed.append(_row(name, module, layer, choice, method))
    model = exchange(model, made)
    return Compression(model, (total, _count(model)), tuple(changed), tuple(kept))


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _arrow(pair: tuple[int, int]) -> str:
    return f"{pair[0]} -> {pair[1]}"


def _allowed(budget: Any, total: int) -> int:
    """Return the number of parameters that a budget is of a total."""
    if isinstance(budget, Integral) and not isinstance(budget, bool) and int(budget) > 0:
        return int(budget)
    if isinstance(budget, float) and 0 < budget <= 1:
        return int(budget * total)
    raise GeometryError(
        f"factorise: budget: got {budget!r}, expected a float above 0 and up to 1.0, the share of the {total} "
        "parameters, or an integer, their number"
    )


def _stays(model: torch.nn.Module, keep: Collection[str] | Callable[[str], bool]) -> dict[torch.nn.Module, str]:
    """Return the modules that stay whatever they are, and why."""
    named = dict(model.named_modules(remove_duplicate=False))
    if callable(keep):
        names = [name for name in named if keep(name)]
    elif unknown := [name for name in keep if name not in named]:
        raise GeometryError(f"factorise: keep: got {unknown}, expected names of modules of the model")
    else:
        names = list(keep)
    wanted = [inner for name in names for inner in named[name].modules()]
    encoders = [module for module in named.values() if isinstance(module, torch.nn.TransformerEncoderLayer)]
    read = [layer for encoder in encoders for layer in encoder.children()]
    return {
        **dict.fromkeys(read, "its TransformerEncoderLayer reads its weight itself"),
        **dict.fromkeys(wanted, "it is in `keep`"),
    }


def _layers(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield what the report speaks of: convolutions and linear layers."""
    found = {module for _, module in convolutions(model)}
    for name, module in model.named_modules():
        if module in found or isinstance(module, torch.nn.Linear):
            yield name, module


def _refusal(module: Any, shared: set[torch.Tensor], method: str) -> str | None:
    """Return why a layer cannot be factored, or None."""
    if getattr(module, "transposed", False):
        return "it is transposed"
    if (reason := unfit(module, method)) or (reason := refusal(module, METHODS[method].eligible)):
        return reason
    if reason := bound(module, shared):
        return reason
    if module.weight.is_meta or not module.weight.isfinite().all():
        return "its weight has no values, or some that are not finite"
    if not module.weight.any():
        return "its weight is 0, and products of zeros never learn"
    return None


def _curve(module: Any, method: str) -> list[_Choice]:
    """Return what a layer may be: first what it is, then all that has fewer parameters and keeps anything."""
    norm = module.weight.detach().double().norm().item()
    curve = [_Choice(module.weight.numel(), 0.0)]
    for parameters, error, arguments in method_of(module, method).choices(module):
        share = (error / norm) ** 2 if norm else 0.0
        if parameters < curve[0].parameters and share < 1:
            curve.append(_Choice(parameters, -math.log1p(-share), arguments))
    return curve


def _allocate(curves: Sequence[Sequence[_Choice]], surplus: int) -> list[_Choice]:
    """Choose one point of every curve, for the least sum of losses, such that `surplus` parameters are saved."""
    chosen = [curve[0] for curve in curves]
    hulls = [_hull(curve) for curve in curves]
    steps = sorted(
        (_price(before, after), layer, place, after)
        for layer, hull in enumerate(hulls)
        for place, (before, after) in enumerate(pairwise(hull))
    )
    for _, layer, _, choice in steps:
        if surplus <= 0:
            break
        before = chosen[layer].parameters
        if before - choice.parameters > surplus:
            enough = [one for one in curves[layer] if before - one.parameters >= surplus]
            choice = min(enough, key=lambda one: (one.loss, one.parameters))
        surplus -= before - choice.parameters
        chosen[layer] = choice
    return chosen


def _hull(curve: Sequence[_Choice]) -> list[_Choice]:
    """Return the points of a curve from which each step costs more, for a parameter saved, than the one before."""
    first, *rest = curve
    hull = [first]
    for choice in sorted(rest, key=lambda one: (-one.parameters, one.loss)):
        while len(hull) > 1 and _price(hull[-2], choice) <= _price(hull[-2], hull[-1]):
            hull.pop()
        if choice.parameters < hull[-1].parameters:
            hull.append(choice)
    return hull


def _price(before: _Choice, after: _Choice) -> float:
    """Return the loss that a step adds for each parameter that it saves."""
    return (after.loss - before.loss) / (before.parameters - after.parameters)


def _built(module: Any, choice: _Choice, method: str) -> Any:
    """Return the layer that takes the place of another, with its bias."""
    layer = method_of(module, method).build(module, *choice.arguments)
    for parameter in layer.parameters():
        parameter.requires_grad_(module.weight.requires_grad)
    layer.register_parameter("bias", module._parameters["bias"])
    return layer


def _row(name: str, module: Any, layer: Any, choice: _Choice, method: str) -> FactorisedLayer:
    before = module.weight.numel()
    shapes = getattr(layer, "shapes", ())
    became = f"{type(layer).__name__} of rank {layer.rank}{', ' if shapes else ''}{' x '.join(map(str, shapes))}"
    error = math.sqrt(-math.expm1(-choice.loss))
    return FactorisedLayer(
        name,
        describe(module),
        became,
        (before, choice.parameters),
        (before, method_of(module, method).macs(layer)),
        error,
    )
