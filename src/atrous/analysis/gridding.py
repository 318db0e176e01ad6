"""Which pixels inside of its receptive field an output reads, by how many paths, and which it leaves out.

Legend: N axes, F receptive field in pixels, K kernel size, r dilation of a layer, M distance between taps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from atrous._errors import GeometryError
from atrous._table import aligned
from atrous.footprint import Footprint, Taps, trace_footprint
from atrous.footprint.paths import Paths, paths_of

_LARGEST_WINDOW = 2**24
_EXACT = 2**53  # Up to here floats count one by one.


@dataclass(frozen=True)
class AxisGridding:
    """Say what one output reads along one axis.

    Args:
        paths: for each of the F pixels from the first to the last that is read, the number of paths; 0 is a hole.
        is_global: the output reads the whole axis; then every pixel counts one path.

    Example:
        >>> axis = AxisGridding((1, 0, 2, 0, 1))
        >>> axis.receptive_field, axis.read, axis.holes, axis.coverage
        (5, 3, (1, 3), Fraction(3, 5))
    """

    paths: tuple[int, ...]
    is_global: bool = False

    @property
    def receptive_field(self) -> int:
        """F."""
        return len(self.paths)

    @property
    def read(self) -> int:
        """Number of pixels that are read."""
        return sum(count > 0 for count in self.paths)

    @property
    def holes(self) -> tuple[int, ...]:
        """Pixels that are not read, counted from the first one that is."""
        return tuple(offset for offset, count in enumerate(self.paths) if not count)

    @property
    def coverage(self) -> Fraction:
        """Share of the receptive field that is read; 1 where there is nothing to read."""
        return Fraction(self.read, self.receptive_field) if self.paths else Fraction(1)


@dataclass(frozen=True)
class Gridding:
    """Say which pixels inside of its receptive field an output reads. `gridding` makes it.

    Args:
        axes: one entry per axis.
        joint: the number of paths to each pixel of the window, (F, ...), branches and all; None where an axis is read
            as a whole, or the window is too large to be counted (above 2^24 pixels).

    Example:
        >>> from atrous.analysis import gridding
        >>> print(gridding(torch.nn.Conv1d(1, 1, 3, dilation=2), torch.zeros(1, 1, 9)))
        axis  receptive field  coverage  holes  most paths
           0                5       3/5      2           1
    """

    axes: tuple[AxisGridding, ...]
    joint: Paths | None = field(default=None, repr=False, compare=False)

    @property
    def coverage(self) -> Fraction:
        """Share of the window that is read; without `joint`, the product of the axes, which bounds it from above."""
        if self.joint is not None and self.joint.size:
            return Fraction(int(np.count_nonzero(self.joint)), self.joint.size)
        return math.prod((axis.coverage for axis in self.axes), start=Fraction(1))

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain objects, for JSON."""
        axes = [
            {
                "receptive_field": axis.receptive_field,
                "read": axis.read,
                "coverage": str(axis.coverage),
                "holes": list(axis.holes),
                "paths": list(axis.paths),
                "is_global": axis.is_global,
            }
            for axis in self.axes
        ]
        return {"coverage": str(self.coverage), "axes": axes}

    def __str__(self) -> str:
        rows: list[tuple[object, ...]] = [("axis", "receptive field", "coverage", "holes", "most paths")]
        for index, axis in enumerate(self.axes):
            extent = "all" if axis.is_global else axis.receptive_field
            most = "-" if axis.is_global else max(axis.paths, default=0)
            rows.append((index, extent, _share(axis), len(axis.holes), most))
        if self.joint is not None and self.joint.ndim > 1:
            read, most = np.count_nonzero(self.joint), self.joint.max(initial=0)
            paths = f"{most:.0f}" if most < _EXACT else f"{most:.2e}"
            extent = "x".join(map(str, self.joint.shape))
            holes = self.joint.size - read
            rows.append(("all", extent, f"{read}/{self.joint.size}", holes, paths))
        return aligned(rows)


def gridding(model: torch.nn.Module | ExportedProgram | Footprint, *example_inputs: torch.Tensor) -> Gridding:
    """Return which pixels inside of its receptive field an interior output reads, per axis.

    Coverage is exact: the offsets of a chain of layers add up as sets (a Minkowski sum), and the paths to a pixel are
    counted on the way, along each axis and over all of them. Channels and the borders of the image do not count. Behind
    up-sampling, neighbouring outputs read different patterns: the one of the least coverage counts.

    Args:
        model: any module or exported program, or a footprint, also that of a layer (`footprint.layers[i]`).
        example_inputs: what the network takes; the first is (B, C, *S). None for a footprint.

    Raises:
        UnsupportedModule: a network whose footprint is not known.
        ShapeError: a first input without a spatial axis, or an output that does not depend on it.

    Source: Wang et al. 2018 (arXiv:1702.08502) for the effect and its name.

    Example:
        >>> stack = torch.nn.Sequential(*[torch.nn.Conv2d(1, 1, 3, dilation=2) for _ in range(3)])
        >>> print(gridding(stack, torch.zeros(1, 1, 32, 32)))
        axis  receptive field  coverage  holes  most paths
           0               13      7/13      6           7
           1               13      7/13      6           7
         all            13x13    49/169    120          49
        >>> gridding(stack, torch.zeros(1, 1, 32, 32)).axes[0].paths
        (1, 0, 3, 0, 6, 0, 7, 0, 6, 0, 3, 0, 1)
    """
    footprint = model if isinstance(model, Footprint) else trace_footprint(model, *example_inputs)
    worst = [_worst(footprint, axis) for axis in range(footprint.ndim)]
    axes = tuple(axis for axis, _ in worst)
    counted = not any(footprint.globals) and math.prod(axis.receptive_field for axis in axes) <= _LARGEST_WINDOW
    joint = paths_of(footprint.node, [p for _, p in worst])[1] if counted else None
    return Gridding(axes, joint)


