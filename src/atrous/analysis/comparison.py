"""How variants of a network compare, each trained from several seeds.

Legend: S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any

from atrous._errors import ShapeError
from atrous._table import aligned


@dataclass(frozen=True)
class Contender:
    """What one variant reached.

    Args:
        title: its name for readers.
        parameters: that learn.
        milliseconds: of a training step; None is not measured.
        scores: under each heading, such as 'clean' or 'noise', one score for each of S seeds, 0 to 1.

    Example:
        >>> contender = Contender("plain", 490, 1.5, {"clean": (0.75, 0.85)})
        >>> round(contender.mean("clean"), 3), round(contender.spread("clean"), 3)
        (0.8, 0.071)
    """

    title: str
    parameters: int
    milliseconds: float | None
    scores: Mapping[str, tuple[float, ...]]

    def mean(self, heading: str) -> float:
        """Return the mean over the seeds."""
        return fmean(self.scores[heading])

    def spread(self, heading: str) -> float:
        """Return the standard deviation over the seeds, with S - 1 below; nan for one seed."""
        scores = self.scores[heading]
        return stdev(scores) if len(scores) > 1 else math.nan


@dataclass(frozen=True)
class Comparison:
    """Say what each of several variants reached; prints as a table, in percent with the spread over the seeds.

    Args:
        contenders: with scores under the same headings.
        measure: what a score is.

    Raises:
        ShapeError: no contender, or headings that differ.

    Example:
        >>> plain = Contender("plain 7x7", 490, 1.5, {"clean": (0.75, 0.85), "noise": (0.5, 0.5)})
        >>> print(Comparison((plain,), "accuracy"))
        accuracy, %  parameters  ms/step  clean         noise
        plain 7x7           490      1.5  80.00 ± 7.07  50.00 ± 0.00
    """

    contenders: tuple[Contender, ...]
    measure: str = field(default="accuracy")

    def __post_init__(self) -> None:
        """Make sure that there is something to compare."""
        headings = {tuple(one.scores) for one in self.contenders}
        if len(headings) != 1 or not all(headings):
            raise ShapeError("Comparison: got contenders without scores under the same headings, expected one or more")

    @property
    def headings(self) -> tuple[str, ...]:
        """What the scores stand under."""
        return tuple(self.contenders[0].scores)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain objects, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [
            (one.title, one.parameters, _time(one.milliseconds), *(_percent(one, heading) for heading in self.headings))
            for one in self.contenders
        ]
        return aligned([(f"{self.measure}, %", "parameters", "ms/step", *self.headings), *rows])


def _time(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.3g}"


def _percent(contender: Contender, heading: str) -> str:
    spread = contender.spread(heading)
    mean = f"{100 * contender.mean(heading):.2f}"
    return mean if math.isnan(spread) else f"{mean} ± {100 * spread:.2f}"
