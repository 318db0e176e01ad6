"""Measure cells: ask the worker for one sample at a time, interleaved, and keep those that no neighbour disturbed."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cells import TOLERANCES, Cell

ALLOCATOR = {
    # Tensors of every size lie on one heap that is never given back: no competitor pays for fresh pages.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30),
}


@dataclass(frozen=True)
class Policy:
    """How much is measured.

    Args:
        counted: undisturbed samples wanted of each competitor.
        few: and of one whose call takes longer than `slow` seconds; such a sample is one call.
        slow: see `few`.
        batch: seconds that a sample should last; it is never fewer than three calls.
        ratio: a probe may take so many times the best one.
        tries: attempts for each sample wanted.
        cap: seconds for one pass of one cell; every competitor gets one sample whatever it takes.
    """

    counted: int = 7
    few: int = 3
    slow: float = 0.015
    batch: float = 0.0015
    ratio: float = 1.3
    tries: int = 4
    cap: float = 8.0


class CrashError(Exception):
    """The worker died; the text says of what."""


class Session:
    """A worker process with a number of threads.

    Args:
        threads: of torch.
        isa: instruction path of the raw operations, '' for the best.
    """

    def __init__(self, threads: int, isa: str = "") -> None:
        self.threads = threads
        self.isa = isa
        self.best = math.inf
        self.probes: list[float] = []
        self.cell: Cell | None = None
        self._start()

    def _start(self) -> None:
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ALLOCATOR | threads,
            cwd=Path(__file__).parents[1],
        )
        # Another process has other pages, so its probe has another best.
        self.best = math.inf
        self.best = self.ask("probe", times=200)["best"]

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer to one request; if the worker dies of it, start another and raise `CrashError`."""
        line = ""
        if self.process.stdin and self.process.stdout:
            try:
                self.process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
                self.process.stdin.flush()
                line = self.process.stdout.readline()
            except BrokenPipeError:
                pass
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self.process.wait()
        if what in ("probe", "cell"):  # no competitor ran
            raise RuntimeError(f"the worker cannot run: it ended with {code}")
        self._start()
        self.enter(self.cell)
        raise CrashError(f"crash ({signal.Signals(-code).name})" if code < 0 else f"crash (exit {code})")

    def enter(self, cell: Cell | None) -> None:
        """Let the worker make the tensors of a cell; None is the machine."""
        self.cell = cell
        self.ask("cell", name=cell.name if cell else None, isa=self.isa)

    def judge(self, answer: dict[str, Any], ratio: float) -> bool:
        """Say whether both probes around a sample were near the best."""
        probes = (answer["before"], answer["after"])
        self.best = min(self.best, *probes)
        self.probes += probes
        return bool(max(probes) <= ratio * self.best)

    def close(self) -> None:
        """End the worker."""
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait()

    def renew(self) -> None:
        """Go on in another process, in the same cell."""
        self.close()
        self._start()
        self.enter(self.cell)


@dataclass
class _Series:
    calls: int
    wanted: int
    error: float | None
    counted: list[float] = field(default_factory=list)
    tried: list[float] = field(default_factory=list)
    fault: str | None = None

    def done(self, tries: int) -> bool:
        return (
            self.fault is not None
            or len(self.counted) >= self.wanted
            or len(self.tried) >= tries * self.wanted
        )  # fmt: skip

    def summary(self) -> dict[str, Any]:
        if self.fault is not None:
            return {"fault": self.fault}
        # Too few that count: everything speaks, and the mark says so.
        noisy = len(self.counted) < min(3, self.wanted)
        kept = self.tried if noisy else self.counted
        return {
            "ms": 1e3 * statistics.median(kept),
            "least_ms": 1e3 * min(kept),
            "counted": len(self.counted),
            "tried": len(self.tried),
            "calls": self.calls,
            "noisy": noisy or len(self.counted) < self.wanted,
            "error": self.error,
        }


def measure_pass(session: Session, pass_: str, who: list[str], policy: Policy) -> dict[str, dict[str, Any]]:
    """Measure one pass of the cell that the session has entered.

    Args:
        session: where.
        pass_: 'forward', 'backward', ...
        who: the competitors; the first is the judge of correct results.
        policy: how much.

    Returns:
        Competitor -> {"ms": median, "counted", "tried", "noisy", ...}, or {"fault": what happened}: a crash, a refusal
        or a wrong result.
    """
    start = time.perf_counter()
    series = {name: _first(session, pass_, name, policy) for name in who}
    turn = 0
    while True:
        waiting = [name for name in who if not series[name].done(policy.tries)]
        late = time.perf_counter() - start > policy.cap
        if late:
            waiting = [name for name in waiting if not series[name].tried]
        if not waiting:
            return {name: entry.summary() for name, entry in series.items()}
        # Everyone follows everyone in turn.
        shift = turn % len(waiting)
        for name in waiting[shift:] + waiting[:shift]:
            _sample(session, pass_, name, series[name], policy)
        turn += 1


def _first(session: Session, pass_: str, name: str, policy: Policy) -> _Series:
    try:
        answer = session.ask("first", pass_=pass_, who=name)
    except CrashError as crash:
        return _Series(1, 1, None, fault=str(crash))
    if "fault" in answer:
        return _Series(1, 1, None, fault=answer["fault"])
    error, cell = answer["error"], session.cell
    if error is not None and cell and not error <= TOLERANCES[cell.dtype]:  # NaN is wrong too
        if cell.narrow:
            session.renew()  # what torch 2.13 gets wrong in 16 bits it may also write beside its tensors
        return _Series(1, 1, None, fault=f"WRONG, off by {error:.1e} of the maximum")
    seconds = answer["seconds"]
    if seconds > policy.slow:
        return _Series(1, policy.few, error)
    return _Series(max(3, math.ceil(policy.batch / seconds)), policy.counted, error)


def _sample(session: Session, pass_: str, name: str, entry: _Series, policy: Policy) -> None:
    try:
        answer = session.ask("sample", pass_=pass_, who=name, calls=entry.calls)
    except CrashError as crash:
        entry.fault = str(crash)
        return
    if "fault" in answer:
        entry.fault = answer["fault"]
        return
    entry.tried.append(answer["seconds"])
    if session.judge(answer, policy.ratio):
        entry.counted.append(answer["seconds"])
