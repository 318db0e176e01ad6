"""Badrinarayanan, Kendall and Cipolla 2017, SegNet: a decoder that puts values back where the maxima were.

Legend: B batch, C classes, A image channels, H, W image size.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F

from atrous._errors import ShapeError
from atrous.nn import Conv2d


class Block(NamedTuple):
    """3x3 convolutions between two poolings: their channels at width 1, and how many."""

    channels: int
    convs: int


VGG16_BLOCKS = (Block(64, 2), Block(128, 2), Block(256, 3), Block(512, 3), Block(512, 3))


class SegNet(torch.nn.Module):
    """Segment an image: the convolutions of VGG-16, each followed by batch norm, and their mirror image.

    Each pooling keeps the places of its maxima; the unpooling across puts values back there, and zeros elsewhere. So
    the decoder learns no up-sampling, and a shift of the image shifts the output only by multiples of the whole pooling
    (32 with the default blocks). Pools round up, as in Caffe. Layers carry the published names (`conv1_1` ...
    `conv5_3`, `conv5_3_D` ... `conv1_1_D`); the last one has neither batch norm nor ReLU.

    Args:
        num_classes: C.
        in_channels: A.
        width: factor on every hidden channel count.
        blocks: of the encoder; the decoder mirrors them.

    Shape:
        (B, A, H, W) to (B, C, H, W), for any H and W.

    Raises:
        ShapeError: num_classes or in_channels below 1, a width not above 0, no block or an empty one, or in the call an
            image of another number of channels.

    Source: Badrinarayanan, Kendall and Cipolla 2017, section 3, and the network they published; weights as in He et
    al. 2015.

    Example:
        >>> net = SegNet(11, width=1 / 16)
        >>> net(torch.zeros(1, 3, 45, 60)).shape
        torch.Size([1, 11, 45, 60])
        >>> with torch.device("meta"):
        ...     sum(weight.numel() for weight in SegNet(11).parameters())
        29449355
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, width: float = 1.0, *, blocks: tuple[Block, ...] = VGG16_BLOCKS
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1 or width <= 0:
            raise ShapeError(
                f"SegNet: got num_classes={num_classes}, in_channels={in_channels}, width={width}, "
                "expected at least 1, at least 1 and above 0"
            )
        if not blocks or min(min(block) for block in blocks) < 1:
            raise ShapeError(f"SegNet: got blocks={blocks}, expected at least one, of at least 1 channel and 1 layer")
        self.in_channels = in_channels
        self.encoder = torch.nn.ModuleList()
        self.decoder = torch.nn.ModuleList()
        before = in_channels
        for number, (channels, convs) in enumerate(blocks, start=1):
            channels = max(1, round(channels * width))
            down, up = torch.nn.Sequential(), torch.nn.Sequential()
            for index in range(1, convs + 1):
                _add(down, f"conv{number}_{index}", before if index == 1 else channels, channels)
            for index in range(convs, 0, -1):
                last = before if index == 1 else channels
                if number == index == 1:
                    up.add_module("conv1_1_D", _convolution(channels, num_classes))
                else:
                    _add(up, f"conv{number}_{index}_D", channels, last)
            self.encoder.append(down)
            self.decoder.insert(0, up)
            before = channels

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return scores (B, C, H, W) of an image (B, A, H, W)."""
        if not torch.compiler.is_compiling() and (image.ndim != 4 or image.shape[1] != self.in_channels):
            raise ShapeError(
                f"SegNet: got an image of shape {tuple(image.shape)}, expected (B, {self.in_channels}, H, W)"
            )
        features, kept = image, []
        for block in self.encoder:
            before = block(features)
            features, places = F.max_pool2d(before, 2, ceil_mode=True, return_indices=True)
            kept.append((places, before.shape[2:]))
        for block, (places, size) in zip(self.decoder, reversed(kept), strict=True):
            features = block(F.max_unpool2d(features, places, (2, 2), output_size=size))
        return features


def _add(block: torch.nn.Sequential, name: str, before: int, after: int) -> None:
    block.add_module(name, _convolution(before, after))
    block.add_module(f"{name}_bn", torch.nn.BatchNorm2d(after))
    block.add_module(f"{name}_relu", torch.nn.ReLU())


def _convolution(before: int, after: int) -> Conv2d:
    layer = Conv2d(before, after, 3, padding=1)
    torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    torch.nn.init.zeros_(cast(torch.Tensor, layer.bias))
    return layer
