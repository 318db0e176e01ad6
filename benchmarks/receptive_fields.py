"""Receptive fields of six networks side by side: the footprint, a gradient probe, and a formula in order of calls.

    python -m benchmarks.receptive_fields

prints the table of docs/reading-a-receptive-field.md, of the first axis of every network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from atrous import trace_footprint

HEADS = ("network", "field", "stride", "offset", "pixels read", "probe: count", "probe: extent", "in order of calls")


@dataclass(frozen=True)
class Row:
    """What each way says of one network.

    Args:
        name: of the network.
        field: receptive field of the footprint.
        stride: of the footprint.
        offset: of the footprint.
        read: pixels that the output in the middle reads, holes left out.
        count: pixels where the probe finds a gradient.
        extent: from the first of them to the last.
        in_order: receptive field and stride by the formula.
    """

    name: str
    field: int
    stride: Fraction
    offset: int
    read: int
    count: int
    extent: int
    in_order: tuple[Fraction, Fraction]


def vgg16() -> nn.Module:
    """Return the convolutions and pools of VGG-16, with one channel."""
    layers: list[nn.Module] = []
    for convs in (2, 2, 3, 3, 3):
        for _ in range(convs):
            layers += [nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def front_end() -> nn.Module:
    """Return the front end of Yu and Koltun, VGG-16 with dilations for its last strides, with one channel."""
    layers: list[nn.Module] = []
    for convs, dilation, pools in ((2, 1, True), (2, 1, True), (3, 1, True), (3, 1, False), (3, 2, False)):
        for _ in range(convs):
            layers += [nn.Conv2d(1, 1, 3, dilation=dilation), nn.ReLU()]
        if pools:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(*layers, nn.Conv2d(1, 1, 7, dilation=4), nn.ReLU(), nn.Conv2d(1, 1, 1))


class Bottleneck(nn.Module):
    """A block of ResNet-50 with the stride on its 3x3 convolution, with one channel."""

    def __init__(self, stride: int, *, first: bool) -> None:
        super().__init__()
        middle = [nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3, stride, padding=1), nn.Conv2d(1, 1, 1)]
        self.path = nn.Sequential(*middle)
        self.shortcut = nn.Conv2d(1, 1, 1, stride) if first else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add both paths."""
        return torch.relu(self.path(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    """Return the convolutional part of ResNet-50 (v1.5), with one channel and without norms."""
    layers: list[nn.Module] = [nn.Conv2d(1, 1, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for blocks, stride in ((3, 1), (4, 2), (6, 2), (3, 2)):
        layers += [Bottleneck(1 if index else stride, first=not index) for index in range(blocks)]
    return nn.Sequential(*layers)


class WaveNet(nn.Module):
    """One block of WaveNet: ten gated causal layers of dilation 1 to 512, residual and skip paths, one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.dilations = [2**index for index in range(10)]
        self.filters, self.gates = (
            nn.ModuleList(nn.Conv1d(1, 1, 2, dilation=dilation) for dilation in self.dilations) for _ in range(2)
        )
        self.skips, self.residuals = (nn.ModuleList(nn.Conv1d(1, 1, 1) for _ in self.dilations) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of the skip paths."""
        skipped = []
        for dilation, filter, gate, skip, residual in zip(
            self.dilations, self.filters, self.gates, self.skips, self.residuals, strict=True
        ):
            past = nn.functional.pad(x, (dilation, 0))
            z = torch.tanh(filter(past)) * torch.sigmoid(gate(past))
            skipped.append(skip(z))
            x = x + residual(z)
        return torch.stack(skipped).sum(0)


class UNet(nn.Module):
    """Two levels down by max pools and up by transposed convolutions, with skips that are concatenated, one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(_pair(1) for _ in range(3))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(nn.ConvTranspose2d(1, 1, 2, stride=2) for _ in range(2))
        self.join = nn.ModuleList(_pair(2) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return one map of the input's size."""
        fine = self.down[0](x)
        middle = self.down[1](self.pool(fine))
        coarse = self.down[2](self.pool(middle))
        middle = self.join[0](torch.cat([middle, self.up[0](coarse)], 1))
        joined: torch.Tensor = self.join[1](torch.cat([fine, self.up[1](middle)], 1))
        return joined


def _pair(channels: int) -> nn.Sequential:
    first, second = nn.Conv2d(channels, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


def stack() -> nn.Module:
    """Return three 3x3 convolutions of dilation 2."""
    return nn.Sequential(*[nn.Conv2d(1, 1, 3, dilation=2, padding=2) for _ in range(3)])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "VGG-16, convolutions and pools": (vgg16, (512, 512)),
    "ResNet-50 v1.5": (resnet50, (1024, 1024)),
    "front end of Yu and Koltun": (front_end, (620, 620)),
    "dilations 2, 2, 2": (stack, (64, 64)),
    "WaveNet, one block": (WaveNet, (4096,)),
    "U-Net, two levels": (UNet, (128, 128)),
}
"""How to build each network, and an image size that keeps the middle away from the borders."""


def probe(network: nn.Module, sizes: tuple[int, ...]) -> tuple[int, int]:
    """Return how many pixels of the first axis have a gradient above 0, and from the first to the last of them.

    The network is changed so that no gradient is lost: weights are ones over their number, max pools are average pools.
    """
    network = _averaging(copy.deepcopy(network)).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1 / parameter[0].numel() if parameter.ndim > 1 else 0)
    x = torch.ones(1, 1, *sizes, dtype=torch.float64, requires_grad=True)
    output = network(x)
    output[(0, 0, *(size // 2 for size in output.shape[2:]))].backward()
    gradient = torch.zeros(sizes) if x.grad is None else x.grad[0, 0]
    hit = torch.nonzero(gradient.flatten(1).any(1) if len(sizes) > 1 else gradient > 0).flatten()
    return len(hit), int(hit[-1] - hit[0]) + 1


def _averaging(network: nn.Module) -> nn.Module:
    for name, child in network.named_children():
        if isinstance(child, nn.MaxPool2d):
            averages = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
            setattr(network, name, averages)
        else:
            _averaging(child)
    return network


def in_order_of_calls(network: nn.Module, sizes: tuple[int, ...]) -> tuple[Fraction, Fraction]:
    """Return receptive field and stride of the first axis, as if all modules that are called were one chain.

    A window counts (d (k - 1) + 1, s), a transposed convolution (-k, 1 / s), any other module (1, 1): the rule of
    torch-scan up to 0.1.2, as we read it.
    """
    field, stride = Fraction(1), Fraction(1)

    def add(module: nn.Module, _: object, __: object) -> None:
        nonlocal field, stride
        size, step = _window(module)
        field, stride = field + stride * (size - 1), stride * step

    leaves = [module for module in network.modules() if not any(module.children())]
    handles = [module.register_forward_hook(add) for module in leaves]
    with torch.no_grad():
        network(torch.zeros(1, 1, *sizes))
    for handle in handles:
        handle.remove()
    return field, stride


def _window(module: nn.Module) -> tuple[int, Fraction]:
    if isinstance(module, _ConvTransposeNd):
        return -module.kernel_size[0], Fraction(1, module.stride[0])
    if isinstance(module, _ConvNd):
        return module.dilation[0] * (module.kernel_size[0] - 1) + 1, Fraction(module.stride[0])
    if isinstance(module, nn.MaxPool2d):
        return int(module.kernel_size), Fraction(int(module.stride))  # type: ignore[arg-type]
    return 1, Fraction(1)


def compare(name: str) -> Row:
    """Return what each way says of one of the networks."""
    build, sizes = NETWORKS[name]
    network = build().eval()
    footprint = trace_footprint(network, torch.zeros(1, 1, *sizes))
    stride = footprint.stride[0] or Fraction(0)
    field, offset, read = footprint.receptive_field[0], footprint.offset[0], len(footprint.taps(0))
    return Row(name, field, stride, offset, read, *probe(network, sizes), in_order_of_calls(network, sizes))


def markdown() -> str:
    """Return the table of all networks."""
    lines = ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
    for name in NETWORKS:
        row = compare(name)
        field, stride = row.in_order
        cells = (name, row.field, row.stride, row.offset, row.read, row.count, row.extent, f"{field}, stride {stride}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
