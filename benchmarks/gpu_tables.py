"""What depthwise convolutions, learned positions and a network of them take on a GPU, beside torch's better layout.

Legend: N batch, C channels, H size, k kernel size, d dilation.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise
from typing import Any

import torch

import atrous
from atrous import Geometry, functional
from atrous._backends.triton.grid import describe
from atrous.models import convnext_tiny, convnext_tiny_dcls
from benchmarks.cells import Cell
from benchmarks.competitors import Call, Competitors

DTYPES = ("float32", "float16", "bfloat16")
SHAPES = ((64, 96, 56), (64, 384, 14), (8, 512, 64))
"""(N, C, H): planes of classifiers in training, and a larger one."""
GROUPS = {
    "k 3, 5, 7": [Cell(shape, k, d) for shape in SHAPES for k in (3, 5, 7) for d in (1, 2, 4, 8, 16)],
    "k 17, 31": [Cell(shape, k, 1) for shape in SHAPES for k in (17, 31)],
    "3-D": [Cell((8, 64, 32), 3, d, ndim=3) for d in (1, 2, 4)],
    "1-D": [Cell((16, 256, 8192), 3, d, ndim=1) for d in (1, 8, 64, 512)],
}
QUICK = {"k 3": [Cell((2, 8, 9), 3, 1), Cell((2, 8, 9), 3, 2)]}
STAGES = ((96, 56), (192, 28), (384, 14), (768, 7))
"""(C, H) of a ConvNeXt for images of 224 x 224."""

SECONDS = 0.25
"""For the samples of one median; between 3 and 50 are taken."""
FLUSH_BYTES = 2**28
"""Written before every sample on a GPU: more than any second-level cache holds."""

LAYOUTS = {"": torch.contiguous_format, "_channels_last": torch.channels_last}


def depthwise(
    groups: Mapping[str, Sequence[Cell]], patterns: Sequence[str], dtypes: Sequence[str], device: torch.device
) -> Iterator[str]:
    """Yield the table of depthwise cells, and what each group comes to."""
    yield "Milliseconds of depthwise convolutions, contiguous / channels last; *copy* is of the input into a tensor."
    yield "Ratios are of the better layouts, torch over taps, for the forward pass and for both passes."
    yield ""
    yield "| cell | dtype | copy | torch forward | taps forward | ratio | torch backward | taps backward | both |"
    yield "|---" * 9 + "|"
    summary = []
    for group, cells in groups.items():
        for dtype in dtypes:
            rows = [_cell(cell, dtype, device) for cell in cells if any(fnmatchcase(cell.name, p) for p in patterns)]
            for line, _, _, _ in rows:
                yield line
            if rows:
                _, forward, both, share = zip(*rows, strict=True)
                means = f"{statistics.geometric_mean(forward):.2f} | {min(forward):.2f} | "
                means += f"{statistics.geometric_mean(both):.2f} | {min(both):.2f} | {min(share):.2f}"
                summary.append(f"| {group} | {dtype} | {means} |")
    yield ""
    yield "| cells | dtype | forward, geometric mean | worst | both, geometric mean | worst | least copy / forward |"
    yield "|---" * 7 + "|"
    yield from summary
    yield ""


def _cell(cell: Cell, dtype: str, device: torch.device) -> tuple[str, float, float, float]:
    """Return the line of a cell, its two ratios, and the time of a copy over that of the taps."""
    window = Geometry.resolve((cell.kernel,) * cell.ndim, 1, cell.padding, cell.dilation, ndim=cell.ndim)
    calls = Competitors(cell, describe(window) if device.type == "cuda" else "")
    calls.tensors = [tensor.to(device, getattr(torch, dtype)) for tensor in calls.tensors]
    copy = median_ms(calls.make("forward", "copy"), device)
    times = {
        (pass_, who): [median_ms(calls.make(pass_, who + layout), device) for layout in LAYOUTS]
        for pass_ in ("forward", "backward")
        for who in ("stock", "forced")
    }
    forward = min(times["forward", "stock"]) / min(times["forward", "forced"])
    both = _step(times, "stock") / _step(times, "forced")
    shown = {key: " / ".join(f"{ms:.4f}" for ms in pair) for key, pair in times.items()}
    cells = [cell.name, dtype, f"{copy:.4f}", shown["forward", "stock"], shown["forward", "forced"], f"{forward:.2f}"]
    cells += [shown["backward", "stock"], shown["backward", "forced"], f"{both:.2f}"]
    return f"| {' | '.join(cells)} |", forward, both, copy / min(times["forward", "forced"])


def _step(times: Mapping[tuple[str, str], Sequence[float]], who: str) -> float:
    """Return forward and backward in the layout in which they are faster together."""
    return min(sum(pair) for pair in zip(times["forward", who], times["backward", who], strict=True))


def spacings(dtypes: Sequence[str], device: torch.device, quick: bool) -> Iterator[str]:
    """Yield the table of layers with learned positions, spread over the window alike, and all that they build."""
    yield "Milliseconds of 34 learned positions in 17 x 17 pixels, depthwise, as taps; ratios over these of the dense"
    yield "kernel and of a plain 7 x 7 on torch's operators, each in its better layout: forward, and both passes."
    yield ""
    yield "| N x C x H | dtype | taps | dense | 7 x 7 | taps, both | dense | 7 x 7 |"
    yield "|---" * 8 + "|"
    for channels, size in ((8, 9),) if quick else STAGES:
        for dtype in dtypes:
            shape = 2 if quick else 64, channels, size, size
            layers = _layers(shape, getattr(torch, dtype), device)
            times = []
            for pass_ in (_forward, _both):
                best = {
                    name: min(
                        median_ms(partial(pass_, layer, image), device) for image in _images(shape, dtype, device)
                    )
                    for name, layer in layers.items()
                }
                times += [f"{best['taps']:.4f}", *(f"{best[name] / best['taps']:.2f}" for name in ("dense", "7 x 7"))]
            yield f"| {'x'.join(map(str, shape[:3]))} | {dtype} | {' | '.join(times)} |"
    yield ""


Layer = Callable[[torch.Tensor], torch.Tensor]


def _layers(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> dict[str, Layer]:
    """Return the layers that compete."""
    channels = shape[1]
    torch.manual_seed(0)
    elements, positions = torch.randn(channels, 1, 34), 17 * torch.rand(2, channels, 1, 34) - 8.5
    weight, plain = elements.to(device, dtype).requires_grad_(), torch.randn(channels, 1, 7, 7)
    places, small = positions.to(device).requires_grad_(), plain.to(device, dtype).requires_grad_()
    options: dict[str, Any] = {"dilated_kernel_size": 17, "padding": "same", "groups": channels}

    def spaced(backend: str, image: torch.Tensor) -> torch.Tensor:
        return functional.dcls_conv2d(image, weight, places, **options, backend=backend)

    taps = "triton" if device.type == "cuda" else "cpu"
    return {
        "taps": partial(spaced, taps),
        "dense": partial(spaced, "aten"),
        "7 x 7": lambda image: torch.nn.functional.conv2d(image, small, padding=3, groups=channels),
    }


def _images(shape: Sequence[int], dtype: str, device: torch.device) -> list[torch.Tensor]:
    image = torch.randn(*shape, dtype=getattr(torch, dtype), device=device)
    return [image.to(memory_format=layout).requires_grad_() for layout in LAYOUTS.values()]


def _forward(layer: Layer, image: torch.Tensor) -> None:
    with torch.no_grad():
        layer(image)


def _both(layer: Layer, image: torch.Tensor) -> None:
    output = layer(image)
    output.backward(torch.ones_like(output))  # type: ignore[no-untyped-call]


def network(device: torch.device, quick: bool) -> Iterator[str]:
    """Yield what a training step of a ConvNeXt-T takes under autocast, with torch's layers and tuned."""
    size, batch = (32, 2) if quick else (224, 64)
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    yield f"Milliseconds of a training step, {batch} images of {size} x {size}, channels last, autocast to bfloat16."
    yield ""
    yield "| network | torch | tuned |"
    yield "|---" * 3 + "|"
    for name, make in (("ConvNeXt-T", convnext_tiny), ("ConvNeXt-T with learned positions", convnext_tiny_dcls)):
        torch.manual_seed(0)
        model = make(1000).to(device)

        def step(model: torch.nn.Module = model) -> None:
            with torch.autocast(device.type, torch.bfloat16):
                model(images).square().mean().backward()

        before = median_ms(step, device)
        with torch.autocast(device.type, torch.bfloat16):
            tuning = atrous.tune(model, images)
        yield f"| {name} | {before:.2f} | {median_ms(step, device):.2f} |"
        details = str(tuning)
        yield from () if quick else ("", "```text", details, "```", "")


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
