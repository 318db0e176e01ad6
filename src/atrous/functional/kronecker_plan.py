"""How a convolution with Kronecker factors runs: as a cascade, in which order and windows, or with the dense weight.

Legend: r rank, G groups, o and c the channels of one factor, K kernel size, S input size, P output size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from operator import index

import torch

from atrous._errors import GeometryError
from atrous._geometry import Geometry
from atrous.functional.kronecker import Shape, whole

_METHODS = (None, "cascade", "dense")

_READ = 16
"""MACs that take as long as to read or write one element of a map: measured on one core of a CPU with AVX2."""

_MOVED = 64
"""The same for an element that has to move first, so that channels of the other factors lie along the batch."""

_USUAL = 32
"""Pixels of the output per axis that a plan is made for where sizes are not known."""


def choose_order(
    name: str,
    shapes: tuple[Shape, ...],
    rank: int,
    geometry: Geometry,
    size: tuple[int, ...],
    method: str | None,
) -> tuple[int, ...]:
    """Return the order of the factors in a cascade, or () for the dense weight, for an input of `size` (B, *S).

    Example:
        >>> large, small = (((1, 1, size, size),) * 3 for size in (3, 1))
        >>> map27, map1 = Geometry.resolve(27, padding=13, ndim=2), Geometry.resolve(1, ndim=2)
        >>> choose_order("", large, 1, map27, (8, 56, 56), None), choose_order("", small, 1, map1, (8, 56, 56), None)
        ((0, 1, 2), ())
    """
    if method not in _METHODS:
        raise GeometryError(f"{name}: method: got {method!r}, expected one of {_METHODS}")
    if method == "dense" or len(shapes) == 1:
        return ()
    if torch.compiler.is_compiling() or any(type(pixels) is not int for pixels in size):
        # Compilers and tracers leave sizes free. Of a large batch, making the weight costs nothing.
        usual = geometry.transposed_size((_USUAL,) * geometry.ndim, (0,) * geometry.ndim)
        return _plan(shapes, rank, geometry, (1 << 20, *(max(1, pixels) for pixels in usual)), method)
    return _plan_cached(shapes, rank, geometry, size, method)


def stages(kernels: Sequence[Sequence[int]], geometry: Geometry, order: Sequence[int]) -> list[Geometry]:
    """Return the windows that factors of these kernels amount to `geometry` with, when they run in `order`.

    The first has all of the padding. A map keeps no pixel that later windows step over.
    """
    # Pixels of the input between the taps of each factor; 0 for a single tap, which never steps.
    steps = [
        [
            gap * math.prod([other[axis] for other in kernels[place + 1 :]]) if kernel[axis] > 1 else 0
            for axis, gap in enumerate(geometry.dilation)
        ]
        for place, kernel in enumerate(kernels)
    ]
    windows = []
    padding, apart = geometry.padding, (1,) * geometry.ndim
    for number, place in enumerate(order, 1):
        later = [steps[other] for other in order[number:]]
        # A compiler that leaves sizes free fixes these, which decide what runs, when they are asked for as an index.
        kept = tuple(math.gcd(*map(index, column)) for column in zip(geometry.stride, *later, strict=True))
        stride = tuple(wide // narrow for wide, narrow in zip(kept, apart, strict=True))
        dilation = tuple(max(1, step // narrow) for step, narrow in zip(steps[place], apart, strict=True))
        windows.append(Geometry(tuple(kernels[place]), stride, dilation, padding))
        padding, apart = ((0, 0),) * geometry.ndim, kept
    return windows


def _plan(
    shapes: tuple[Shape, ...], rank: int, geometry: Geometry, size: tuple[int, ...], method: str | None
) -> tuple[int, ...]:
    samples, *pixels = size
    outer_first = tuple(range(len(shapes)))
    inner_first = outer_first[::-1]
    outer, inner = (
        samples * _cascade_cost(shapes, rank, geometry, pixels, order) for order in (outer_first, inner_first)
    )
    order, cost = (outer_first, outer) if outer <= inner else (inner_first, inner)
    return order if method == "cascade" or cost < _dense_cost(shapes, rank, geometry, samples, pixels) else ()


_plan_cached = lru_cache(maxsize=1024)(_plan)


def _dense_cost(shapes: tuple[Shape, ...], rank: int, geometry: Geometry, samples: int, size: Sequence[int]) -> int:
    """Return what the dense weight costs for one group, in MACs: making it and convolving with it."""
    outputs, inputs, *_ = block = whole(shapes)
    written = math.prod(geometry.output_size(size))
    maps = written * math.prod(block) + _READ * (inputs * math.prod(size) + outputs * written)
    return samples * maps + (rank + _READ) * math.prod(block)


def _cascade_cost(
    shapes: tuple[Shape, ...], rank: int, geometry: Geometry, size: Sequence[int], order: Sequence[int]
) -> int:
    """Return what a cascade costs for one group of one sample, in MACs."""
    channels = [inputs for _, inputs, *_ in shapes]
    windows = stages([kernel for _, _, *kernel in shapes], geometry, order)
    total = 0
    for place, window in zip(order, windows, strict=True):
        outputs, inputs, *kernel = shapes[place]
        moves = math.prod(channels) > channels[place]
        read = math.prod(channels) * math.prod(size) * (1 if place == order[0] else rank)
        channels[place], size = outputs, window.output_size(size)
        written = math.prod(channels) * math.prod(size)
        total += rank * written * inputs * math.prod(kernel)
        total += (_MOVED if moves else _READ) * (read + written * (1 if place == order[-1] else rank))
    return total
