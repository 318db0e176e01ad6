"""The process that computes: `python -m benchmarks.worker`, one JSON request a line in, one answer a line out.

Every competitor runs here, one call at a time, with the same allocator, threads and probe; a crash of one takes this
process down and not the run.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from typing import Any

import torch

from benchmarks.cells import Cell
from benchmarks.competitors import Call, Competitors, MissingOperationsError

PROBE_BYTES = 4 * 2**20
"""Too large for level 2, and a quarter of a level 3 cache of 32 MiB when read and written: what neighbours take of
either the core or the memory shows."""
PROBE_COPIES = (6, 3)
"""Copies not looked at, then copies whose median is the probe. The first ones wait for what a large call before them
left to be written back; measured, that is over after five."""
MAY_BE_SET_UP = 0.05
"""Seconds below which a first call may have been set-up more than work, and is timed again; as is the first of a
competitor in this process."""


class Worker:
    """Answer requests."""

    def __init__(self) -> None:
        self.source = torch.rand(PROBE_BYTES // 4)
        self.target = torch.empty_like(self.source)
        self.competitors = Competitors(None)
        self.calls: dict[tuple[str, str], Call] = {}
        self.truth: dict[str, Any] = {}
        self.seen: set[tuple[str, str]] = set()

    def facts(self) -> dict[str, Any]:
        """Say where this runs."""
        return {
            "torch": torch.__version__,
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
        }

    def cell(self, name: str | None, isa: str) -> dict[str, Any]:
        """Forget the last cell, make the tensors of this one."""
        self.calls.clear()
        self.truth.clear()
        self.competitors = Competitors(None if name is None else Cell.parse(name), isa)
        gc.collect()
        return {}

    def first(self, pass_: str, who: str) -> dict[str, Any]:
        """Make a call, compare its result with that of the judge of the pass, and say how long it takes."""
        # The judge goes first: a call that is wrong may also have written where it should not.
        if pass_ not in self.truth and (judge := self.competitors.judge(pass_)):
            self.truth[pass_] = judge()
        call = self._call(pass_, who)
        start = time.perf_counter()
        result = call()
        seconds = time.perf_counter() - start
        error = None
        if who not in ("copy", "dense", "stream") and not who.endswith("undilated"):
            truth = self.truth.setdefault(pass_, result)
            error = _error(result, truth)
        del result
        if seconds < MAY_BE_SET_UP or (pass_, who) not in self.seen:
            seconds = min(seconds, _time(call, 1))
            self.seen.add((pass_, who))
        return {"seconds": seconds, "error": error}

    def sample(self, pass_: str, who: str, calls: int) -> dict[str, Any]:
        """Time some calls between two probes; a third as many before them bring tensors and code into the caches."""
        call = self._call(pass_, who)
        before = self._probe()
        if calls > 1:
            _time(call, max(1, calls // 3))
        seconds = _time(call, calls)
        return {"seconds": seconds, "before": before, "after": self._probe()}

    def probe(self, times: int) -> dict[str, Any]:
        """Copy a fixed tensor many times."""
        found = sorted(self._probe() for _ in range(times))
        return {"best": found[0], "median": found[times // 2]}

    def _call(self, pass_: str, who: str) -> Call:
        # Also for a sample: after a crash this is another process than the one that made the first call.
        if (pass_, who) not in self.calls:
            self.calls[pass_, who] = self.competitors.make(pass_, who)
        return self.calls[pass_, who]

    def _probe(self) -> float:
        unseen, seen = PROBE_COPIES
        times = [_time(self._copy, 1) for _ in range(unseen + seen)][unseen:]
        return sorted(times)[seen // 2]

    def _copy(self) -> None:
        self.target.copy_(self.source)


def _time(call: Call, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def _error(result: Any, truth: Any) -> float:
    """Return the largest difference, as a share of the largest value of its tensor."""
    if isinstance(result, torch.Tensor):
        result, truth = (result,), (truth,)
    pairs = zip(*([t for t in side if t is not None] for side in (result, truth)), strict=True)
    return max(float((a - b.reshape_as(a)).abs().max() / b.abs().max()) for a, b in pairs)


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    worker = Worker()
    gc.disable()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except (MissingOperationsError, ImportError, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            answer = {"fault": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
