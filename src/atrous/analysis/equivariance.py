"""Whether shifting the image shifts the output, pixel by pixel.

Legend: B batch, C in, D out, *S input size, *P output size, p output index, t shift in pixels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from atrous._errors import GeometryError, ShapeError
from atrous._table import aligned
from atrous.footprint import Footprint, trace_footprint
from atrous.footprint.graph import ancestors

ROUNDING = 2.0**-40
"""Relative error that is rounding: a double rounds at 2^-53, and thousands of roundings in a row stay below this."""


@dataclass(frozen=True)
class ShiftError:
    """Say how far an output is from the shifted one.

    Args:
        shift: pixels along each axis.
        error: largest absolute difference.
        relative: the same over the largest absolute output.

    Example:
        >>> ShiftError(shift=(1, 0), error=0.0, relative=0.0).exact
        True
    """

    shift: tuple[int, ...]
    error: float
    relative: float

    @property
    def exact(self) -> bool:
        """Whether nothing but rounding is left."""
        return self.relative <= ROUNDING


@dataclass(frozen=True)
class Equivariance:
    """Say what shifting the image does to the output, away from the borders. `equivariance` makes it.

    Args:
        period: pixels along each axis after which the network treats an image alike, by its footprint.
        interior: (start, stop) per axis of the outputs that no padding reaches; among them differences are taken.
        shifts: the errors; along each axis, then along the diagonal.

    Example:
        >>> from atrous.analysis import equivariance
        >>> print(equivariance(torch.nn.Conv1d(1, 1, 3, padding=1), torch.ones(1, 1, 16), 2))
        shift  largest error  relative  exact
            1       0.00e+00  0.00e+00  yes
            2       0.00e+00  0.00e+00  yes
    """

    period: tuple[int, ...]
    interior: tuple[tuple[int, int], ...]
    shifts: tuple[ShiftError, ...]

    @property
    def exact(self) -> bool:
        """Whether every shift is exact."""
        return all(one.exact for one in self.shifts)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain objects, for JSON."""
        return {
            "period": list(self.period),
            "interior": [list(one) for one in self.interior],
            "shifts": [
                {"shift": list(one.shift), "error": one.error, "relative": one.relative, "exact": one.exact}
                for one in self.shifts
            ],
        }

    def __str__(self) -> str:
        rows: list[Sequence[object]] = [("shift", "largest error", "relative", "exact")]
        for one in self.shifts:
            shift = ",".join(map(str, one.shift))
            rows.append((shift, f"{one.error:.2e}", f"{one.relative:.2e}", "yes" if one.exact else "no"))
        return aligned(rows)


def equivariance(model: torch.nn.Module, image: torch.Tensor, max_shift: int = 8) -> Equivariance:
    """Return the error of `model(shift(image))` against `shift(model(image))` for every shift up to `max_shift`.

    Shifts go along each axis and along the diagonal. No pixel is made up: both images are windows of `image`, smaller
    than it by `max_shift`, and only outputs that no padding reaches in either are compared. Where the output moves by S
    pixels of the image, only multiples of S shift it by whole outputs; the others are left out.

    A copy of the network runs in double precision and evaluation mode. At a multiple of the period the two outputs are
    the same sums, but the order in which terms are added may depend on the place, so they may differ by rounding:
    `exact` allows 2^-40 of the largest output. With whole-numbered weights and images nothing rounds: the error is 0.

    Args:
        model: from (B, C, *S) to (B, D, *P).
        image: (B, C, *S); for a network that takes only some sizes, one of those plus `max_shift`.
        max_shift: pixels.

    Raises:
        GeometryError: a max_shift below 1 or below the stride, or a network whose outputs do not move along with the
            image at one rate.
        ShapeError: an image that leaves nothing to compare, or an output that is not (B, D, *P).
        UnsupportedModule: a network whose footprint is not known.

    Example:
        >>> image = torch.randn(1, 1, 36, generator=torch.Generator().manual_seed(0))
        >>> dilated = torch.nn.Conv1d(1, 1, 3, dilation=2, padding=2)
        >>> pooled = torch.nn.Sequential(torch.nn.MaxPool1d(2), torch.nn.Upsample(scale_factor=2))
        >>> equivariance(dilated, image, 4).exact
        True
        >>> found = equivariance(pooled, image, 4)
        >>> found.period, [one.exact for one in found.shifts]
        ((2,), [False, True, False, True])
    """
    axes = image.ndim - 2
    if max_shift < 1:
        raise GeometryError(f"equivariance: got max_shift={max_shift}, expected at least 1 pixel")
    if axes < 1 or min(image.shape[2:]) <= max_shift:
        raise ShapeError(
            f"equivariance: got an image of shape {tuple(image.shape)}, expected (B, C, *S) with more than "
            f"max_shift={max_shift} pixels along each axis"
        )
    network, image = copy.deepcopy(model).double().eval(), image.double()
    size = [pixels - max_shift for pixels in image.shape[2:]]
    fp = trace_footprint(network, window(image, [0] * axes, size))
    rates, inner = rates_of(fp, "equivariance"), interior(fp)
    moves = _moves(rates, max_shift)
    if not moves:
        least = min(rate.numerator for rate in rates)
        raise GeometryError(
            f"equivariance: got max_shift={max_shift}, expected at least {least}, to shift by a whole output"
        )
    widest = [max(whole[axis] for whole in moves.values()) for axis in range(axes)]
    _check_compared(image, inner, widest)
    with torch.no_grad():
        base = first_output(network(window(image, [0] * axes, size)))
        scale = float(_part(base, inner).abs().max())
        found = []
        for shift, whole in moves.items():
            shifted = first_output(network(window(image, shift, size)))
            here = [(start, stop - q) for (start, stop), q in zip(inner, whole, strict=True)]
            there = [(start + q, stop) for (start, stop), q in zip(inner, whole, strict=True)]
            error = float((_part(shifted, here) - _part(base, there)).abs().max())
            found.append(ShiftError(shift, error, error / scale if scale else 0.0))
    return Equivariance(period(fp), inner, tuple(found))


