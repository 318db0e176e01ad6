"""ConvNeXt-T with learned spacings beside itself with 7x7 kernels, ours and torch's: `python -m benchmarks convnext`.

Images are 224 x 224, a batch of 8, in float32. A step is forward, backward to the parameters, and AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import nn

from atrous.models import ConvNeXt, convnext_tiny, convnext_tiny_dcls
from atrous.nn import Conv2d, Dcls2d
from atrous.recipe import clamp_after_steps, param_groups
from benchmarks.results import text
from benchmarks.spacings import BATCH, LAYOUTS, report, saved
from benchmarks.turns import medians

SIDE = 224


def stock(network: nn.Module) -> nn.Module:
    """Return a network whose convolutions are torch's."""
    for module in network.modules():
        if type(module) is Conv2d:
            module.__class__ = nn.Conv2d  # type: ignore[assignment]
    return network


def uniform(network: ConvNeXt) -> ConvNeXt:
    """Return a network whose positions lie everywhere in the window alike: no training leaves more taps."""
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, Dcls2d):
                layer.P.uniform_(-8, 8)
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dcls": lambda: convnext_tiny_dcls(1000),
    "dcls, uniform": lambda: uniform(convnext_tiny_dcls(1000)),
    "7x7": lambda: convnext_tiny(1000),
    "7x7, torch's": lambda: stock(convnext_tiny(1000)),
}


def stepper(network: nn.Module, layout: torch.memory_format) -> Callable[[], None]:
    """Return a training step of a network on images of a layout."""
    torch.manual_seed(0)
    images = torch.randn(BATCH, 3, SIDE, SIDE).to(memory_format=layout)
    labels = torch.randint(1000, (BATCH,))
    network = network.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(param_groups(network, 4e-3, 0.05))
    clamp_after_steps(network, optimizer)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def training(samples: int) -> Iterator[list[str]]:
    """Time training steps of all networks in turns, in both layouts."""
    yield ["network", "contiguous ms", "last ms", "over 7x7", "over 7x7, torch's"]
    runs = {name + layout: stepper(make(), form) for name, make in NETWORKS.items() for layout, form in LAYOUTS.items()}
    times = medians(runs, samples, math.inf)
    best = {name: min(times[name + layout] for layout in LAYOUTS) for name in NETWORKS}
    for name in NETWORKS:
        own = [text(1e3 * times[name + layout]) for layout in LAYOUTS]
        yield [name, *own, *(text(best[name] / best[other]) for other in ("7x7", "7x7, torch's"))]


def memory(samples: int) -> Iterator[list[str]]:
    """Count what all spacings of the network keep for backward, beside the maps that they read."""
    del samples
    yield ["network", "layers", "MiB"]
    for name in ("dcls", "dcls, uniform"):
        network = NETWORKS[name]()
        read: dict[nn.Module, torch.Tensor] = {}
        for module in network.modules():
            if isinstance(module, Dcls2d):
                module.register_forward_pre_hook(lambda layer, inputs, read=read: read.update({layer: inputs[0]}))
        with torch.no_grad():
            network(torch.randn(BATCH, 3, SIDE, SIDE))
        layers = list(read.items())
        for layer, _ in layers:
            layer._forward_pre_hooks.clear()
        yield [name, str(len(layers)), text(sum(saved(layer, image) for layer, image in layers))]


def run(threads: int, samples: int) -> None:
    """Print the tables as Markdown."""
    sections = {"ConvNeXt-T, training step": training, "ConvNeXt-T, kept for backward by spacings": memory}
    report(sections, threads, samples)