@dataclass(frozen=True)
class Hdc:
    """Set the rule of hybrid dilated convolution beside the true coverage of a chain. `hdc` makes it.

    Args:
        dilations: r_1 ... r_n, in pixels of the first layer's input.
        kernel: K.
        distance: M_2, by the rule the farthest that two taps are apart.
        axis: what an output of the chain truly reads.

    Example:
        >>> from atrous.analysis import hdc
        >>> print(hdc((2, 2, 2)))
        dilations  kernel  M_2  rule    common factor  coverage
        2, 2, 2         3    2  passes              2      7/13
    """

    dilations: tuple[int, ...]
    kernel: int
    distance: int
    axis: AxisGridding

    @property
    def passes(self) -> bool:
        """Whether M_2 is at most K, which is the rule."""
        return self.distance <= self.kernel

    @property
    def common_factor(self) -> int:
        """The greatest common divisor of the dilations, which the rule's authors want to be 1."""
        return math.gcd(*self.dilations)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain objects, for JSON."""
        return {
            "dilations": list(self.dilations),
            "kernel": self.kernel,
            "distance": self.distance,
            "passes": self.passes,
            "common_factor": self.common_factor,
            "receptive_field": self.axis.receptive_field,
            "read": self.axis.read,
            "coverage": str(self.axis.coverage),
        }

    def __str__(self) -> str:
        verdict = "passes" if self.passes else "fails"
        head = ("dilations", "kernel", "M_2", "rule", "common factor", "coverage")
        dilations = ", ".join(map(str, self.dilations))
        return aligned([head, (dilations, self.kernel, self.distance, verdict, self.common_factor, _share(self.axis))])


def hdc(dilations: Sequence[int], kernel: int = 3) -> Hdc:
    """Return what the rule of hybrid dilated convolution says of a chain, beside what the chain truly covers.

    The rule is `M_2 <= K` with `M_n = r_n` and `M_i = max(M_{i+1} - 2 r_i, M_{i+1} - 2 (M_{i+1} - r_i), r_i)`. It is a
    diagnostic, no proof: a chain may pass and leave holes, or fail and leave none. The coverage decides.

    Args:
        dilations: r_1 ... r_n of convolutions of stride 1, the first layer first.
        kernel: K of all of them.

    Raises:
        GeometryError: fewer than two dilations, one below 1, or a kernel below 2.

    Source: Wang et al. 2018 (arXiv:1702.08502), equation 2.

    Example:
        >>> print(hdc((2, 2, 2)))
        dilations  kernel  M_2  rule    common factor  coverage
        2, 2, 2         3    2  passes              2      7/13
    """
    dilations = tuple(dilations)
    if len(dilations) < 2 or min(dilations) < 1 or kernel < 2:
        raise GeometryError(
            f"hdc: got dilations={dilations}, kernel={kernel}, expected two or more dilations of at least 1 and a "
            "kernel of at least 2; leave out layers that read one pixel"
        )
    distance = dilations[-1]
    for dilation in dilations[-2:0:-1]:
        distance = max(distance - 2 * dilation, 2 * dilation - distance, dilation)
    chain = reduce(Taps.of, (Taps.window(kernel, dilation=dilation) for dilation in dilations))
    return Hdc(dilations, kernel, distance, AxisGridding(_dense(chain.at(0))))


def _worst(footprint: Footprint, axis: int) -> tuple[AxisGridding, int]:
    """Return what the output of least coverage reads, of as many neighbours as there are patterns, and which it is."""
    if footprint.globals[axis]:
        return AxisGridding((1,) * footprint.input_size[axis], is_global=True), 0
    period = math.lcm(*(len(taps.phases) for taps in footprint.node.reaches[axis].terms))
    size = footprint.output_size[axis]
    # Rates without a common factor have more patterns than there are outputs.
    neighbours = range(size // 2, size // 2 + period) if period < size else range(size)
    outputs = [(AxisGridding(_dense(footprint.taps(axis, at=p))), p) for p in neighbours]
    return min(outputs, key=lambda output: (output[0].coverage, -output[0].receptive_field))


def _dense(taps: dict[int, int]) -> tuple[int, ...]:
    """Return the paths to each pixel, from those that are read alone and counted from the first."""
    return tuple(taps.get(offset, 0) for offset in range(max(taps, default=-1) + 1))


def _share(axis: AxisGridding) -> str:
    # Not the fraction: 65/65 says more than 1.
    return f"{axis.read}/{axis.receptive_field}"
