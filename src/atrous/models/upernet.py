"""Xiao et al. 2018, Unified perceptual parsing: classes of pixels, from the maps of a backbone at all of its strides.

Legend: B batch, C classes, A image channels, D channels of a map, H, W image size.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F

from atrous._errors import ShapeError
from atrous.models.convnext import ChannelNorm
from atrous.nn import Conv2d

_GRIDS = (1, 2, 3, 6)
"""Cells per axis of the means over the last map."""


class UPerNet(torch.nn.Module):
    """Segment an image: means over the last map, sums from coarse maps to fine ones, and all of them together.

    Every map of the backbone passes a norm first. Norms are over the channels of each pixel, and not over the batch as
    in the paper, so scores of an image do not hang on the others, and a batch of 1 trains. The layers of the backbone
    behind its maps, those that classify, are not used and get no gradient.

    Args:
        backbone: its `features(image)` are maps from fine to coarse, its `channels` their D: `ConvNeXt`, `ResNet`.
        num_classes: C.
        channels: of all maps of the head.

    Shape:
        (B, A, H, W) to (B, C, H, W), for any H and W that the backbone takes.

    Raises:
        ShapeError: num_classes below 1, fewer than 2 channels, or a backbone without `features` and `channels`.

    Source: Xiao et al. 2018, section 3, with the means of Zhao et al., Pyramid scene parsing network, 2017.

    Example:
        >>> from atrous.models import convnext_pico
        >>> net = UPerNet(convnext_pico(10, width=1 / 16), num_classes=5, channels=16)
        >>> net(torch.zeros(1, 3, 45, 60)).shape
        torch.Size([1, 5, 45, 60])
    """

    def __init__(self, backbone: torch.nn.Module, num_classes: int, channels: int = 512) -> None:
        super().__init__()
        if num_classes < 1 or channels < 2:
            raise ShapeError(
                f"UPerNet: got num_classes={num_classes}, channels={channels}, expected at least 1 and at least 2"
            )
        widths = getattr(backbone, "channels", None)
        if not hasattr(backbone, "features") or not isinstance(widths, tuple) or not widths:
            raise ShapeError(
                f"UPerNet: backbone: got {type(backbone).__name__}, expected a network with `features(image)` and a "
                "tuple `channels`, such as ConvNeXt or ResNet"
            )
        self.backbone = backbone
        self.norms = torch.nn.ModuleList(ChannelNorm(width) for width in widths)
        self.pyramid = torch.nn.ModuleList(_convolution(widths[-1], channels, 1) for _ in _GRIDS)
        self.top = _convolution(widths[-1] + len(_GRIDS) * channels, channels, 3)
        self.laterals = torch.nn.ModuleList(_convolution(width, channels, 1) for width in widths[:-1])
        self.smooth = torch.nn.ModuleList(_convolution(channels, channels, 3) for _ in widths[:-1])
        self.fuse = _convolution(len(widths) * channels, channels, 3)
        self.classify = Conv2d(channels, num_classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return scores (B, C, H, W) of an image (B, A, H, W)."""
        found = cast("list[torch.Tensor]", self.backbone.features(image))  # type: ignore[operator]
        *finer, last = (norm(features) for norm, features in zip(self.norms, found, strict=True))
        pooled = [F.adaptive_avg_pool2d(last, cells) for cells in _GRIDS]
        means = [_resized(layer(cells), last) for layer, cells in zip(self.pyramid, pooled, strict=True)]
        sums = [self.top(torch.cat([last, *means], 1))]
        for lateral, features in zip(reversed(self.laterals), reversed(finer), strict=True):
            sums.insert(0, lateral(features) + _resized(sums[0], features))
        levels = [layer(features) for layer, features in zip(self.smooth, sums[:-1], strict=True)] + sums[-1:]
        fused = self.fuse(torch.cat([_resized(level, levels[0]) for level in levels], 1))
        return _resized(self.classify(fused), image)

    def layers(self) -> list[list[torch.nn.Module]]:
        """Return the layers from image to scores: those of the backbone, without its classifier, and the head."""
        own = getattr(self.backbone, "layers", None)
        head = [module for module in self.children() if module is not self.backbone]
        return [*([[self.backbone]] if own is None else own()[:-1]), head]


def _convolution(before: int, after: int, kernel_size: int) -> torch.nn.Sequential:
    """Return a convolution that keeps the size of maps, a norm and a ReLU."""
    layer = Conv2d(before, after, kernel_size, padding=kernel_size // 2, bias=False)
    torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return torch.nn.Sequential(layer, ChannelNorm(after), torch.nn.ReLU())


def _resized(maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(maps, like.shape[2:], mode="bilinear", align_corners=False)
