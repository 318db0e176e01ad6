"""The nodes of a traced network: where each one's axes lie, and what it reads of the nodes before it.

Legend: an axis is one of the network's input; a dim is one of some tensor; p an index along an axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from atrous.footprint.axis import IDENTITY, Reach, Taps

Local: TypeAlias = Taps | None
"""How a node reads another along one axis; None reads everything."""

Border: TypeAlias = Literal["zeros", "reflect", "replicate", "circular"]
"""What an index outside of a node means: nothing, or a pixel inside."""

Dims: TypeAlias = tuple[tuple[int, ...], ...]
"""For each dim of a tensor the axes that it holds: none, one, or several that were flattened into it, in order."""


INPUT = "input"
"""The operator of the network's input."""


@dataclass(frozen=True, eq=False)
class Edge:
    """How a node reads `source`, one entry per axis; without borders, zeros lie outside.

    Example:
        >>> image = Node("x", INPUT, "", (1, 1, 9), ((), (), (0,)), (9,), ())
        >>> Edge(image, (Taps.window(3, before=1),)).locals[0].at(4)
        {3: 1, 4: 1, 5: 1}
    """

    source: Node
    locals: tuple[Local, ...]
    borders: tuple[Border, ...] = ()


@dataclass(frozen=True, eq=False)
class Node:
    """One tensor of a network that depends on its input.

    Args:
        name: of the node in the graph.
        operator: what made it.
        module: dotted name of the module that it belongs to; '' is the network itself.
        shape: of the tensor.
        dims: which axes its dims hold.
        sizes: pixels along each axis; 1 where no dim holds it.
        edges: what it reads.

    Example:
        >>> import torch
        >>> from atrous import trace_footprint
        >>> node = trace_footprint(torch.nn.Conv1d(1, 1, 3), torch.zeros(1, 1, 9)).node
        >>> node.operator, node.sizes, node.edges[0].source.operator
        ('conv1d', (7,), 'input')
    """

    name: str
    operator: str
    module: str
    shape: tuple[int, ...]
    dims: Dims
    sizes: tuple[int, ...]
    edges: tuple[Edge, ...] = field(repr=False)

    reaches: tuple[Reach, ...] = field(init=False, repr=False)
    """What it reads of the network's input, per axis, as if no image had a border."""

    def __post_init__(self) -> None:
        # At once: a later walk back through a deep network would need as deep a stack.
        found = [Reach((IDENTITY,)) if self.operator == INPUT else Reach() for _ in self.sizes]
        for edge in self.edges:
            for axis, local in enumerate(edge.locals):
                found[axis] |= edge.source.reaches[axis].through(local)
        object.__setattr__(self, "reaches", tuple(found))


def ancestors(node: Node) -> list[Node]:
    """Return the node and all that it reads, sources first."""
    order: list[Node] = []
    seen: set[int] = set()
    waiting: list[tuple[Node, bool]] = [(node, False)]
    while waiting:
        one, ready = waiting.pop()
        if ready:
            order.append(one)
        elif id(one) not in seen:
            seen.add(id(one))
            waiting.append((one, True))
            waiting += [(edge.source, False) for edge in one.edges]
    return order


def pixels_read(node: Node, axis: int) -> list[int]:
    """Return for each p of `node` the pixels of the input that it truly reads: bit i of the integer is pixel i.

    Borders are taken into account at every layer: padding reads nothing, or what its mode puts there.
    """
    order = ancestors(node)
    last_use = {id(edge.source): index for index, one in enumerate(order) for edge in one.edges}
    tables: dict[int, list[int]] = {}
    for index, one in enumerate(order):
        tables[id(one)] = _table(one, axis, tables)
        # Of a long signal all tables at once would not fit.
        for edge in one.edges:
            if last_use[id(edge.source)] == index:
                tables.pop(id(edge.source), None)
    return tables[id(node)]


def _table(node: Node, axis: int, tables: dict[int, list[int]]) -> list[int]:
    size = node.sizes[axis]
    if node.operator == INPUT:
        return [1 << p for p in range(size)]
    table = [0] * size
    for edge in node.edges:
        source, local = tables[id(edge.source)], edge.locals[axis]
        border = edge.borders[axis] if edge.borders else "zeros"
        if local is None:
            whole = _union(source)
            table = [pixels | whole for pixels in table]
        elif local == IDENTITY and len(source) == size:
            table = [pixels | more for pixels, more in zip(table, source, strict=True)]
        else:
            for p in range(size):
                for at in local.at(p):
                    inside = at if 0 <= at < len(source) else _fold(at, len(source), border)
                    if inside is not None:
                        table[p] |= source[inside]
    return table


def _union(sets: Iterable[int]) -> int:
    whole = 0
    for one in sets:
        whole |= one
    return whole


def _fold(at: int, size: int, border: Border) -> int | None:
    """Return the pixel that an index outside of the image stands for."""
    if border == "zeros" or not size:
        return None
    if border == "replicate":
        return min(max(at, 0), size - 1)
    if border == "circular":
        return at % size
    turn = max(1, 2 * (size - 1))
    at %= turn
    return min(at, turn - at)


def span_of(sets: Sequence[int]) -> tuple[int, int] | None:
    """Return the half-open range from the first to the last pixel of several sets."""
    whole = _union(sets)
    return ((whole & -whole).bit_length() - 1, whole.bit_length()) if whole else None
