"""Whole models before and after `atrous.accelerate`: `build/oracles/bin/python -m benchmarks.models`.

timm's models need the environment of `make test-oracles`; the others are defined here. Each line of the table has a
process of its own, because torch crashes on some of them in bfloat16.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

import atrous
from benchmarks.turns import medians

Model = tuple[Callable[[], nn.Module], tuple[int, ...]]


def _separable(conv: type[nn.Module], channels: int, kernel: int, dilations: tuple[int, ...]) -> Iterator[nn.Module]:
    for dilation in dilations:
        padding = dilation * (kernel - 1) // 2
        yield conv(channels, channels, kernel, padding=padding, dilation=dilation, groups=channels)
        yield conv(channels, channels, 1)
        yield nn.ReLU()


def _tcn() -> nn.Module:
    return nn.Sequential(nn.Conv1d(1, 128, 1), *_separable(nn.Conv1d, 128, 3, tuple(2**i for i in range(9))))


def _video() -> nn.Module:
    return nn.Sequential(nn.Conv3d(3, 32, 1), *_separable(nn.Conv3d, 32, 3, (1, 2, 1, 2)))


@cache
def _prepare() -> object:
    return runpy.run_path(str(Path(__file__).parents[1] / "tests" / "oracles" / "conftest.py"))


def _timm(name: str, **options: object) -> nn.Module:
    _prepare()
    import timm  # type: ignore[import-not-found]

    model: nn.Module = timm.create_model(name, **options)
    return model


MODELS: dict[str, Model] = {
    "ConvNeXt-T": (lambda: _timm("convnext_tiny"), (3, 224, 224)),
    "MobileNetV2, output stride 8": (
        lambda: _timm("mobilenetv2_100", features_only=True, output_stride=8),
        (3, 224, 224),
    ),
    "TCN, 9 depthwise blocks": (_tcn, (1, 8000)),
    "3-D net, 4 depthwise blocks": (_video, (3, 16, 56, 56)),
}


def _infer(model: nn.Module, input: torch.Tensor) -> None:
    with torch.inference_mode():
        model(input)


def _train(model: nn.Module, input: torch.Tensor) -> None:
    output = model(input)
    outputs = output if isinstance(output, (list, tuple)) else [output]
    torch.stack([one.square().mean() for one in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    model.zero_grad()


def compare(name: str, dtype: str, last: bool, batch: int, compiled: bool, samples: int) -> list[tuple[float, float]]:
    """Return the median seconds of stock and accelerated inference, and of a training step, taken in turns."""
    make, shape = MODELS[name]
    torch.manual_seed(0)
    stock, input = make().to(getattr(torch, dtype)), torch.randn(batch, *shape).to(getattr(torch, dtype))
    if last:
        layout = torch.channels_last if len(shape) == 3 else torch.channels_last_3d
        stock, input = stock.to(memory_format=layout), input.to(memory_format=layout)  # type: ignore[call-overload]
    models = stock, atrous.accelerate(copy.deepcopy(stock)).model
    found = []
    for run, training in ((_infer, False), (_train, True)):
        runs = [one.train(training) for one in models]
        if compiled:
            torch.compiler.reset()
            runs = [torch.compile(one) for one in runs]  # type: ignore[misc]
        calls = {name: partial(run, one, input) for name, one in zip(("stock", "ours"), runs, strict=True)}
        times = medians(calls, samples, math.inf)
        found.append((times["stock"], times["ours"]))
    return found


def _line(name: str, dtype: str, last: bool, batch: int, compiled: bool, samples: int) -> str:
    """Return one line of the table, timed in a process of its own."""
    arguments = json.dumps([name, dtype, last, batch, compiled, samples])
    # All memory on one heap: else fresh pages of large tensors cost more than some layers, by luck.
    heap = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": str(2**28)}
    command = [sys.executable, "-m", "benchmarks.models", "--one", arguments]
    done = subprocess.run(command, env={**os.environ, **heap}, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        cells = "crash | | | | | "
    elif done.returncode:
        raise SystemExit(done.stderr)
    else:
        pairs = json.loads(done.stdout.splitlines()[-1])
        cells = " | ".join(f"{a * 1e3:.1f} | {b * 1e3:.1f} | {a / b:.2f}" for a, b in pairs)
    how = ("channels_last" if last else "contiguous") + (", compiled" if compiled else "")
    return f"| {name} | {dtype} | {how} | {batch} | {cells} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=7, help="of each median")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=[*MODELS])
    parser.add_argument("--dtypes", nargs="*", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--compile", action="store_true", help="under torch.compile, instead of eager")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(compare(*json.loads(options.one))))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; milliseconds, torch / atrous.\n")
    print("| model | dtype | how | batch | inference torch | atrous | | training step torch | atrous | |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in options.models:
        for dtype in options.dtypes:
            for last in (False, True)[: 1 + (len(MODELS[name][1]) > 2)]:
                for batch in options.batches:
                    print(_line(name, dtype, last, batch, options.compile, options.samples), flush=True)


if __name__ == "__main__":
    main()
