"""Integer geometry of a convolution: how kernel, stride, dilation and padding turn sizes into sizes.

Legend: N axes, S input size, k kernel size, s stride, d dilation, (b, a) padding before and after.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from atrous._errors import GeometryError

Ints: TypeAlias = int | Sequence[int]
"""One integer for every axis, or one per axis."""

AxisPadding: TypeAlias = int | tuple[int, int] | str
"""Padding of one axis: both sides alike, (before, after), or a word: 'valid', 'same', 'causal'."""

Padding: TypeAlias = AxisPadding | Sequence[AxisPadding]
"""One `AxisPadding` for every axis (int or word), or a sequence with one per axis."""

_WORDS = ("valid", "same", "causal")


@dataclass(frozen=True)
class Geometry:
    """Hold the integers of one convolution (or pooling) window, one entry per axis.

    Args:
        kernel: taps per axis, at least 1.
        stride: input pixels between neighbouring outputs, at least 1.
        dilation: input pixels between neighbouring taps, at least 1.
        padding: zeros (before, after) each axis, at least 0.

    Raises:
        GeometryError: an entry below its minimum, or fields of different lengths.

    Example:
        >>> g = Geometry.resolve(3, stride=2, padding="same", dilation=4, ndim=2)
        >>> g.extent, g.padding, g.output_size((32, 33))
        ((9, 9), ((4, 4), (4, 4)), (16, 17))
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        for name, low, values in (
            ("kernel size", 1, self.kernel),
            ("stride", 1, self.stride),
            ("dilation", 1, self.dilation),
            ("padding", 0, [side for pair in self.padding for side in pair]),
        ):
            if any((type(value) is not int and not hasattr(value, "__index__")) or value < low for value in values):
                raise GeometryError(f"{name}: got {tuple(values)}, expected integers of at least {low}")
        lengths = {len(self.kernel), len(self.stride), len(self.dilation), len(self.padding)}
        if len(lengths) != 1:
            raise GeometryError(f"geometry: got {self}, expected the same number of axes in every field")

    @classmethod
    def resolve(
        cls, kernel: Ints, stride: Ints = 1, padding: Padding = 0, dilation: Ints = 1, *, ndim: int
    ) -> Geometry:
        """Spell out the arguments of a convolution, one entry per axis.

        `padding` is one entry, or a sequence with one entry per axis; an entry is an integer (both sides), a pair
        `(before, after)` or a word. With `total = dilation * (kernel - 1)`, 'valid' pads nothing, 'same' splits `total`
        as torch does (the odd one after), 'causal' puts all of it before.

        Raises:
            GeometryError: a wrong number of entries, an unknown word, or an integer below its minimum.

        Example:
            >>> Geometry.resolve((2, 3), padding=("causal", "same"), ndim=2).padding
            ((1, 0), (1, 1))
        """
        sizes = _per_axis("kernel size", kernel, ndim)
        gaps = _per_axis("dilation", dilation, ndim)
        totals = [d * (k - 1) for k, d in zip(sizes, gaps, strict=True)]
        entries = [padding] * ndim if isinstance(padding, str) else _per_axis("padding", padding, ndim)
        sides = tuple(_sides(entry, total) for entry, total in zip(entries, totals, strict=True))
        return cls(sizes, _per_axis("stride", stride, ndim), gaps, sides)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.kernel)

    @property
    def extent(self) -> tuple[int, ...]:
        """Pixels from the first tap to the last, both counted: `d (k - 1) + 1` per axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def symmetric(self) -> bool:
        """Whether every axis is padded alike on both sides."""
        return all(before == after for before, after in self.padding)

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the output size for an input of `size`: `(S + b + a - extent) // s + 1`, not below 0.

        Example:
            >>> Geometry.resolve(3, stride=2, padding=1, ndim=1).output_size((8,))
            (4,)
        """
        if len(size) != self.ndim:
            raise GeometryError(f"output_size: got {len(size)} sizes {tuple(size)}, expected {self.ndim}")
        return tuple(
            max(0, (n + sum(sides) - extent) // stride + 1)
            for n, sides, extent, stride in zip(size, self.padding, self.extent, self.stride, strict=True)
        )

    def trimmed(self, size: Sequence[int]) -> tuple[Geometry, tuple[tuple[int, int], ...]]:
        """Return the window without the taps at its ends that read nothing but padding, and the (start, stop) left.

        For an input of `size` it has the same outputs, under zero padding.

        Example:
            >>> window, left = Geometry.resolve(17, padding=8, ndim=1).trimmed((7,))
            >>> window.kernel, window.padding, left
            ((13,), ((6, 6),), ((2, 15),))
        """
        axes, outputs = [], self.output_size(size)
        for k, s, d, (b, a), n, o in zip(
            self.kernel, self.stride, self.dilation, self.padding, size, outputs, strict=True
        ):
            last = (o - 1) * s
            start, stop = max(0, -((last - b) // d)), min(k, (n - 1 + b) // d + 1)
            before = b - start * d
            after = last + d * (stop - 1 - start) + 1 - n - before
            trims = stop - start < k and stop > start and before >= 0 and after >= 0
            axes.append((stop - start, (before, after), (start, stop)) if trims else (k, (b, a), (0, k)))
        kernel, padding, left = zip(*axes, strict=True)
        return Geometry(kernel, self.stride, self.dilation, padding), left

    def transposed_size(self, size: Sequence[int], output_padding: Sequence[int]) -> tuple[int, ...]:
        """Return the size that the transposed window gives an input of `size`: `(S - 1) s + extent - b - a`, and more.

        What is more is `output_padding`, one integer per axis: `output_size` rounds down, so several sizes have one
        `output_size`.

        Example:
            >>> window = Geometry.resolve(4, stride=2, padding=1, ndim=1)
            >>> window.transposed_size((8,), (0,)), window.output_size((16,))
            ((16,), (8,))
        """
        columns = zip(size, self.stride, self.extent, self.padding, output_padding, strict=True)
        return tuple((n - 1) * stride + extent - sum(sides) + more for n, stride, extent, sides, more in columns)

    @classmethod
    def compose(cls, chain: Iterable[Geometry]) -> Geometry:
        """Return the one window that a chain of windows amounts to, first applied first.

        Its kernel (dilation 1) is the receptive field of the chain in pixels of the first input, its stride the output
        stride, its padding what the chain pads in all. A pooling that rounds its size up is a window with `stride - 1`
        more pixels of padding after; composed sizes are then exact too.

        Raises:
            GeometryError: an empty chain, or windows of different ndim.

        Source: Araujo, Norris and Sim, Computing receptive fields of convolutional neural networks, Distill 2019.

        Example:
            >>> layers = [Geometry.resolve(3, dilation=d, ndim=1) for d in (1, 1, 2, 4, 8, 16, 1)]
            >>> Geometry.compose(layers).kernel
            (67,)
        """
        windows = list(chain)
        if len({window.ndim for window in windows}) != 1:
            raise GeometryError(f"compose: got {windows}, expected at least one window, all of the same ndim")
        ndim = windows[0].ndim
        field, jump = [1] * ndim, [1] * ndim
        sides = [[0, 0] for _ in range(ndim)]
        for window in windows:
            for axis in range(ndim):
                field[axis] += (window.extent[axis] - 1) * jump[axis]
                for side in (0, 1):
                    sides[axis][side] += window.padding[axis][side] * jump[axis]
                jump[axis] *= window.stride[axis]
        return cls(tuple(field), tuple(jump), (1,) * ndim, tuple((before, after) for before, after in sides))


def plain(name: str, value: Any) -> Any:
    """Return integers of any make as `int` and sequences as tuples, words as they are: equal values look alike.

    A size that a compiler leaves free (`torch.SymInt`) stays free.

    Raises:
        GeometryError: something that is neither; 2.0 is no integer.
    """
    if type(value) is int:
        return value
    if type(value) is tuple:
        for entry in value:
            if type(entry) is not int:
                break
        else:
            return value
    if isinstance(value, str) or hasattr(value, "__sym_max__"):
        return value
    if isinstance(value, Sequence):
        return tuple(plain(name, entry) for entry in value)
    try:
        return operator.index(value)
    except TypeError as error:
        raise GeometryError(f"{name}: got {value!r}, expected integers") from error


def integers(name: str, value: Ints, ndim: int, low: int) -> tuple[int, ...]:
    """Return one plain integer per axis, for one or `ndim` of any make.

    Raises:
        GeometryError: something else, another number of entries, or one below `low`.
    """
    entries = _per_axis(name, plain(name, value), ndim)
    for entry in entries:
        if isinstance(entry, (str, tuple)) or entry < low:
            raise GeometryError(f"{name}: got {entries}, expected integers of at least {low}")
    return entries


def _per_axis(name: str, value: Any, ndim: int) -> tuple[Any, ...]:
    entries = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    if len(entries) == 1:
        entries = entries * ndim  # in place, Dynamo of torch 2.11 would not trace it
    if len(entries) != ndim:
        hint = f"; for (before, after) on one axis write ({entries},)" if name == "padding" and ndim == 1 else ""
        raise GeometryError(f"{name}: got {len(entries)} entries {entries}, expected one or {ndim}{hint}")
    return entries


def _sides(entry: Any, total: int) -> tuple[int, int]:
    if entry == "valid":
        return 0, 0
    if entry == "same":
        return total // 2, total - total // 2
    if entry == "causal":
        return total, 0
    if isinstance(entry, str):
        raise GeometryError(f"padding: got {entry!r}, expected one of {_WORDS}, an integer or (before, after)")
    if isinstance(entry, Sequence):
        if len(entry) != 2:
            raise GeometryError(f"padding: got {entry} for one axis, expected (before, after)")
        return entry[0], entry[1]
    return entry, entry
