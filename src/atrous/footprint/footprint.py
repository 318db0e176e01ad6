"""What a network's outputs read of its input, axis by axis: the object that every analysis stands on.

Legend: N axes, *S input size, *P output size, p output index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeAlias

from atrous._errors import GeometryError
from atrous._table import aligned
from atrous.footprint.graph import Node, pixels_read, span_of

Ranges: TypeAlias = Sequence[tuple[int, int]]
"""(start, stop) per axis, half-open."""


@dataclass(frozen=True, eq=False)
class Footprint:
    """Say what an output reads of the network's input, exactly, per axis. `trace_footprint` makes it.

    Where several branches add up, an output reads along each axis what any of them reads. Indices that lie outside of
    the image are padding; `reads(..., clip=True)` leaves it out, at every layer.

    Args:
        node: the output.
        outputs: all outputs of the network that depend on its input, as nodes; see `output`.
        nodes: all tensors in between, in order; see `layers`.

    Example:
        >>> import torch
        >>> from atrous import trace_footprint
        >>> network = torch.nn.Sequential(torch.nn.Conv1d(1, 1, 3, dilation=4, padding=4), torch.nn.MaxPool1d(2))
        >>> fp = trace_footprint(network, torch.zeros(1, 1, 64))
        >>> fp.receptive_field, fp.stride, fp.offset
        ((10,), (Fraction(2, 1),), (-4,))
        >>> fp.taps(0)
        {0: 1, 1: 1, 4: 1, 5: 1, 8: 1, 9: 1}
        >>> fp.reads([(0, 8)]), fp.reads([(0, 8)], clip=True)
        (((-4, 20),), ((0, 20),))
    """

    node: Node = field(repr=False)
    outputs: tuple[Node, ...] = field(repr=False)
    nodes: tuple[Node, ...] = field(repr=False)

    @property
    def input_size(self) -> tuple[int, ...]:
        """S."""
        return self.nodes[0].sizes

    @property
    def output_size(self) -> tuple[int, ...]:
        """P; 1 along an axis that the output has no more."""
        return self.node.sizes

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.input_size)

    def output(self, index: int) -> Footprint:
        """Return the footprint of another output of the network."""
        return Footprint(self.outputs[index], self.outputs, self.nodes)

    @cached_property
    def layers(self) -> tuple[Footprint, ...]:
        """The footprints of all tensors in between, in order, the input first."""
        return tuple(Footprint(node, self.outputs, self.nodes) for node in self.nodes)

    @property
    def name(self) -> str:
        """The module and the operator that make this output."""
        return f"{self.node.module}.{self.node.operator}".lstrip(".")

    @cached_property
    def globals(self) -> tuple[bool, ...]:
        """Per axis, whether each output reads all of it."""
        return tuple(reach.everything for reach in self.node.reaches)

    @property
    def is_local(self) -> bool:
        """Whether outputs read windows that move along with them at one rate, on every axis."""
        return None not in self.stride

    @cached_property
    def stride(self) -> tuple[Fraction | None, ...]:
        """Input pixels from one output to the next, per axis; None where there is no one rate."""
        return tuple(reach.rate for reach in self.node.reaches)

    @cached_property
    def receptive_field(self) -> tuple[int, ...]:
        """Pixels from the first to the last that one output reads, both counted, per axis, at most."""
        return tuple(max(map(self._extent, [axis] * len(at), at)) for axis, at in enumerate(self._phases))

    @cached_property
    def offset(self) -> tuple[int, ...]:
        """The first pixel that output 0 reads, per axis; negative in the padding."""
        found = self.reads([(0, 1)] * self.ndim)
        return tuple(start for start, _ in found)

    @cached_property
    def delay(self) -> tuple[int | None, ...]:
        """How many pixels after its own place, `p stride` rounded down, an output waits for; None if for no one number.

        At most 0 is causal.
        """
        found: list[int | None] = []
        for axis, rate in enumerate(self.stride):
            if rate is None:
                found.append(None)
                continue
            reach = self.node.reaches[axis]
            spans = [(p, reach.span(p, p + 1)) for p in range(rate.denominator * self._period(axis))]
            found.append(
                max((span[1] - 1 - p * rate.numerator // rate.denominator for p, span in spans if span), default=0)
            )
        return tuple(found)

    def is_causal(self, axis: int = 0) -> bool:
        """Return whether no output reads past its own place along an axis."""
        delay = self.delay[self._axis(axis)]
        return delay is not None and delay <= 0

    def reads(self, output_ranges: Ranges | None = None, *, clip: bool = False) -> tuple[tuple[int, int], ...]:
        """Return the tight range of input pixels that a range of outputs reads, per axis.

        Args:
            output_ranges: (start, stop) per axis, half-open; None is the whole output.
            clip: leave out padding, of every layer; else the ranges are those of an image without borders.

        Returns:
            (start, stop) per axis; (0, 0) where nothing is read.

        Raises:
            GeometryError: another number of ranges, an empty one, or one outside of the output where that matters.
        """
        ranges = self._checked(output_ranges, clip)
        found = []
        for axis, (start, stop) in enumerate(ranges):
            reach = self.node.reaches[axis]
            if clip:
                span = span_of(self._pixels(axis)[start:stop])
            else:
                span = (0, self.input_size[axis]) if reach.everything else reach.span(start, stop)
            found.append(span or (0, 0))
        return tuple(found)

    def taps(self, axis: int = 0, at: int | None = None) -> dict[int, int]:
        """Return what one output reads along an axis: {pixel, counted from the first one: number of paths}.

        Holes between them are read by nobody. Paths are those of the axis by itself, whatever the channels.

        Args:
            axis: which.
            at: the output; None is the one in the middle. Only its phase counts: padding is not left out.

        Raises:
            GeometryError: an axis that is not there, or that is read as a whole.
        """
        axis = self._axis(axis)
        if self.globals[axis]:
            raise GeometryError(f"taps: axis {axis} is read as a whole by {self.name}; ask a layer before it")
        found = self.node.reaches[axis].at(self.output_size[axis] // 2 if at is None else at)
        first = min(found, default=0)
        return {place - first: paths for place, paths in found.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain objects, for JSON."""
        return {
            "name": self.name,
            "input_size": list(self.input_size),
            "output_size": list(self.output_size),
            "receptive_field": list(self.receptive_field),
            "stride": [None if rate is None else str(rate) for rate in self.stride],
            "offset": list(self.offset),
            "delay": list(self.delay),
            "global": list(self.globals),
        }

    def __str__(self) -> str:
        rows: list[tuple[object, ...]] = [("axis", "input", "output", "receptive field", "stride", "offset", "delay")]
        for axis, extent in enumerate(self.receptive_field):
            rate, delay = self.stride[axis], self.delay[axis]
            rows.append(
                (
                    axis,
                    self.input_size[axis],
                    self.output_size[axis],
                    "all" if self.globals[axis] else extent,
                    "-" if rate is None else rate,
                    self.offset[axis],
                    "-" if delay is None else delay,
                )
            )
        return aligned(rows)

    def _axis(self, axis: int) -> int:
        if not -self.ndim <= axis < self.ndim:
            raise GeometryError(f"footprint: got axis {axis}, expected one of {self.ndim}")
        return axis % self.ndim

    def _period(self, axis: int) -> int:
        return max((len(taps.phases) for taps in self.node.reaches[axis].terms), default=1)

    @property
    def _phases(self) -> list[list[int]]:
        """Per axis, outputs of every kind: one of each phase, or all where branches of several rates drift apart."""
        found = []
        for axis, size in enumerate(self.output_size):
            single = len(self.node.reaches[axis].terms) < 2
            found.append([size // 2 + p for p in range(self._period(axis))] if single else list(range(size)))
        return found

    def _extent(self, axis: int, p: int) -> int:
        if self.globals[axis]:
            return self.input_size[axis]
        span = self.node.reaches[axis].span(p, p + 1)
        return span[1] - span[0] if span else 0

    def _checked(self, output_ranges: Ranges | None, clip: bool) -> Ranges:
        if output_ranges is None:
            return [(0, size) for size in self.output_size]
        good = len(output_ranges) == self.ndim and all(start < stop for start, stop in output_ranges)
        if not good:
            raise GeometryError(
                f"reads: got {output_ranges}, expected {self.ndim} ranges (start, stop) with start below stop"
            )
        if clip and any(
            start < 0 or stop > size for (start, stop), size in zip(output_ranges, self.output_size, strict=True)
        ):
            raise GeometryError(f"reads: got {output_ranges}, expected ranges inside the output of {self.output_size}")
        return output_ranges

    @cached_property
    def _tables(self) -> dict[int, list[int]]:
        return {}

    def _pixels(self, axis: int) -> list[int]:
        if axis not in self._tables:
            self._tables[axis] = pixels_read(self.node, axis)
        return self._tables[axis]
