"""He, Zhang, Ren and Sun 2016, Deep residual learning: ResNet, whose last strides can be dilations instead.

Legend: B batch, C classes, A image channels, H, W image size, S output stride.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypedDict, Unpack, cast

import torch

from atrous._errors import GeometryError, ShapeError
from atrous.models._kernels import DclsOptions, KernelOptions, chosen
from atrous.nn import Conv2d, Dcls2d
from atrous.recipe import share_positions

OutputStride = Literal[8, 16, 32]
FirstBlock = Literal["previous", "same"]
Blocks = tuple[int, int, int, int]
Kernel = Literal["3x3", "dilated", "dcls", "dense7"]

_CHANNELS = (64, 128, 256, 512)
_STRIDES = (4, 8, 16, 32)
"""Of the maps of the four stages: each but the first halves the one before."""


_KERNELS: dict[str, dict[str, Any]] = {
    "3x3": {},
    "dilated": {"dilation": 2},
    "dcls": {"kernel_count": 5, "dilated_kernel_size": 7, "interpolation": "bilinear", "share": True},
    "dense7": {},
}
"""Kernel -> its options and their defaults."""


class _Settings(TypedDict, total=False):
    in_channels: int
    width: float
    output_stride: OutputStride
    first_block: FirstBlock


class _SpacedOptions(_Settings, DclsOptions, total=False):
    """Of a network that has learned positions."""


class _Options(_Settings, KernelOptions, total=False):
    kernel: Kernel


class ResNet(torch.nn.Module):
    """Classify an image by residual blocks, with the strides on the 3x3 convolutions (v1.5).

    Parameters have torchvision's names (`conv1`, `layer1.0.conv1` ... `fc`), so its `state_dict` loads as it is. An
    output stride below 32 makes the last strides dilations. No weight changes, and with `first_block` 'previous' every
    (32 / S)-th pixel of the last map is exactly what stride 32 gives. `channels` are those of the stages' maps.

    Args:
        num_classes: C.
        blocks: how many in each of the four stages.
        bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions with 4 times the channels out, or of two 3x3.
        in_channels: A.
        width: factor on every hidden channel count.
        output_stride: S, 8, 16 or 32.
        first_block: dilation of the convolution whose stride is gone: 'previous', that of the stage before; 'same',
            that of its own stage, so trained weights then read more of the image than they did.
        kernel: what stands in the place of every 3x3 convolution, at its stride and dilation: '3x3'; 'dilated', 3x3
            with holes; 'dcls', `atrous.nn.Dcls2d`; 'dense7', 7x7.
        **options: of the kernel, no others. 'dilated': dilation, by default 2, times that of the output stride. 'dcls':
            kernel_count, elements of a kernel for each pair of channels (5); dilated_kernel_size, pixels of its window
            per axis (7); interpolation ('bilinear'); share, whether layers of a stage that follow one another, and
            have as many channels, have the same positions (True).

    Shape:
        (B, A, H, W) to (B, C), for any H and W.

    Raises:
        ShapeError: num_classes or in_channels below 1, a width not above 0, not four stages or an empty one, or in the
            call an image of another number of channels.
        GeometryError: an unknown output_stride, first_block or kernel, an option of another kernel, or one that cannot
            be.

    Source: He, Zhang, Ren and Sun 2016; dilations as in Yu, Koltun and Funkhouser 2017, section 2; 'dcls' from
    Khalfaoui-Hassani, Pellegrini and Masquelier, ICLR 2023.

    Example:
        >>> net = ResNet(10, (1, 1, 1, 1), bottleneck=False, width=1 / 16, output_stride=8)
        >>> net(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 10])
        >>> [tuple(maps.shape) for maps in net.features(torch.zeros(2, 3, 64, 64))]
        [(2, 4, 16, 16), (2, 8, 8, 8), (2, 16, 8, 8), (2, 32, 8, 8)]
    """

    def __init__(
        self,
        num_classes: int,
        blocks: Blocks,
        *,
        bottleneck: bool,
        in_channels: int = 3,
        width: float = 1.0,
        output_stride: OutputStride = 32,
        first_block: FirstBlock = "previous",
        kernel: Kernel = "3x3",
        **options: Unpack[KernelOptions],
    ) -> None:
        _check(num_classes, blocks, in_channels, width, output_stride, first_block)
        super().__init__()
        spacing = chosen("ResNet", _KERNELS, kernel, options)
        share = spacing.pop("share", False)
        widths = [max(1, round(channels * width)) for channels in _CHANNELS]
        self.in_channels = in_channels
        self.conv1 = Conv2d(in_channels, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(widths[0])
        self.relu = torch.nn.ReLU()
        self.maxpool = torch.nn.MaxPool2d(3, 2, padding=1)
        block = partial(_Block, partial(_look, kernel, **spacing), bottleneck)
        channels, dilation = [widths[0]], 1
        for number, (inner, count) in enumerate(zip(widths, blocks, strict=True)):
            # What a stage lacks in stride it has in dilation.
            before, dilation = dilation, max(1, _STRIDES[number] // output_stride)
            stride = 2 if number and dilation == before else 1
            first = before if first_block == "previous" else dilation
            stage = torch.nn.Sequential(block(channels[-1], inner, stride, (first, dilation), projected=number > 0))
            channels.append(4 * inner if bottleneck else inner)
            stage.extend(block(channels[-1], inner, 1, (dilation, dilation)) for _ in range(1, count))
            self.add_module(f"layer{number + 1}", stage)
            if share:
                share_positions(stage)
        self.channels = tuple(channels[1:])
        self.avgpool = torch.nn.AdaptiveAvgPool2d(1)
        self.fc = torch.nn.Linear(channels[-1], num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise all layers anew: He's normal over the outputs for convolutions, their own default for the rest."""
        for layer in self.modules():
            if isinstance(layer, Dcls2d):
                layer.reset_parameters()
            if isinstance(layer, (Conv2d, Dcls2d)):
                torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, (torch.nn.BatchNorm2d, torch.nn.Linear)):
                layer.reset_parameters()

    def features(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the maps of the four stages of an image (B, A, H, W), at strides 4, 8, 16, 32 or S where that is less.

        A map at stride s is (B, D, ceil(H / s), ceil(W / s)); at width 1 D is 64, 128, 256, 512, or 4 times that.
        """
        if not torch.compiler.is_compiling() and (image.ndim != 4 or image.shape[1] != self.in_channels):
            raise ShapeError(
                f"ResNet: got an image of shape {tuple(image.shape)}, expected (B, {self.in_channels}, H, W)"
            )
        maps = [self.maxpool(self.relu(self.bn1(self.conv1(image))))]
        for number in range(1, len(_STRIDES) + 1):
            maps.append(self.get_submodule(f"layer{number}")(maps[-1]))
        return tuple(maps[1:])

    def layers(self) -> list[list[torch.nn.Module]]:
        """Return the layers from image to scores: the first convolution, one for each block, the classifier."""
        stages = (self.get_submodule(f"layer{number}") for number in range(1, len(_STRIDES) + 1))
        blocks = [[block] for stage in stages for block in stage.children()]
        return [[self.conv1, self.bn1], *blocks, [self.fc]]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return class scores (B, C) of an image (B, A, H, W)."""
        return cast(torch.Tensor, self.fc(self.avgpool(self.features(image)[-1]).flatten(1)))


def resnet18(num_classes: int, **options: Unpack[_Options]) -> ResNet:
    """Build ResNet-18: blocks of two 3x3 convolutions, 2 in each stage.

    Args:
        num_classes: C.
        **options: the other keywords of `ResNet`, except blocks and bottleneck.

    Returns:
        The network: (B, A, H, W) to (B, C).

    Source: He, Zhang, Ren and Sun 2016, table 1.

    Example:
        >>> with torch.device("meta"):
        ...     sum(weight.numel() for weight in resnet18(1000).parameters())
        11689512
    """
    return ResNet(num_classes, (2, 2, 2, 2), bottleneck=False, **options)


def resnet34(num_classes: int, **options: Unpack[_Options]) -> ResNet:
    """Build ResNet-34: blocks of two 3x3 convolutions, 3, 4, 6 and 3 in the stages.

    Args:
        num_classes: C.
        **options: the other keywords of `ResNet`, except blocks and bottleneck.

    Returns:
        The network: (B, A, H, W) to (B, C).

    Source: He, Zhang, Ren and Sun 2016, table 1.

    Example:
        >>> with torch.device("meta"):
        ...     sum(weight.numel() for weight in resnet34(1000).parameters())
        21797672
    """
    return ResNet(num_classes, (3, 4, 6, 3), bottleneck=False, **options)


def resnet50(num_classes: int, **options: Unpack[_Options]) -> ResNet:
    """Build ResNet-50: blocks of three convolutions, 3, 4, 6 and 3 in the stages.

    Args:
        num_classes: C.
        **options: the other keywords of `ResNet`, except blocks and bottleneck.

    Returns:
        The network: (B, A, H, W) to (B, C).

    Source: He, Zhang, Ren and Sun 2016, table 1.

    Example:
        >>> with torch.device("meta"):
        ...     sum(weight.numel() for weight in resnet50(1000).parameters())
        25557032
    """
    return ResNet(num_classes, (3, 4, 6, 3), bottleneck=True, **options)


def resnet101(num_classes: int, **options: Unpack[_Options]) -> ResNet:
    """Build ResNet-101: blocks of three convolutions, 3, 4, 23 and 3 in the stages.

    Args:
        num_classes: C.
        **options: the other keywords of `ResNet`, except blocks and bottleneck.

    Returns:
        The network: (B, A, H, W) to (B, C).

    Source: He, Zhang, Ren and Sun 2016, table 1.

    Example:
        >>> with torch.device("meta"):
        ...     sum(weight.numel() for weight in resnet101(1000).parameters())
        44549160
    """
    return ResNet(num_classes, (3, 4, 23, 3), bottleneck=True, **options)


def resnet50_dcls(num_classes: int, **options: Unpack[_SpacedOptions]) -> ResNet:
    """Build ResNet-50 with learned positions: 5 elements in windows of 7x7 in the place of the 3x3 convolutions.

    Args:
        num_classes: C.
        **options: the other keywords of `ResNet`, for the kernel 'dcls'; with kernel_count=6 it has somewhat more
            parameters than ResNet-50, with 5 somewhat fewer.

    Returns:
        The network: (B, A, H, W) to (B, C).

    Source: Khalfaoui-Hassani, Pellegrini and Masquelier, ICLR 2023.

    Example:
        >>> with torch.device("meta"):
        ...     sum(weight.numel() for weight in resnet50_dcls(1000).parameters())
        24008744
    """
    return resnet50(num_classes, kernel="dcls", **options)


class _Block(torch.nn.Module):
    """Add to maps what convolutions make of them; `dilations` of the first that looks around and of what follows it."""

    def __init__(
        self,
        look: Callable[..., torch.nn.Module],
        bottleneck: bool,
        before: int,
        inner: int,
        stride: int,
        dilations: tuple[int, int],
        *,
        projected: bool = False,
    ) -> None:
        super().__init__()
        first, then = dilations
        after = 4 * inner if bottleneck else inner
        if bottleneck:
            around = look(inner, inner, stride=stride, gap=first)
            layers = [Conv2d(before, inner, 1, bias=False), around, Conv2d(inner, after, 1, bias=False)]
        else:
            layers = [look(before, inner, stride=stride, gap=first), look(inner, inner, gap=then)]
        self.convolutions = len(layers)
        for number, layer in enumerate(layers, start=1):
            self.add_module(f"conv{number}", layer)
            self.add_module(f"bn{number}", torch.nn.BatchNorm2d(after if number == len(layers) else inner))
        self.relu = torch.nn.ReLU()
        self.downsample = torch.nn.Sequential()
        # By the stage, not by the stride: a network without the stride has the same weights.
        if projected or before != after:
            self.downsample.append(Conv2d(before, after, 1, stride, bias=False))
            self.downsample.append(torch.nn.BatchNorm2d(after))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        output = input
        for number in range(1, self.convolutions + 1):
            output = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(output))
            if number < self.convolutions:
                output = self.relu(output)
        return cast(torch.Tensor, self.relu(output + self.downsample(input)))


