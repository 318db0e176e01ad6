"""The paths from one output to every pixel that it reads, over all axes at once.

Legend: N axes, F pixels from the first to the last that is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from atrous._errors import GeometryError
from atrous.footprint.axis import IDENTITY, Taps
from atrous.footprint.graph import INPUT, Node, ancestors

Paths: TypeAlias = NDArray[np.float64]


def paths_of(node: Node, at: Sequence[int]) -> tuple[tuple[int, ...], Paths]:
    """Return the first pixel that output `at` reads, per axis, and the number of paths to each from there on, (*F).

    Branches add up as they are, so a cross is a cross and no square. As if no image had a border.

    Raises:
        GeometryError: an output that reads a whole axis.

    Example:
        >>> import torch
        >>> from atrous import trace_footprint
        >>> node = trace_footprint(torch.nn.Conv2d(1, 1, (1, 3), dilation=2), torch.zeros(1, 1, 9, 9)).node
        >>> paths_of(node, (4, 2))
        ((4, 2), array([[1., 0., 1., 0., 1.]]))
    """
    waiting: dict[int, tuple[tuple[int, ...], Paths]] = {id(node): (tuple(at), np.ones((1,) * len(at)))}
    for one in reversed(ancestors(node)):
        start, count = waiting.pop(id(one))
        if one.operator == INPUT:
            return start, count
        for edge in one.edges:
            first, moved = list(start), count
            for axis, local in enumerate(edge.locals):
                if local is None:
                    raise GeometryError(
                        f"paths: axis {axis} is read as a whole by {one.operator}; ask a layer before it"
                    )
                if local != IDENTITY:
                    first[axis], moved = _follow(moved, axis, start[axis], local)
            here = tuple(first), moved
            other = waiting.get(id(edge.source))
            waiting[id(edge.source)] = _sum(here, other) if other else here
    return tuple(at), np.zeros((0,) * len(at))


def _follow(count: Paths, axis: int, start: int, local: Taps) -> tuple[int, Paths]:
    """Return where the pixels begin that a row of outputs reads along an axis, and the paths to them."""
    rows = np.moveaxis(count, axis, 0)
    span = local.span(start, start + len(rows)) or (0, 0)
    found = np.zeros((span[1] - span[0], *rows.shape[1:]))
    for p, row in enumerate(rows, start):
        for place, paths in local.at(p).items():
            found[place - span[0]] += paths * row
    return span[0], np.moveaxis(found, 0, axis)


def _sum(one: tuple[tuple[int, ...], Paths], other: tuple[tuple[int, ...], Paths]) -> tuple[tuple[int, ...], Paths]:
    """Return the paths of two branches over the window that holds both."""
    both = [part for part in (one, other) if part[1].size]
    if len(both) < 2:
        return both[0] if both else one
    starts = [start for start, _ in both]
    stops = [np.add(start, count.shape) for start, count in both]
    first = tuple(int(low) for low in np.min(starts, axis=0))
    whole = np.zeros(np.max(stops, axis=0) - first)
    for start, count in both:
        begin = np.subtract(start, first)
        whole[tuple(slice(low, low + size) for low, size in zip(begin, count.shape, strict=True))] += count
    return first, whole
