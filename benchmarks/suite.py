"""Run a grid and write what was measured as JSON."""

from __future__ import annotations

import json
import platform
import re
import sys
import time
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from atrous._files import whole_file, writable_folder
from benchmarks.cells import Cell, choose
from benchmarks.competitors import DENSE_FLOP, MASKS, STREAM_BYTES, names
from benchmarks.measure import Policy, Session, measure_pass
from benchmarks.results import PASSES

POLICIES = {"wide": Policy(counted=5, few=2, batch=0.001, tries=3, cap=2.0)}
"""Grid -> how much is measured, where that is not the usual."""


def add_arguments(parser: ArgumentParser, grid: str) -> None:
    """Add the options of `python -m benchmarks taps`, `routes` or `wide`."""
    parser.set_defaults(grid=grid)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the results go")
    parser.add_argument("--cells", nargs="+", default=[], metavar="PATTERN", help="only these, as '8x96x56-k7-*'")
    parser.add_argument("--threads", nargs="+", type=int, default=[1], metavar="N", help="default: 1")
    if grid == "taps":
        parser.add_argument("--quick", action="store_const", const="quick", dest="grid", help="a few small cells")
    parser.add_argument("--split", action="store_true", help="each gradient of the backward pass alone, too")
    parser.add_argument("--isa", default="", help="instruction path of the forced operations (default: the best)")
    cap = POLICIES.get(grid, Policy()).cap
    parser.add_argument("--cap", type=float, default=cap, metavar="S", help="seconds for a pass of a cell")


def run(options: Namespace) -> dict[str, Any]:
    """Measure; write the file; return what stands in it.

    Raises:
        DataError: the file cannot be written; raised before any work.
        ValueError: no cell has such a name.
    """
    cells = choose(options.grid, options.cells)
    if not cells:
        raise ValueError(f"--cells: got {options.cells}, expected patterns that match, such as '8x96x56-k7-*'")
    writable_folder(options.json.absolute().parent)
    passes = [*PASSES, *(name for name in MASKS if options.split and name not in PASSES)]
    plan = {cell: {name: names(cell, name, options.grid) for name in passes} for cell in cells}
    policy = replace(POLICIES.get(options.grid, Policy()), cap=options.cap)
    results: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "grid": options.grid,
        "machine": machine(),
        "isa": options.isa,
        "policy": asdict(policy),
        "runs": [],
    }
    for threads in options.threads:
        results["runs"].append(_run(plan, threads, options.isa, policy))
    with whole_file(options.json) as path:
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def _run(plan: dict[Cell, dict[str, list[str]]], threads: int, isa: str, policy: Policy) -> dict[str, Any]:
    start = time.perf_counter()
    session = Session(threads, isa)
    found = []
    try:
        facts = session.ask("facts")
        limits = [_limits(session)]
        # Drawn between cells only: a bar that refreshes itself would take a core from what is timed.
        bar = Progress(
            TextColumn(f"{threads} thread{'s' if threads > 1 else ''} {{task.description}}"),
            BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
            console=Console(stderr=True), auto_refresh=False,
        )  # fmt: skip
        with bar:
            task = bar.add_task("", total=len(plan))
            for cell, passes in plan.items():
                bar.update(task, description=cell.name, refresh=True)
                session.enter(cell)
                entry: dict[str, Any] = {"name": cell.name, **asdict(cell)}
                for name, who in passes.items():
                    entry[name] = measure_pass(session, name, who, policy)
                found.append(entry)
                bar.update(task, advance=1, refresh=True)
                if not bar.console.is_terminal:
                    print(cell.name, *(f"{name}: {_line(entry[name])}" for name in passes), sep="  ", file=sys.stderr)
        limits.append(_limits(session))
    finally:
        session.close()
    probes = sorted(session.probes)
    return {
        **facts,
        "seconds": time.perf_counter() - start,
        "dense_gflops": _rate(limits, "dense", DENSE_FLOP),
        "copy_gbytes": _rate(limits, "stream", 2 * STREAM_BYTES),
        "limits": limits,
        "probe_ms": {"best": 1e3 * session.best, "median": 1e3 * probes[len(probes) // 2]},
        "undisturbed": sum(probe <= policy.ratio * session.best for probe in probes) / len(probes),
        "cells": found,
    }


def _limits(session: Session) -> dict[str, Any]:
    session.enter(None)
    return measure_pass(session, "machine", names(None, "machine", ""), Policy(counted=11, few=11))


def _rate(limits: list[dict[str, Any]], who: str, work: float) -> float | None:
    """Return work per nanosecond, at the start or at the end of the run, whichever is more: it is a ceiling."""
    times = [entry[who]["ms"] for entry in limits if "ms" in entry[who]]
    return work / (1e6 * min(times)) if times else None


def _line(found: dict[str, dict[str, Any]]) -> str:
    return " ".join(
        f"{who} {entry['ms']:.3g}" if "ms" in entry else f"{who} ({entry['fault']})" for who, entry in found.items()
    )


def machine() -> dict[str, Any]:
    """Name the processor, its flags for vectors and its caches, as far as the system tells."""
    facts: dict[str, Any] = {"system": platform.platform(), "processor": platform.processor()}
    path = Path("/proc/cpuinfo")
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        if model := re.search(r"model name\s*:\s*(.*)", text):
            facts["processor"] = model[1]
        if flags := re.search(r"flags\s*:\s*(.*)", text):
            facts["flags"] = [flag for flag in flags[1].split() if re.match(r"avx|fma|f16c|amx", flag)]
        facts["cores"] = len(re.findall(r"^processor\s*:", text, re.MULTILINE))
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text(encoding="utf-8").strip() for name in ("level", "type", "size"))
        facts.setdefault("caches", {})[f"L{level} {kind}"] = size
    return facts
