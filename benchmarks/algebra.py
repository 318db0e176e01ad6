"""Layers that are products of smaller ones beside the dense layers that they are: `python -m benchmarks algebra`.

Everything is float32. A step is forward, and backward to input and parameters; medians of competitors in turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from atrous.nn import Cascade, Conv2d, CPConv2d, DilatedStack, KroneckerConv2d, KroneckerLinear, SeparableConv2d
from benchmarks.results import text
from benchmarks.spacings import BATCH, LAYOUTS, Run, report
from benchmarks.turns import medians

CHANNELS, EXTENT = 64, 56
"""C, and H and W, of the depthwise layers."""
STACKS = (
    (2, 16, 56, 4), (2, 64, 56, 2), (2, 64, 56, 4), (2, 64, 28, 4), (2, 64, 28, 8), (2, 64, 57, 4), (1, 64, 4096, 8),
    (1, 64, 4096, 64), (3, 16, 24, 4),
)  # fmt: skip
"""Axes, channels, extent and dilation of stacks of four dense layers."""


WAYS = ("call", "step")
HOW = {"single": False, "phases": True, "table": None}


def stepper(layer: nn.Module, image: torch.Tensor) -> Run:
    """Return a step of a layer on an image."""
    image = image.detach().requires_grad_()
    with torch.no_grad():
        seed = torch.randn_like(layer(image))

    def step() -> None:
        layer(image).backward(seed)

    return step


def timed(layers: Mapping[str, nn.Module], image: torch.Tensor, samples: int) -> dict[str, tuple[float, float]]:
    """Return milliseconds of inference and of a step, each in the better of two layouts of images."""
    runs: dict[str, Run] = {}
    layouts = LAYOUTS if image.ndim == 4 else {"": torch.contiguous_format}
    for layout, form in layouts.items():
        laid_out = image.to(memory_format=form)
        for name, layer in layers.items():
            runs[f"{name} step{layout}"] = stepper(layer, laid_out)
            runs[f"{name} call{layout}"] = _caller(layer, laid_out)
    times = medians(runs, samples)
    best = {way: {name: min(times[f"{name} {way}{layout}"] for layout in layouts) for name in layers} for way in WAYS}
    return {name: (1e3 * best["call"][name], 1e3 * best["step"][name]) for name in layers}


def _caller(layer: nn.Module, image: torch.Tensor) -> Run:
    def call() -> None:
        with torch.no_grad():
            layer(image)

    return call


def large(samples: int) -> Iterator[list[str]]:
    """Time a depthwise kernel of 27 x 27 pixels, as a product of three and as it is."""
    yield ["27 x 27, depthwise", "weights a channel", "inference ms", "over it", "step ms", "over it"]
    options: Any = {"padding": 13, "groups": CHANNELS, "bias": False}
    layers = {
        "`Cascade`, three 3 x 3": Cascade(CHANNELS, 3, 3, base=3, bias=False),
        "`KroneckerConv2d`, three 3 x 3": KroneckerConv2d(
            CHANNELS, CHANNELS, [(1, 1, 3, 3)] * 3, padding="same", groups=CHANNELS, bias=False
        ),
        "dense, ours": Conv2d(CHANNELS, CHANNELS, 27, **options),
        "dense, torch's": nn.Conv2d(CHANNELS, CHANNELS, 27, **options),
    }
    times = timed(layers, torch.randn(BATCH, CHANNELS, EXTENT, EXTENT), samples)
    first = next(iter(times.values()))
    for name, taken in times.items():
        weights = sum(parameter.numel() for parameter in layers[name].parameters()) // CHANNELS
        columns = [cell for one, base in zip(taken, first, strict=True) for cell in (text(one), text(one / base))]
        yield [name, str(weights), *columns]


def mixing(samples: int) -> Iterator[list[str]]:
    """Time layers that mix channels, as products and as they are."""
    yield ["layer", "parameters, dense / it", "inference, dense / it", "step, dense / it"]
    conv, linear = nn.Conv2d(128, 128, 3, padding=1), nn.Linear(1024, 1024)
    image, rows = torch.randn(BATCH, 128, 28, 28), torch.randn(256, 1024)
    cases: list[tuple[nn.Module, nn.Module, torch.Tensor]] = [
        (conv, KroneckerConv2d.from_conv(conv, [(8, 8, 1, 1), (16, 16, 3, 3)]), image),
        (conv, KroneckerConv2d.from_conv(conv, [(8, 8, 1, 1), (16, 16, 3, 3)], 4), image),
        (conv, KroneckerConv2d.from_conv(conv, [(16, 16, 3, 3), (8, 8, 1, 1)], 4), image),
        (conv, SeparableConv2d.from_conv(conv, 64), image),
        (conv, CPConv2d(128, 128, 3, 128, padding=1), image),
        (linear, KroneckerLinear.from_linear(linear, [(32, 32), (32, 32)]), rows),
        (linear, KroneckerLinear.from_linear(linear, [(32, 32), (32, 32)], 8), rows),
    ]
    for dense, product, given in cases:
        times = timed({"dense": dense, "product": product}, given, samples)
        counts = [sum(parameter.numel() for parameter in layer.parameters()) for layer in (dense, product)]
        ratios = [text(one / other) for one, other in zip(times["dense"], times["product"], strict=True)]
        yield [f"`{type(product).__name__}({product.extra_repr()})`", text(counts[0] / counts[1]), *ratios]


def phases(samples: int) -> Iterator[list[str]]:
    """Time stacks of one dilation layer by layer, in the phases of their input, and as the table decides."""
    yield ["four dense layers of 3", "inference, one by one / phases", "step", "one by one / table", "step"]
    for ndim, channels, extent, dilation in STACKS:
        stacks = {name: DilatedStack(channels, 3, 4, dilation, ndim=ndim, phases=how) for name, how in HOW.items()}
        times = timed(stacks, torch.randn(BATCH, channels, *(extent,) * ndim), samples)
        name = f"{ndim}-D, {channels} channels, {' x '.join([str(extent)] * ndim)}, dilation {dilation}"
        single = times["single"]
        yield [name, *(text(single[way] / times[how][way]) for how in ("phases", "table") for way in range(2))]


def run(threads: int, samples: int) -> None:
    """Print the tables as Markdown."""
    sections = {
        "A large kernel as a cascade": large,
        "Layers as products": mixing,
        "Stacks of one dilation": phases,
    }
    report(sections, threads, samples)
