"""What was measured, read as ratios of medians; `who` is one of `competitors.names`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks.cells import TINY, Cell

PASSES = ("forward", "backward")
WAYS = ("routed", "forced")
SLOWER = 0.95
"""Below this, a time over another one counts as slower: more than noise."""
FLAT = 1.15
"""Most that a time may be over that at d = 1."""
NAMED = 6
"""Most timings that a fault is listed with."""
Entry = dict[str, Any]


class Measured:
    """The measurements of one cell, read as ratios; a ratio is None where a side was not measured."""

    def __init__(self, entry: Entry, dense_gflops: float | None) -> None:
        self.entry = entry
        self.cell = Cell.parse(entry["name"])
        self.dense_gflops = dense_gflops
        self.tiny = self.cell == TINY

    def ms(self, pass_: str, who: str) -> float | None:
        """The median time; at d = 1 undilated is the cell itself."""
        found = self.entry[pass_]
        if who not in found and self.cell.dilation == 1:
            who = who.removesuffix("_undilated")
        time: float | None = found.get(who, {}).get("ms")
        return time

    def fault(self, pass_: str, who: str) -> str | None:
        """One word for why there is no time."""
        if "fault" not in (side := self.entry[pass_].get(who, {})):
            return None
        first = side["fault"].partition(" ")[0].strip(",").lower()
        return first if first in ("crash", "wrong") else "refused"

    def over(self, pass_: str, who: str, base: str) -> float | None:
        """How many times longer `base` takes."""
        return ratio(self.ms(pass_, base), self.ms(pass_, who))

    def speedup(self, pass_: str, who: str) -> float | None:
        """Against stock in the same layout; through autograd where a call costs more than its arithmetic."""
        autograd = self.tiny and pass_ == "backward" and who == "routed"
        return self.over(pass_, who, "stock_autograd" if autograd else "stock")

    def better(self, pass_: str, who: str) -> float | None:
        """Against the faster layout of stock."""
        times = [time for base in ("stock", "stock_channels_last") if (time := self.ms(pass_, base))]
        return ratio(min(times, default=None), self.ms(pass_, who))

    def flat(self, pass_: str) -> float | None:
        """How many times longer the forced operations take than at d = 1."""
        return self.over(pass_, "forced_undilated", "forced")

    def widened(self, pass_: str) -> float | None:
        """How many times longer the forced operations take than in float32."""
        return self.over(pass_, "forced_float32", "forced")

    def share(self, pass_: str) -> float | None:
        """Arithmetic of the forced operations, as a share of that of the dense convolution."""
        time = self.ms(pass_, "forced")
        if time is None or not self.dense_gflops:
            return None
        return self.cell.flop * (2 if pass_ == "backward" else 1) / (1e6 * time) / self.dense_gflops

    def copies(self) -> float | None:
        """The forced forward pass, in copies of the input."""
        return self.over("forward", "copy", "forced")

    def noisy(self) -> bool:
        """Whether a competitor has fewer undisturbed samples than wanted."""
        return any(side.get("noisy", False) for pass_ in PASSES for side in self.entry[pass_].values())


def ratio(above: float | None, below: float | None) -> float | None:
    """Return above / below where both are there."""
    return None if above is None or not below else above / below


def ascending(pairs: Iterable[tuple[float | None, Measured]]) -> list[tuple[float, str]]:
    """Return (value, name) where there is a value, in ascending order."""
    return sorted((value, cell.cell.name) for value, cell in pairs if value is not None)


def mean(values: Iterable[float | None]) -> float | None:
    """Return the geometric mean of the values that are there."""
    logs = [math.log(value) for value in values if value]
    return math.exp(sum(logs) / len(logs)) if logs else None


def faults(cells: Sequence[Measured]) -> Iterator[str]:
    """List crashes, refusals and wrong results, which count as not measured."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        for pass_ in (name for name, side in cell.entry.items() if isinstance(side, dict)):
            for who, side in cell.entry[pass_].items():
                if "fault" in side:
                    found.setdefault(side["fault"], []).append(f"{cell.cell.name} {pass_} {who}")
    if found:
        for fault, where in found.items():
            more = f" and {len(where) - NAMED} more" if len(where) > NAMED else ""
            yield f"- {', '.join(where[:NAMED])}{more}: {fault}"
        yield ""


def text(value: float | None, form: str = "") -> str:
    """Return a number as it stands in a table: three digits, if nothing else is wanted."""
    if value is None:
        return "-"
    return format(value, form or (".1f" if value >= 9.95 else ".2f"))
