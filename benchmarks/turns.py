"""Competitors take turns in one process, and each has the median of its times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def medians(runs: Mapping[str, Callable[[], object]], samples: int, enough: float = 3.0) -> dict[str, float]:
    """Return the median seconds of `samples` calls of every competitor, or of at least 3 that took `enough` seconds."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(samples + 1):
        for name, run in runs.items():
            taken = times[name]
            if len(taken) >= 3 and sum(taken) > enough:
                continue
            start = time.perf_counter()
            run()
            if turn:  # the first one warms the caches
                taken.append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}
