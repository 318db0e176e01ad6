"""What serves tensors on a GPU, held to the tables of cases, and what depthwise convolutions take there.

`benchmarks/gpu.sh` installs the package and runs this: `python -m benchmarks.gpu --help`.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise

import torch

import atrous
from atrous import functional
from atrous.testing import CONV_CASES, TAP_CASES, ConvCase, TapCase, assert_within_budget
from benchmarks.cells import Cell
from benchmarks.competitors import Call, Competitors

SHAPES = ((64, 96, 56), (64, 384, 14), (8, 256, 65), (1, 64, 512))
"""(N, C, H): planes of classifiers in training, one that no vector divides, and a large one."""
CELLS = tuple(Cell(shape, k, d) for shape in SHAPES for k in (3, 7) for d in (1, 2, 4, 16))
QUICK = (Cell((2, 8, 9), 3, 1), Cell((2, 8, 9), 3, 2))
DTYPES = ("float32", "float16", "bfloat16")
COLUMNS = {
    "copy": ("forward", "copy"),
    "forward": ("forward", "stock"),
    "forward, channels_last": ("forward", "stock_channels_last"),
    "taps": ("forward", "forced"),
    "taps, channels_last": ("forward", "forced_channels_last"),
    "backward": ("backward", "stock"),
    "backward, channels_last": ("backward", "stock_channels_last"),
    "taps backward": ("backward", "forced"),
    "taps backward, channels_last": ("backward", "forced_channels_last"),
}
"""Title -> pass and competitor, as `benchmarks.competitors` knows them."""

SECONDS = 0.25
"""For the samples of one median; between 3 and 50 are taken."""
FLUSH_BYTES = 2**28
"""Written before every sample on a GPU: more than any second-level cache holds."""

CPU = torch.device("cpu")


def main() -> int:
    """Check the cases, print the table, and say whether every case was within its budget."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a few cases and two small cells")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--cells", nargs="+", default=["*"], metavar="PATTERN", help="only these, as '64x96x56-k7-*'")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu shows that the script runs")
    # float32 means float32, in what is checked and in what is timed.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}; torch {torch.__version__}; atrous {atrous.__version__}\n")
    step = 8 if options.quick else 1
    taps = "triton" if device.type == "cuda" else None
    runs: list[tuple[str, Sequence[ConvCase | TapCase], str | None]] = [
        ("conv", CONV_CASES[::step], None), ("conv", CONV_CASES[::step], taps), ("tap_conv", TAP_CASES[::step], taps)
    ]  # fmt: skip
    failures = [failure for run in runs for failure in check(*run, device)]
    print("", *failures, sep="\n")
    cells = [cell for cell in (QUICK if options.quick else CELLS) if _matches(cell, options.cells)]
    for line in table(cells, options.dtypes, device):
        print(line, flush=True)
    return bool(failures)


def _matches(cell: Cell, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(cell.name, pattern) for pattern in patterns)


def check(verb: str, cases: Sequence[ConvCase | TapCase], backend: str | None, device: torch.device) -> list[str]:
    """Run float32 cases, forward and every gradient, on a device; print who served them, return what is wrong."""
    served: Counter[str] = Counter()
    failures = []
    for case in cases:
        try:
            served[_served(case, device, backend)] += 1
            result = _outcome(case, torch.float32, device, backend)
            reference, exact = (_outcome(case, dtype, CPU, "reference") for dtype in (torch.float32, torch.float64))
            for tensors in zip(result, reference, exact, strict=True):
                assert_within_budget(*tensors, what="error")
        except (AssertionError, RuntimeError) as error:
            failures.append(f"{verb} {case.name}: {error}")
    who = ", ".join(f"{count} by {backends}" for backends, count in served.items())
    print(f"{verb}: {len(cases) - len(failures)} of {len(cases)} cases within their budget; served: {who}", flush=True)
    return failures


def _verb(case: ConvCase | TapCase) -> Callable[..., torch.Tensor]:
    verb: Callable[..., torch.Tensor] = getattr(
        functional, "tap_conv" if isinstance(case, TapCase) else f"conv{case.ndim}d"
    )
    return verb


def _tensors(case: ConvCase | TapCase, dtype: torch.dtype, device: torch.device) -> list[torch.Tensor | None]:
    return [tensor if tensor is None else tensor.to(device) for tensor in case.tensors(dtype)]


def _served(case: ConvCase | TapCase, device: torch.device, backend: str | None) -> str:
    """Return which backends run a case."""
    line = atrous.explain(_verb(case), *_tensors(case, torch.float32, device), **case.options, backend=backend)
    found = re.search(r"runs on (.+?),", line)
    return found[1] if found else line


def _outcome(
    case: ConvCase | TapCase, dtype: torch.dtype, device: torch.device, backend: str | None = None
) -> list[torch.Tensor]:
    """Return the output and every gradient of a case, on the CPU."""
    tensors = _tensors(case, dtype, device)
    leaves = [t.requires_grad_() for t in tensors if t is not None and t.is_floating_point()]
    output = _verb(case)(*tensors, **case.options, backend=backend)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(output, leaves, grad.to(device, dtype))
    return [tensor.detach().cpu() for tensor in (output, *gradients)]


def table(cells: Sequence[Cell], dtypes: Sequence[str], device: torch.device) -> Iterator[str]:
    """Yield the lines of a Markdown table: medians in milliseconds."""
    yield "Milliseconds of torch's own depthwise convolutions and of taps, contiguous where nothing else is said;"
    yield "*copy* is of the input into another tensor, a forward pass with nothing to compute."
    yield ""
    yield "| cell | dtype | " + " | ".join(COLUMNS) + " |"
    yield "|---" * (2 + len(COLUMNS)) + "|"
    for cell in cells:
        for dtype in dtypes:
            calls = Competitors(cell)
            calls.tensors = [tensor.to(device, getattr(torch, dtype)) for tensor in calls.tensors]
            times = (median_ms(calls.make(pass_, who), device) for pass_, who in COLUMNS.values())
            yield f"| {cell.name} | {dtype} | " + " | ".join(f"{ms:.4f}" for ms in times) + " |"


def median_ms(call: Call, device: torch.device) -> float:
    """Return the median time of a call, after two that load and choose what it needs."""
    timer = _gpu_ms if device.type == "cuda" else _cpu_ms
    first = timer(call, 2)[-1]
    return statistics.median(timer(call, min(50, max(3, int(1e3 * SECONDS / first)))))


def _cpu_ms(call: Call, samples: int) -> list[float]:
    times = [time.perf_counter()]
    for _ in range(samples):
        call()
        times.append(time.perf_counter())
    return [1e3 * (end - start) for start, end in pairwise(times)]


def _gpu_ms(call: Call, samples: int) -> list[float]:
    """Time with events of the device; the write before each also keeps it busy while the call is being launched."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(samples)]  # type: ignore[no-untyped-call]
    for start, end in events:
        flush.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events]


if __name__ == "__main__":
    sys.exit(main())
