"""Read results as Markdown; `who` is one of `competitors.names`.

Of `taps`: what was to be reached, averages, and every cell. Of `routes`: every cell, and whether the written table
sends it to the faster side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from atrous._backends.table import TABLE, find
from benchmarks.cells import TINY, Cell

PASSES = ("forward", "backward")
WAYS = ("routed", "forced")
WORST_ERROR = 1e-3
SLOWER = 0.95
"""Below this, a time over another one counts as slower: more than noise."""
Entry = dict[str, Any]


def markdown(results: dict[str, Any]) -> str:
    """Return the tables of every run, the run with one thread first."""
    machine = results["machine"]
    caches = ", ".join(f"{name} {size}" for name, size in machine.get("caches", {}).items())
    lines = [f"{machine['processor']}, {machine.get('cores', '?')} cores; {caches}; {results['date']}.", ""]
    for run in sorted(results["runs"], key=lambda run: run["threads"]):
        lines += _run(run, results.get("grid") == "routes")
    return "\n".join(lines)


def _run(run: Entry, routes: bool) -> Iterator[str]:
    threads = run["threads"]
    yield f"### {threads} thread{'s' if threads > 1 else ''}"
    yield ""
    yield (
        f"torch {run['torch']}, {run['capability']}. Dense 3x3 convolution: {_text(run['dense_gflops'], '.0f')} "
        f"GFLOP/s; copy out of the caches: {_text(run['copy_gbytes'], '.0f')} GB/s; probe: best "
        f"{run['probe_ms']['best']:.3f} ms, median {run['probe_ms']['median']:.3f}, {run['undisturbed']:.0%} of probes "
        f"within 1.3 of the best. {len(run['cells'])} cells in {run['seconds']:.0f} s."
    )
    yield ""
    cells = [_Cell(entry, run["dense_gflops"]) for entry in run["cells"]]
    if routes:
        yield from _routes(cells)
        yield from _faults(cells)
        return
    yield from _acceptance(cells)
    yield from _averages(cells)
    yield from _slowest(cells)
    yield from _faults(cells)
    yield from _cells(cells)


class _Cell:
    """The measurements of one cell, read as ratios; a ratio is None where a side was not measured."""

    def __init__(self, entry: Entry, dense_gflops: float | None) -> None:
        self.entry = entry
        self.cell = Cell.parse(entry["name"])
        self.dense_gflops = dense_gflops
        self.tiny = self.cell == TINY

    def ms(self, pass_: str, who: str) -> float | None:
        """The median time of correct results; at d = 1 undilated is the cell itself."""
        found = self.entry[pass_]
        if who not in found and self.cell.dilation == 1:
            who = who.removesuffix("_undilated")
        side = found.get(who, {})
        time: float | None = None if _wrong(side) else side.get("ms")
        return time

    def over(self, pass_: str, who: str, base: str) -> float | None:
        """How many times longer `base` takes."""
        return _ratio(self.ms(pass_, base), self.ms(pass_, who))

    def speedup(self, pass_: str, who: str) -> float | None:
        """Against stock in the same layout; through autograd where a call costs more than its arithmetic."""
        autograd = self.tiny and pass_ == "backward" and who == "routed"
        return self.over(pass_, who, "stock_autograd" if autograd else "stock")

    def better(self, pass_: str, who: str) -> float | None:
        """Against the faster layout of stock."""
        times = [time for base in ("stock", "stock_channels_last") if (time := self.ms(pass_, base))]
        return _ratio(min(times, default=None), self.ms(pass_, who))

    def flat(self, pass_: str) -> float | None:
        """How many times longer the forced operations take than at d = 1."""
        return self.over(pass_, "forced_undilated", "forced")

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


def _wrong(side: Entry) -> bool:
    error = side.get("error")
    return error is not None and not error <= WORST_ERROR  # NaN is wrong too


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def _sorted(pairs: Iterable[tuple[float | None, _Cell]]) -> list[tuple[float, str]]:
    """Return (value, name) where there is a value, in ascending order."""
    return sorted((value, cell.cell.name) for value, cell in pairs if value is not None)


def _mean(values: Iterable[float | None]) -> float | None:
    logs = [math.log(value) for value in values if value]
    return math.exp(sum(logs) / len(logs)) if logs else None


def _acceptance(cells: list[_Cell]) -> Iterator[str]:
    grid = [cell for cell in cells if not cell.tiny]
    dilated = [cell for cell in grid if cell.cell.dilation > 1]
    yield f"| wanted, over the {len(grid)} cells of the grid that were run | measured | |"
    yield "|---|---|---|"
    for pass_, goal in (("forward", 8.0), ("backward", 18.0)):
        for way in WAYS:
            mean = _mean(cell.speedup(pass_, way) for cell in grid)
            yield _verdict(f"{pass_}, {way}: geometric mean of stock / ours at least {goal:.0f}", [(mean, "")], goal)
    for pass_ in PASSES:
        for way in WAYS:
            found = _sorted((cell.speedup(pass_, way), cell) for cell in grid)
            yield _verdict(f"{pass_}, {way}: stock / ours at least {SLOWER} in every cell", found, SLOWER)
    for pass_ in PASSES:
        found = _sorted((cell.flat(pass_), cell) for cell in dilated)
        yield _verdict(f"{pass_}, forced: time / time at d = 1 at most 1.15 in every cell", found, 1.15, most=True)
    for pass_ in PASSES:
        found = _sorted((cell.share(pass_), cell) for cell in grid if cell.cell.taps >= 49 and cell.cell.shape[2] >= 14)
        yield _verdict(f"{pass_}, forced, 49 taps: share of the dense GFLOP/s at least 0.35", found, 0.35)
    found = _sorted((cell.copies(), cell) for cell in grid if cell.cell.taps == 9)
    yield _verdict("forward, forced, 9 taps: at most 2 copies of the input", found, 2.0, most=True)
    for pass_ in PASSES:
        found = _sorted((cell.speedup(pass_, "routed"), cell) for cell in cells if cell.tiny)
        yield _verdict(f"{pass_}, routed, {TINY.name}: torch / ours at least 1", found, 1.0)
    yield ""


def _verdict(wanted: str, found: Sequence[tuple[float | None, str]], goal: float, most: bool = False) -> str:
    """Return a row; `found` ascends, and its worst entry decides."""
    if not found or (worst := found[-1 if most else 0])[0] is None:
        return f"| {wanted} | not measured | |"
    value, name = worst
    fail = [x for x, _ in found if x is not None and (round(x, 2) > goal if most else round(x, 2) < goal)]
    count = f"; {len(fail)} of {len(found)} cells miss it" if fail and len(found) > 1 else ""
    place = f" ({name}{count})" if name else ""
    return f"| {wanted} | {value:.2f}{place} | {'missed' if fail else 'met'} |"


HEAD = (
    "| {} | cells | forward forced | routed | over better layout | over undilated | backward forced | routed "
    "| over better layout | over undilated |\n|---|---|---|---|---|---|---|---|---|---|"
)


def _averages(cells: list[_Cell]) -> Iterator[str]:
    yield "Geometric means of stock / ours. *Better layout*: the faster of contiguous and channels_last, over forced;"
    yield "*undilated*: stock at d = 1 in the same layout, over forced."
    yield ""
    grid = [cell for cell in cells if not cell.tiny]
    by_taps: dict[str, list[_Cell]] = {}
    by_shape: dict[str, list[_Cell]] = {}
    for cell in grid:
        entry = cell.cell
        stride = " s2" if entry.stride > 1 else ""
        by_taps.setdefault(f"k{entry.kernel} d{entry.dilation}{stride}", []).append(cell)
        by_shape.setdefault("x".join(map(str, entry.shape)) + stride, []).append(cell)
    for title, groups in (("kernel", by_taps), ("N x C x H", by_shape)):
        yield HEAD.format(title)
        for name, group in (*groups.items(), ("all", grid)):
            row = [name, str(len(group))]
            for pass_ in PASSES:
                row += [_text(_mean(cell.speedup(pass_, way) for cell in group)) for way in ("forced", "routed")]
                row.append(_text(_mean(cell.better(pass_, "forced") for cell in group)))
                row.append(_text(_mean(cell.over(pass_, "forced", "stock_undilated") for cell in group)))
            yield "| " + " | ".join(row) + " |"
        yield ""


def _slowest(cells: list[_Cell]) -> Iterator[str]:
    for pass_ in PASSES:
        for way in WAYS:
            found = _sorted((cell.speedup(pass_, way), cell) for cell in cells if not cell.tiny)[:5]
            listed = ", ".join(f"{name} {value:.2f}" for value, name in found)
            yield f"- lowest stock / ours, {pass_}, {way}: {listed or 'not measured'}"
    yield ""


def _faults(cells: list[_Cell]) -> Iterator[str]:
    """List crashes, refusals and wrong results, which count as not measured."""
    found = []
    for cell in cells:
        for pass_ in (name for name, side in cell.entry.items() if isinstance(side, dict)):
            for who, side in cell.entry[pass_].items():
                if "fault" in side:
                    found.append(f"- {cell.cell.name} {pass_} {who}: {side['fault']}")
                elif _wrong(side):
                    found.append(f"- {cell.cell.name} {pass_} {who}: WRONG, off by {side['error']:.1e} of the maximum")
    if found:
        yield from (*found, "")


def _cells(cells: list[_Cell]) -> Iterator[str]:
    yield "Every cell: stock / ours as forced, as routed, forced against the better layout; time over that at d = 1;"
    yield "share of the dense GFLOP/s; forward time in copies of the input. A `~` marks a cell with too few undisturbed"
    yield "samples."
    yield ""
    yield (
        "| cell | forward ms | stock ms | forced | routed | better | flat | share | copies "
        "| backward ms | stock ms | forced | routed | better | flat | share |"
    )
    yield "|---" * 16 + "|"
    for cell in cells:
        row = [cell.cell.name + (" ~" if cell.noisy() else "")]
        for pass_ in PASSES:
            row += [_text(cell.ms(pass_, "forced"), ".3f"), _text(cell.ms(pass_, "stock"), ".3f")]
            row += [_text(cell.speedup(pass_, "forced")), _text(cell.speedup(pass_, "routed"))]
            row += [
                _text(cell.better(pass_, "forced")),
                _text(cell.flat(pass_), ".2f"),
                _text(cell.share(pass_), ".0%"),
            ]
            row += [_text(cell.copies(), ".2f")] if pass_ == "forward" else []
        yield "| " + " | ".join(row) + " |"
    yield ""


def _routes(cells: list[_Cell]) -> Iterator[str]:
    yield "*Taps* are the forced operations, *routed* is what atrous ran when this was timed. *Table*: who runs forward"
    yield "and backward by the written table as it is now. *Wrong side*: the time of the other backend is below"
    yield f"{SLOWER} of that of the chosen one. A `~` marks a cell with too few undisturbed samples."
    yield ""
    yield (
        "| cell | forward torch ms | taps ms | torch / taps | torch / routed "
        "| backward torch ms | taps ms | torch / taps | torch / routed | table | its row | verdict |"
    )
    yield "|---" * 12 + "|"
    for cell in cells:
        at = cell.cell
        found = find(at.ndim, at.inputs, at.outputs, at.taps, at.dilation, at.stride, math.prod(at.output), at.last)
        chosen = (found.forward, found.backward) if found else ("aten", "aten")
        row = [at.name + (" ~" if cell.noisy() else "")]
        for pass_ in PASSES:
            row += [_text(cell.ms(pass_, who), ".3f") for who in ("stock", "forced")]
            row += [_text(cell.speedup(pass_, way)) for way in ("forced", "routed")]
        row += [", ".join(chosen), found.cell if found else "-", _side(cell, chosen)]
        yield "| " + " | ".join(row) + " |"
    yield ""
    measured = {cell.cell.name for cell in cells}
    if absent := [row.cell for row in TABLE if row.cell not in measured]:
        yield f"Rows of the table whose cell is not among these: {', '.join(absent)}."
        yield ""


def _side(cell: _Cell, chosen: Sequence[str]) -> str:
    """Say in which passes the backend that the table chooses is the slower one."""
    sides = {"aten": ("stock", "forced"), "cpu": ("forced", "stock")}
    gains = [cell.over(pass_, *sides[backend]) for pass_, backend in zip(PASSES, chosen, strict=True)]
    if wrong := [pass_ for pass_, gain in zip(PASSES, gains, strict=True) if gain and round(gain, 2) < SLOWER]:
        return f"wrong side: {', '.join(wrong)}"
    return "not measured" if None in gains else "ok"


def _text(value: float | None, form: str = "") -> str:
    if value is None:
        return "-"
    return format(value, form or (".1f" if value >= 9.95 else ".2f"))
