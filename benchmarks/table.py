"""Read results as Markdown; `who` is one of `competitors.names`.

Of `taps`: what was to be reached, averages, and every cell. Of `routes`: every cell, and whether the written table
sends it to the faster side. Of `wide`: what its own module says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from atrous._backends.table import TABLES, TRANSPOSED, find
from benchmarks import wide
from benchmarks.cells import TINY
from benchmarks.results import FLAT, PASSES, SLOWER, WAYS, Entry, Measured, ascending, faults, mean, text


def markdown(results: dict[str, Any]) -> str:
    """Return the tables of every run, the run with one thread first."""
    machine = results["machine"]
    caches = ", ".join(f"{name} {size}" for name, size in machine.get("caches", {}).items())
    lines = [f"{machine['processor']}, {machine.get('cores', '?')} cores; {caches}; {results['date']}.", ""]
    runs = sorted(results["runs"], key=lambda run: run["threads"])
    for run in runs:
        lines += _run(run, results.get("grid"))
    if results.get("grid") == "wide" and [run["threads"] for run in runs] == [1, 2]:
        lines += wide.scaling(*map(_measured, runs))
    return "\n".join(lines)


def _measured(run: Entry) -> list[Measured]:
    return [Measured(entry, run["dense_gflops"]) for entry in run["cells"]]


def _run(run: Entry, grid: str | None) -> Iterator[str]:
    threads = run["threads"]
    yield f"### {threads} thread{'s' if threads > 1 else ''}"
    yield ""
    yield (
        f"torch {run['torch']}, {run['capability']}. Dense 3x3 convolution: {text(run['dense_gflops'], '.0f')} "
        f"GFLOP/s; copy out of the caches: {text(run['copy_gbytes'], '.0f')} GB/s; probe: best "
        f"{run['probe_ms']['best']:.3f} ms, median {run['probe_ms']['median']:.3f}, {run['undisturbed']:.0%} of probes "
        f"within 1.3 of the best. {len(run['cells'])} cells in {run['seconds']:.0f} s."
    )
    yield ""
    cells = _measured(run)
    if grid in ("routes", "wide"):
        yield from _routes(cells) if grid == "routes" else wide.tables(cells)
        yield from faults(cells)
        return
    yield from _acceptance(cells)
    yield from _averages(cells)
    yield from _slowest(cells)
    yield from faults(cells)
    yield from _cells(cells)


def _acceptance(cells: list[Measured]) -> Iterator[str]:
    grid = [cell for cell in cells if not cell.tiny]
    dilated = [cell for cell in grid if cell.cell.dilation > 1]
    yield f"| wanted, over the {len(grid)} cells of the grid that were run | measured | |"
    yield "|---|---|---|"
    for pass_, goal in (("forward", 8.0), ("backward", 18.0)):
        for way in WAYS:
            gain = mean(cell.speedup(pass_, way) for cell in grid)
            yield _verdict(f"{pass_}, {way}: geometric mean of stock / ours at least {goal:.0f}", [(gain, "")], goal)
    for pass_ in PASSES:
        for way in WAYS:
            found = ascending((cell.speedup(pass_, way), cell) for cell in grid)
            yield _verdict(f"{pass_}, {way}: stock / ours at least {SLOWER} in every cell", found, SLOWER)
    for pass_ in PASSES:
        found = ascending((cell.flat(pass_), cell) for cell in dilated)
        yield _verdict(f"{pass_}, forced: time / time at d = 1 at most {FLAT} in every cell", found, FLAT, most=True)
    for pass_ in PASSES:
        found = ascending(
            (cell.share(pass_), cell) for cell in grid if cell.cell.taps >= 49 and cell.cell.shape[2] >= 14
        )
        yield _verdict(f"{pass_}, forced, 49 taps: share of the dense GFLOP/s at least 0.35", found, 0.35)
    found = ascending((cell.copies(), cell) for cell in grid if cell.cell.taps == 9)
    yield _verdict("forward, forced, 9 taps: at most 2 copies of the input", found, 2.0, most=True)
    for pass_ in PASSES:
        found = ascending((cell.speedup(pass_, "routed"), cell) for cell in cells if cell.tiny)
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


def _averages(cells: list[Measured]) -> Iterator[str]:
    yield "Geometric means of stock / ours. *Better layout*: the faster of contiguous and channels_last, over forced;"
    yield "*undilated*: stock at d = 1 in the same layout, over forced."
    yield ""
    grid = [cell for cell in cells if not cell.tiny]
    by_taps: dict[str, list[Measured]] = {}
    by_shape: dict[str, list[Measured]] = {}
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
                row += [text(mean(cell.speedup(pass_, way) for cell in group)) for way in ("forced", "routed")]
                row.append(text(mean(cell.better(pass_, "forced") for cell in group)))
                row.append(text(mean(cell.over(pass_, "forced", "stock_undilated") for cell in group)))
            yield "| " + " | ".join(row) + " |"
        yield ""


def _slowest(cells: list[Measured]) -> Iterator[str]:
    for pass_ in PASSES:
        for way in WAYS:
            found = ascending((cell.speedup(pass_, way), cell) for cell in cells if not cell.tiny)[:5]
            listed = ", ".join(f"{name} {value:.2f}" for value, name in found)
            yield f"- lowest stock / ours, {pass_}, {way}: {listed or 'not measured'}"
    yield ""


def _cells(cells: list[Measured]) -> Iterator[str]:
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
            row += [text(cell.ms(pass_, "forced"), ".3f"), text(cell.ms(pass_, "stock"), ".3f")]
            row += [text(cell.speedup(pass_, "forced")), text(cell.speedup(pass_, "routed"))]
            row += [
                text(cell.better(pass_, "forced")),
                text(cell.flat(pass_), ".2f"),
                text(cell.share(pass_), ".0%"),
            ]
            row += [text(cell.copies(), ".2f")] if pass_ == "forward" else []
        yield "| " + " | ".join(row) + " |"
    yield ""


def _routes(cells: list[Measured]) -> Iterator[str]:
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
        columns = at.ndim, at.inputs, at.outputs, at.taps, at.dilation, at.stride, math.prod(at.output), at.last
        found = find(getattr(torch, at.dtype), *columns, at.transposed)
        chosen = (found.forward, found.backward) if found else ("aten", "aten")
        row = [at.name + (" ~" if cell.noisy() else "")]
        for pass_ in PASSES:
            row += [text(cell.ms(pass_, who), ".3f") for who in ("stock", "forced")]
            row += [text(cell.speedup(pass_, way)) for way in ("forced", "routed")]
        row += [", ".join(chosen), found.cell if found else "-", _side(cell, chosen)]
        yield "| " + " | ".join(row) + " |"
    yield ""
    measured = {cell.cell.name for cell in cells}
    named = dict.fromkeys(row.cell for rows in (*TABLES.values(), *TRANSPOSED.values()) for row in rows)
    if absent := [name for name in named if name not in measured]:
        yield f"Rows of the table whose cell is not among these: {', '.join(absent)}."
        yield ""


def _side(cell: Measured, chosen: Sequence[str]) -> str:
    """Say in which passes the backend that the table chooses is the slower one."""
    sides = {"aten": ("stock", "forced"), "cpu": ("forced", "stock")}
    gains = [cell.over(pass_, *sides[backend]) for pass_, backend in zip(PASSES, chosen, strict=True)]
    if wrong := [pass_ for pass_, gain in zip(PASSES, gains, strict=True) if gain and round(gain, 2) < SLOWER]:
        return f"wrong side: {', '.join(wrong)}"
    return "not measured" if None in gains else "ok"