def _look(
    kernel: Kernel, before: int, after: int, *, gap: int, stride: int = 1, dilation: int = 1, **options: Any
) -> torch.nn.Module:
    """Return a convolution that looks around; maps keep their sizes, but for its stride.

    `gap` is the dilation that the output stride asks for, `dilation` that of the kernel.
    """
    if kernel == "dcls":
        return Dcls2d(before, after, stride=stride, padding="same", dilation=gap, bias=False, **options)
    size, gap = 7 if kernel == "dense7" else 3, gap * dilation
    return Conv2d(before, after, size, stride, gap * (size // 2), gap, bias=False)


def _check(
    num_classes: int, blocks: Blocks, in_channels: int, width: float, output_stride: int, first_block: str
) -> None:
    if num_classes < 1 or in_channels < 1 or width <= 0:
        raise ShapeError(
            f"ResNet: got num_classes={num_classes}, in_channels={in_channels}, width={width}, "
            "expected at least 1, at least 1 and above 0"
        )
    if len(blocks) != len(_STRIDES) or min(blocks) < 1:
        raise ShapeError(f"ResNet: got blocks={blocks}, expected {len(_STRIDES)} numbers of at least 1")
    for name, value, known in (
        ("output_stride", output_stride, (8, 16, 32)),
        ("first_block", first_block, ("previous", "same")),
    ):
        if value not in known:
            raise GeometryError(f"ResNet: {name}: got {value!r}, expected one of {known}")
