"""What outputs read along one axis, in integers, and how that composes.

Legend: p output index, q whole periods before it, U period, S step in inputs per period.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import TypeAlias

Offsets: TypeAlias = Mapping[int, int]
"""Input offset: number of paths that lead to it."""


@dataclass(frozen=True)
class Taps:
    """Say which inputs each output reads: `p = q U + phase` reads `q step + offset`, for the offsets of its phase.

    A convolution has one phase; up-sampling by U has U of them; a step of 0 is one place that every output reads.

    Args:
        step: S, inputs from one period of outputs to the next; negative where the axis is turned round.
        phases: for each of the U phases, {offset: number of paths}.

    Example:
        >>> Taps.window(kernel=3, stride=2, dilation=4, before=4)
        Taps(step=2, phases=({-4: 1, 0: 1, 4: 1},))
    """

    step: int
    phases: tuple[Offsets, ...]

    limits: tuple[tuple[int, int] | None, ...] = field(init=False, repr=False, compare=False)
    """The first and the last offset of each phase, ready before anybody asks what a range reads."""

    def __post_init__(self) -> None:
        limits = tuple((min(offsets), max(offsets)) if offsets else None for offsets in self.phases)
        object.__setattr__(self, "limits", limits)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.step, tuple(frozenset(offsets.items()) for offsets in self.phases)))

    @classmethod
    def window(cls, kernel: int, stride: int = 1, dilation: int = 1, before: int = 0) -> Taps:
        """Return the taps of a convolution or pooling, `before` pixels padded before."""
        return cls(stride, ({index * dilation - before: 1 for index in range(kernel)},))

    @classmethod
    def spread(cls, offsets: Iterable[int], stride: int = 1, upsample: int = 1) -> Taps:
        """Return the taps of `tap_conv`: p reads `(p stride + offset) / upsample` where that is whole.

        Example:
            >>> Taps.spread([1, 0, -1, -2], upsample=2)
            Taps(step=1, phases=({0: 1, -1: 1}, {1: 1, 0: 1}))
        """
        period = upsample // math.gcd(stride, upsample)
        phases: list[dict[int, int]] = [{} for _ in range(period)]
        for offset in offsets:
            for phase, found in enumerate(phases):
                at, rest = divmod(phase * stride + offset, upsample)
                if not rest:
                    found[at] = found.get(at, 0) + 1
        return cls(period * stride // upsample, tuple(phases))

    @classmethod
    def sampled(
        cls, scale: Fraction, start: Fraction, reach: Iterable[int], exact: Iterable[int] | None = None
    ) -> Taps:
        """Return the taps of interpolation: p lies at `p scale + start` and reads the pixels `reach` from its floor.

        Where it lies on a pixel, it reads `exact` from it, if that is given.

        Example:
            >>> Taps.sampled(Fraction(1, 2), Fraction(-1, 4), (0, 1))
            Taps(step=1, phases=({-1: 1, 0: 1}, {0: 1, 1: 1}))
        """
        phases = []
        for phase in range(scale.denominator):
            place = phase * scale + start
            near = exact if exact is not None and place.denominator == 1 else reach
            phases.append({math.floor(place) + offset: 1 for offset in near})
        return cls(scale.numerator, tuple(phases))

    @property
    def rate(self) -> Fraction:
        """Inputs from one output to the next."""
        return Fraction(self.step, len(self.phases))

    def of(self, inner: Taps) -> Taps:
        """Return what outputs read of the input of `inner`, whose outputs are what these taps read.

        Example:
            >>> Taps.window(3, before=1).of(Taps.window(3, stride=2))
            Taps(step=2, phases=({-2: 1, -1: 1, 0: 2, 1: 1, 2: 2, 3: 1, 4: 1},))
        """
        return _composed(self, inner)

    def at(self, p: int) -> dict[int, int]:
        """Return {input: number of paths} of output p."""
        q, phase = divmod(p, len(self.phases))
        return {q * self.step + offset: paths for offset, paths in self.phases[phase].items()}

    def span(self, start: int, stop: int) -> tuple[int, int] | None:
        """Return the half-open range from the first to the last input that outputs `start` to `stop` read."""
        ends: list[int] = []
        period = len(self.phases)
        for p in range(start, min(stop, start + period)):
            limits = self.limits[p % period]
            if limits is not None:
                first, last = p // period * self.step, (p + (stop - 1 - p) // period * period) // period * self.step
                ends += (min(first, last) + limits[0], max(first, last) + limits[1])
        return (min(ends), max(ends) + 1) if ends else None

    def plus(self, other: Taps) -> Taps:
        """Return both sets of taps, of one rate, with the paths added."""
        period = math.lcm(len(self.phases), len(other.phases))
        step = self.step * (period // len(self.phases))
        phases = []
        for phase in range(period):
            found = self.at(phase)
            for place, paths in other.at(phase).items():
                found[place] = found.get(place, 0) + paths
            phases.append(found)
        return Taps(step, tuple(phases))


@lru_cache(maxsize=4096)
def _composed(outer: Taps, inner: Taps) -> Taps:
    period, inner_period = len(outer.phases), len(inner.phases)
    # The least number of outer periods after which the inner phases come round again.
    times = inner_period // math.gcd(outer.step, inner_period)
    phases: list[Offsets] = []
    for p in range(period * times):
        found: dict[int, int] = {}
        for place, paths in outer.at(p).items():
            q, phase = divmod(place, inner_period)
            for offset, more in inner.phases[phase].items():
                at = q * inner.step + offset
                found[at] = found.get(at, 0) + paths * more
        phases.append(dict(sorted(found.items())))
    return Taps(outer.step * times // inner_period * inner.step, tuple(phases))


IDENTITY = Taps(1, ({0: 1},))


@dataclass(frozen=True)
class Reach:
    """What an output reads along one axis of the network's input, by every path.

    Branches of one rate are one list of taps; branches of several rates stay apart, for no period joins them.

    Args:
        terms: taps, one for each rate.
        everything: some path reads the whole axis (a global pooling, attention).
    """

    terms: tuple[Taps, ...] = ()
    everything: bool = False

    def __or__(self, other: Reach) -> Reach:
        terms = {taps.rate: taps for taps in self.terms}
        for taps in other.terms:
            terms[taps.rate] = terms[taps.rate].plus(taps) if taps.rate in terms else taps
        return Reach(tuple(terms.values()), self.everything or other.everything)

    def through(self, local: Taps | None) -> Reach:
        """Return the reach of a layer behind this one, which reads it by `local`; None reads everything."""
        if local is None:
            return EVERYTHING if self else self
        if local == IDENTITY:
            return self
        return Reach(tuple(local.of(taps) for taps in self.terms), self.everything)

    def __bool__(self) -> bool:
        return bool(self.terms) or self.everything

    @property
    def rate(self) -> Fraction | None:
        """Inputs from one output to the next, where all paths agree on one that is above 0."""
        rates = {taps.rate for taps in self.terms}
        return rates.pop() if len(rates) == 1 and not self.everything and min(rates) > 0 else None

    def at(self, p: int) -> dict[int, int]:
        """Return {input: number of paths} of output p, without what reads everything."""
        found: dict[int, int] = {}
        for taps in self.terms:
            for place, paths in taps.at(p).items():
                found[place] = found.get(place, 0) + paths
        return dict(sorted(found.items()))

    def span(self, start: int, stop: int) -> tuple[int, int] | None:
        """Return the half-open range of inputs that outputs `start` to `stop` read, without what reads everything."""
        spans = [span for taps in self.terms if (span := taps.span(start, stop))]
        return (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None


EVERYTHING = Reach(everything=True)
