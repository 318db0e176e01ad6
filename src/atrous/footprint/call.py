"""One call of an operator in a traced network, as rules see it: its arguments, and ways to say what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from atrous._errors import UnsupportedModule
from atrous.footprint.axis import IDENTITY, Taps
from atrous.footprint.graph import Border, Dims, Edge, Local, Node

HERE = Taps(0, ({0: 1},))
"""The one pixel of an axis of size 1, for every output."""

_DECIDES = ("cond", "while_loop")
"""Operators that run other operators, as values of tensors say."""

_SCALES = {1: ("scales",), 2: ("scales_h", "scales_w"), 3: ("scales_d", "scales_h", "scales_w")}


def is_fake(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has a shape and no values: it is computed while the network runs."""
    return isinstance(tensor, torch._subclasses.FakeTensor)


class Call:
    """One call: arguments by name (`call["stride"]`), the shape of its result, and its sources.

    A source is an argument that depends on the network's input. Methods that return edges also note which axes the dims
    of the result hold (`call.dims`), for rules that change them to correct.

    Args:
        operator: its name, as `aten.relu`.
        arguments: all of them by name, defaults too.
        shapes: of all its results.
        index: which of them this is.
        axes: how many the network's input has.
        module: dotted name of the module that calls.

    Example:
        >>> image = Node("x", "input", "", (1, 1, 9), ((), (), (0,)), (9,), ())
        >>> call = Call("aten.avg_pool1d", {"self": image, "kernel_size": [3]}, [(1, 1, 3)], 0, axes=1, module="pool")
        >>> call.per_axis("kernel_size", call.pooled_axes), call.last_dims("self", [Taps.window(3, 3)])[0].locals
        ([3], (Taps(step=3, phases=({0: 1, 1: 1, 2: 1},)),))
    """

    def __init__(
        self,
        operator: str,
        arguments: dict[str, Any],
        shapes: Sequence[tuple[int, ...]],
        index: int,
        axes: int,
        module: str,
    ):
        self.operator, self.shapes, self.index, self.module = operator, shapes, index, module
        self.shape = shapes[index]
        self.dims: Dims = ((),) * len(self.shape)
        self._arguments, self._axes = arguments, axes

    def __getitem__(self, name: str) -> Any:
        return self._arguments[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arguments

    def get(self, name: str) -> Any:
        """Return an argument, or None where the operator has none of this name."""
        return self._arguments.get(name)

    @property
    def first(self) -> str:
        """The name of the first argument: torch calls it `self` or `input`."""
        return next(iter(self._arguments))

    @property
    def sources(self) -> list[Node]:
        """All arguments that depend on the input, also those in lists."""
        found: list[Node] = []
        for value in self._arguments.values():
            found += [one for one in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(one, Node)]
        return found

    @property
    def tensors(self) -> list[Any]:
        """All arguments that are tensors, in order, whether they depend on the input or not; without those in lists."""
        return [value for value in self._arguments.values() if isinstance(value, (Node, torch.Tensor))]

    def is_source(self, name: str) -> bool:
        """Return whether an argument depends on the input."""
        return isinstance(self.get(name), Node)

    def source(self, name: str) -> Node:
        """Return an argument that depends on the input.

        Raises:
            UnsupportedModule: one that does not.
        """
        value = self._arguments[name]
        if not isinstance(value, Node):
            raise self.unsupported(f"with a fixed {name}")
        return value

    def value(self, name: str) -> torch.Tensor:
        """Return a tensor whose values the rule needs.

        Raises:
            UnsupportedModule: one that is computed while the network runs.
        """
        value = self._arguments[name]
        if not isinstance(value, torch.Tensor) or is_fake(value):
            raise self.unsupported(f"whose {name} are computed")
        return value

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor argument."""
        return tuple(self._arguments[name].shape)

    def per_axis(self, name: str, ndim: int) -> list[int]:
        """Return integers of an argument, one per axis."""
        value = self._arguments[name]
        entries = [value] if isinstance(value, int) else list(value)
        return entries * ndim if len(entries) == 1 else entries

    @property
    def pooled_axes(self) -> int:
        """Number of axes that the operator's name says, as in `max_pool2d`."""
        return next(n for n in (1, 2, 3) if f"{n}d" in self.operator)

    @property
    def scale_names(self) -> tuple[str, ...]:
        """Names of the scales of an interpolation, one per axis."""
        return _SCALES[self.pooled_axes]

    def unsupported(self, what: str = "") -> UnsupportedModule:
        """Return the error of a call that no rule covers."""
        where = f"module {self.module!r}" if self.module else "the network"
        if self.operator in _DECIDES:
            return UnsupportedModule(
                f"trace_footprint: {where} calls {self.operator}, which is control flow and has no footprint; "
                "export the branch that runs"
            )
        return UnsupportedModule(
            f"trace_footprint: {where} calls {self.operator}{' ' if what else ''}{what}, which has no rule; "
            f"write one with atrous.footprint.rule(torch.ops.{self.operator})"
        )

    def edge(self, source: Node, dims: dict[int, Local], border: Border = "zeros") -> Edge:
        """Return an edge that reads the axes of some dims of `source` as given, all others pixel by pixel."""
        locals: list[Local] = [IDENTITY] * self._axes
        borders: list[Border] = ["zeros"] * self._axes
        for dim, local in dims.items():
            held = source.dims[dim]
            for axis in held:
                locals[axis] = local if len(held) == 1 else None
                borders[axis] = border
        return Edge(source, tuple(locals), tuple(borders))

    def along(self, name: str, dims: dict[int, Local], border: Border = "zeros") -> list[Edge]:
        """Read some dims of a source as given, all others pixel by pixel; the result has the same dims."""
        source = self.source(name)
        ndim = len(source.shape)
        self.dims = source.dims if len(self.shape) == ndim else self.dims
        return [self.edge(source, {dim % ndim: local for dim, local in dims.items()}, border)]

    def last_dims(self, name: str, locals: Sequence[Local], border: Border = "zeros") -> list[Edge]:
        """Read the last dims of a source as given, all others pixel by pixel."""
        return self.along(name, dict(enumerate(locals, -len(locals))), border)

    def everything(self, name: str, dims: Iterable[int]) -> list[Edge]:
        """Read some dims of a source as a whole, all others pixel by pixel."""
        return self.along(name, dict.fromkeys(dims))

    def reduced(self, name: str, dims: Sequence[int]) -> list[Edge]:
        """Read some dims of a source as a whole, and leave them out of the result or keep them with size 1."""
        source = self.source(name)
        edges = [self.edge(source, {dim: None if source.shape[dim] > 1 else HERE for dim in dims})]
        kept = len(self.shape) == len(source.shape)
        rest = [() if dim in dims else held for dim, held in enumerate(source.dims)]
        self.dims = tuple(held for dim, held in enumerate(rest) if kept or dim not in dims)
        return edges

    def adopt(self, dims: Dims) -> None:
        """Let the result hold, dim by dim, the axes of a source that it does not hold yet."""
        mine = list(self.dims)
        for dim, held in enumerate(dims):
            if not mine[dim] and not {axis for one in mine for axis in one} & set(held):
                mine[dim] = held
        self.dims = tuple(mine)

    def joined(self, parts: Sequence[tuple[Edge, Dims]]) -> list[Edge]:
        """Read sources that may lie on other axes than one another; each edge comes with its dims in the result."""
        for _, dims in parts:
            self.adopt(dims)
        return [self._matched(edge, dims) for edge, dims in parts]

    def _matched(self, edge: Edge, dims: Dims) -> Edge:
        """Return an edge whose source may lie on other axes than the result; `dims` are its own, as they lie there."""
        locals: list[Local] = []
        for axis, local in enumerate(edge.locals):
            mine, theirs = ([(dim, held) for dim, held in enumerate(one) if axis in held] for one in (self.dims, dims))
            locals.append(local if local is None or mine == theirs else None if theirs else HERE)
        return Edge(edge.source, tuple(locals), edge.borders)

    def everything_of_all(self) -> list[Edge]:
        """Read all of all sources; the result has the dims of the first, but for the last one."""
        first = self.sources[0]
        if first.shape[:-1] == self.shape[:-1]:
            self.dims = (*first.dims[:-1], ())
        return [self.whole(source) for source in self.sources]

    def whole(self, source: Node) -> Edge:
        """Return an edge that reads all of a source."""
        return Edge(source, (None,) * self._axes)

    def pointwise(self) -> list[Edge]:
        """Read every source at the same place, those of size 1 at their only one."""
        return self.joined([(self.edge(source, {}), self.broadcast(source)) for source in self.sources])

    def broadcast(self, source: Node) -> Dims:
        """Return the axes of a source, dim by dim of a result that it is broadcast to; dims of size 1 hold none."""
        skip = len(self.shape) - len(source.shape)
        fits = [size == self.shape[skip + dim] for dim, size in enumerate(source.shape)]
        return ((),) * skip + tuple(held if fit else () for held, fit in zip(source.dims, fits, strict=True))
