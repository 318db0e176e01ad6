"""The ways to factor a layer: what each may become, at how many parameters and what error.

Legend: W a weight, W' what takes its place, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import torch

from atrous import nn
from atrous._errors import ShapeError
from atrous._geometry import Geometry
from atrous.functional import nearest_cp
from atrous.functional.kronecker import apart
from atrous.functional.kronecker_nearest import shape_pairs, squared_errors
from atrous.functional.kronecker_plan import stages
from atrous.functional.low_rank import separable_errors

_FLAT = (torch.nn.Conv2d, nn.Conv2d, torch.nn.Linear)
_ALL = (*_FLAT, torch.nn.Conv1d, nn.Conv1d, torch.nn.Conv3d, nn.Conv3d)

_MOST_PRODUCTS = 256
"""Shapes of Kronecker factors that it takes more products of to be exact are not looked at: they take minutes."""

Option: TypeAlias = tuple[int, float, tuple[Any, ...]]
"""Parameters, the norm of W - W', and what makes the new layer of the old one."""


class Method(NamedTuple):
    """A way to factor layers: which ones, what each may become, with parameters and error, and its MACs."""

    eligible: tuple[type, ...]
    choices: Callable[[Any], Iterable[Option]]
    build: Callable[..., Any]
    macs: Callable[[Any], int]


def unfit(module: Any, method: str) -> str | None:
    """Return why a layer that some method takes is none for this one, or None."""
    if isinstance(module, _ALL) and not isinstance(module, METHODS[method].eligible):
        return f"method {method!r} is for Conv2d and Linear"
    if method == "cp" and getattr(module, "groups", 1) > 1:
        return "it has groups; method 'separable' takes such"
    return None


def _separable_choices(conv: Any) -> Iterator[Option]:
    outputs, channels, height, width = conv.weight.shape
    each = conv.groups * channels * height + outputs * width
    for rank, error in enumerate(separable_errors(conv.weight, conv.groups), 1):
        yield rank * each, error, (rank,)


def _cp_choices(conv: Any) -> Iterator[Option]:
    each = sum(conv.weight.shape)
    rank = (conv.weight.numel() - 1) // each
    while rank:
        yield rank * each, nearest_cp(conv.weight, rank)[1], (rank,)
        rank //= 2


def _matrix_choices(linear: torch.nn.Linear) -> Iterator[Option]:
    """Yield the ranks of a matrix: a column times a row is their Kronecker product."""
    outputs, inputs = linear.weight.shape
    shapes = (outputs, 1), (1, inputs)
    for rank, square in enumerate(squared_errors(linear.weight.detach().double()[None], 0.0)):
        if rank:
            yield rank * (outputs + inputs), math.sqrt(square), (shapes, rank)


def _kronecker_choices(layer: Any) -> Iterator[Option]:
    weight, groups = layer.weight.detach().double(), getattr(layer, "groups", 1)
    block = weight.shape[0] // groups, *weight.shape[1:]
    try:
        candidates = shape_pairs(block, groups, math.inf)
    except ShapeError:  # a prime number of entries
        return
    for each, shapes in candidates:
        if each < weight.numel() and min(map(math.prod, shapes)) <= _MOST_PRODUCTS:
            for rank, square in enumerate(squared_errors(apart(weight, shapes, groups), 0.0)):
                if rank:
                    yield rank * each, math.sqrt(square), (shapes, rank)


def _kronecker_layer(layer: Any, *arguments: Any) -> Any:
    if isinstance(layer, torch.nn.Linear):
        return nn.KroneckerLinear.from_linear(layer, *arguments)
    cls: Any = {1: nn.KroneckerConv1d, 2: nn.KroneckerConv2d, 3: nn.KroneckerConv3d}[layer.weight.ndim - 2]
    return cls.from_conv(layer, *arguments)


def _separable_macs(layer: nn.SeparableConv2d) -> int:
    _, along = layer.stride
    return along * layer.vertical.numel() + layer.horizontal.numel()


def _cp_macs(layer: nn.CPConv2d) -> int:
    down, along = layer.stride
    before_rows = down * layer.inputs.numel() + layer.rows.numel()
    return along * before_rows + layer.columns.numel() + layer.outputs.numel()


def _kronecker_macs(layer: Any) -> int:
    """Return the MACs of the cascade, in the better order."""
    kernels = [shape[2:] for shape in layer.shapes]
    stride, dilation = getattr(layer, "stride", ()), getattr(layer, "dilation", ())
    geometry = Geometry.resolve(getattr(layer, "kernel_size", ()), stride, 0, dilation, ndim=len(stride))
    totals = []
    for order in ((0, 1), (1, 0)):
        total, pixels, channels = 0, math.prod(stride), [shape[1] for shape in layer.shapes]
        for place, window in zip(order, stages(kernels, geometry, order), strict=True):
            outputs, *rest = layer.shapes[place]
            pixels //= math.prod(window.stride)
            channels[place] = outputs
            total += pixels * math.prod(channels) * math.prod(rest)
        totals.append(total)
    return int(layer.groups * layer.rank * min(totals))


METHODS = {
    "kronecker": Method(_ALL, _kronecker_choices, _kronecker_layer, _kronecker_macs),
    "separable": Method(_FLAT, _separable_choices, nn.SeparableConv2d.from_conv, _separable_macs),
    "cp": Method(_FLAT, _cp_choices, nn.CPConv2d.from_conv, _cp_macs),
}
_MATRIX = Method((torch.nn.Linear,), _matrix_choices, nn.KroneckerLinear.from_linear, _kronecker_macs)


def method_of(module: Any, method: str) -> Method:
    """Return how a layer is factored by a method: a matrix has one kind of low rank, whether 'separable' or 'cp'."""
    return _MATRIX if isinstance(module, torch.nn.Linear) and method != "kronecker" else METHODS[method]