def _check_compared(image: torch.Tensor, inner: Sequence[tuple[int, int]], widest: Sequence[int]) -> None:
    for axis, (whole, far) in enumerate(zip(inner, widest, strict=True)):
        if whole[1] - whole[0] <= far:
            raise ShapeError(
                f"equivariance: got {image.shape[axis + 2]} pixels along axis {axis}, where {unpadded(whole)}, "
                f"expected more than {far} such outputs, to shift by up to {far}; "
                "give a larger image or a lower max_shift"
            )


def unpadded(outputs: tuple[int, int]) -> str:
    """Return in words which outputs read no padding.

    Example:
        >>> unpadded((4, 16)), unpadded((3, 3))
        ('outputs 4 to 15 read no padding', 'every output reads padding')
    """
    start, stop = outputs
    return f"outputs {start} to {stop - 1} read no padding" if start < stop else "every output reads padding"


def interior(fp: Footprint) -> tuple[tuple[int, int], ...]:
    """Return per axis the range (start, stop) of outputs around the middle that no padding reaches, of any layer.

    Example:
        >>> interior(trace_footprint(torch.nn.Conv1d(1, 1, 3, padding=2, dilation=2), torch.zeros(1, 1, 9)))
        ((2, 7),)
    """
    found = []
    for axis, size in enumerate(fp.output_size):
        clear: dict[int, list[bool]] = {}
        for node in ancestors(fp.node):
            alone = [True] * node.sizes[axis]
            for edge in node.edges:
                source, local = clear[id(edge.source)], edge.locals[axis]
                for p in range(len(alone)):
                    alone[p] &= local is not None and all(0 <= at < len(source) and source[at] for at in local.at(p))
            clear[id(node)] = alone
        start = stop = size // 2
        while start and clear[id(fp.node)][start - 1]:
            start -= 1
        while stop < size and clear[id(fp.node)][stop]:
            stop += 1
        found.append((start, stop))
    return tuple(found)


def period(fp: Footprint) -> tuple[int, ...]:
    """Return per axis the pixels after which the network reads the image in the same way again."""
    return tuple(math.lcm(*(taps.step for taps in reach.terms)) for reach in fp.node.reaches)


def rates_of(fp: Footprint, verb: str) -> tuple[Fraction, ...]:
    """Return the stride of outputs (B, D, *P) along each axis.

    Raises:
        GeometryError: no one rate along some axis.
        ShapeError: an output of another form.
    """
    rates = tuple(rate for rate in fp.stride if rate is not None)
    if len(rates) != fp.ndim:
        axis = fp.stride.index(None)
        why, what = (
            ("reads all of it", "its global layer") if fp.globals[axis] else ("has no one stride", "its branches join")
        )
        raise GeometryError(
            f"{verb}: got a network whose output {fp.name} {why} along axis {axis}, "
            f"expected outputs that move along with the image at one rate; pass the part before {what}"
        )
    if fp.node.dims[2:] != tuple((axis,) for axis in range(fp.ndim)):
        raise ShapeError(
            f"{verb}: got an output of shape {fp.node.shape}, expected (B, D, *P) with {fp.ndim} axes in the order of "
            "the image's, of more than one pixel each; give a larger image, or the part before they are moved"
        )
    return rates


def window(image: torch.Tensor, start: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """Return a part of an image (B, C, *S), `size` pixels from `start` on."""
    return _part(image, [(first, first + pixels) for first, pixels in zip(start, size, strict=True)])


def first_output(result: Any) -> torch.Tensor:
    """Return the first tensor of what a network returns."""
    return next(one for one in tree_leaves(result) if isinstance(one, torch.Tensor))


def _part(tensor: torch.Tensor, ranges: Sequence[tuple[int, int]]) -> torch.Tensor:
    whole = [slice(None)] * (tensor.ndim - len(ranges))
    return tensor[(*whole, *(slice(start, stop) for start, stop in ranges))]


def _moves(rates: Sequence[Fraction], max_shift: int) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Return {shift in pixels: shift in outputs} along each axis and the diagonal, where outputs move by whole ones."""
    axes = len(rates)
    directions = [tuple(int(one == axis) for one in range(axes)) for axis in range(axes)]
    directions += [(1,) * axes] if axes > 1 else []
    found = {}
    for direction in directions:
        for t in range(1, max_shift + 1):
            outputs = [t * step / rate for step, rate in zip(direction, rates, strict=True)]
            if all(one.denominator == 1 for one in outputs):
                found[tuple(t * step for step in direction)] = tuple(map(int, outputs))
    return found
