"""Zhang, Zuo, Gu and Zhang 2017, Learning deep CNN denoiser prior for image restoration: seven dilated layers.

Legend: B batch, A channels of the input, D channels of the output, H, W input size, F enlargement, S side of the square
of pixels that one place of the body holds.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F

from atrous._errors import ShapeError
from atrous.nn import Conv2d
from atrous.nn.init import identity_

DILATIONS = (1, 2, 3, 4, 3, 2, 1)
CHANNELS = 64


class IRCNN(torch.nn.Module):
    """Restore an image: a noisy one, a small one, or the mosaic of a camera.

    Seven 3x3 convolutions with dilations 1, 2, 3, 4, 3, 2, 1, padded with zeros, ReLU after each but the last, batch
    norm before each ReLU but the first. They predict what is subtracted from a first guess, `guess(image)`: the image
    itself, its bicubic enlargement, or the bilinear `demosaick` of a mosaic. For a mosaic each 2x2 square is one place
    of the body, so that every layer knows which colour a pixel has.

    Args:
        channels: A.
        out_channels: D; None is A. 3 beside 1 channel is for a mosaic, see `demosaick`.
        width: factor on the 64 hidden channels.
        factor: F; 1 keeps the size.

    Shape:
        (B, A, H, W) to (B, D, F H, F W), for any H and W; for a mosaic both are even.

    Units:
        Pixels from 0 to 1; the output is not cut off there. Receptive field 33 pixels, 66 for a mosaic.

    Raises:
        ShapeError: channels or factor below 1, a width not above 0, or channels that are neither alike nor those of a
            mosaic; in the call, an image of another number of channels, or a mosaic with an odd side.

    Source: Zhang et al. 2017, section 3 (denoising). The other guesses are ours, and so is how weights start: hidden
    layers near the identity, see `nn.init.identity_`, the first as in He et al. 2015, the last from N(0, 0.001^2).

    Example:
        >>> net = IRCNN(3, width=1 / 8)
        >>> net(torch.zeros(1, 3, 20, 31)).shape
        torch.Size([1, 3, 20, 31])
        >>> IRCNN(3, width=1 / 8, factor=2)(torch.zeros(1, 3, 20, 31)).shape
        torch.Size([1, 3, 40, 62])
    """

    def __init__(self, channels: int = 3, out_channels: int | None = None, width: float = 1.0, *, factor: int = 1):
        super().__init__()
        outputs = channels if out_channels is None else out_channels
        if channels < 1 or width <= 0 or factor < 1:
            raise ShapeError(
                f"IRCNN: got channels={channels}, width={width}, factor={factor}, "
                "expected at least 1, above 0 and at least 1"
            )
        self.mosaic = (channels, outputs, factor) == (1, 3, 1)
        if outputs != channels and not self.mosaic:
            raise ShapeError(
                f"IRCNN: got out_channels={outputs} beside channels={channels} and factor={factor}, "
                "expected as many, or 3 beside 1 and factor 1 for a mosaic"
            )
        self.channels, self.out_channels, self.factor = channels, outputs, factor
        square = 2 if self.mosaic else 1
        self.pack = torch.nn.PixelUnshuffle(square)
        self.body = _body(channels * square**2, outputs * (square * factor) ** 2, max(1, round(CHANNELS * width)))
        self.unpack = torch.nn.PixelShuffle(square * factor)

    def guess(self, image: torch.Tensor) -> torch.Tensor:
        """Return (B, D, F H, F W) by interpolation alone."""
        if self.mosaic:
            return demosaick(image)
        if self.factor == 1:
            return image
        return F.interpolate(image, scale_factor=self.factor, mode="bicubic")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the restored image (B, D, F H, F W) of an image (B, A, H, W)."""
        if not torch.compiler.is_compiling() and (image.ndim != 4 or image.shape[1] != self.channels):
            raise ShapeError(f"IRCNN: got an image of shape {tuple(image.shape)}, expected (B, {self.channels}, H, W)")
        first = self.guess(image)
        fault: torch.Tensor = self.unpack(self.body(self.pack(image)))
        return first - fault


def rggb(height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Return which colour each pixel of a mosaic has: red, green over green, blue in every 2x2 square (Bayer, RGGB).

    Args:
        height: H, even.
        width: W, even.
        like: gives device and dtype.

    Returns:
        (3, H, W), 1 where the pixel has the colour, else 0.

    Example:
        >>> rggb(2, 2, torch.zeros(1)).tolist()
        [[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]
    """
    square = torch.tensor([[[1, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]], device=like.device, dtype=like.dtype)
    return square.repeat(1, height // 2, width // 2)


def demosaick(mosaic: torch.Tensor) -> torch.Tensor:
    """Interpolate the colours of a mosaic bilinearly: each pixel keeps its own, and takes the mean of the nearest.

    Args:
        mosaic: (B, 1, H, W) with red at even rows and columns, blue at odd ones and green elsewhere, H and W even.

    Returns:
        (B, 3, H, W).

    Raises:
        ShapeError: another shape, or an odd side.

    Example:
        >>> demosaick(torch.tensor([[[[1.0, 2.0], [4.0, 3.0]]]]))[0, 1]
        tensor([[3., 2.],
                [4., 3.]])
    """
    height, width = mosaic.shape[-2:]
    if not torch.compiler.is_compiling() and (mosaic.ndim != 4 or mosaic.shape[1] != 1 or height % 2 or width % 2):
        raise ShapeError(
            f"demosaick: got a mosaic of shape {tuple(mosaic.shape)}, expected (B, 1, H, W) with even sides; crop it"
        )
    masks = rggb(height, width, mosaic)[None]
    square, cross = [[1, 2, 1], [2, 4, 2], [1, 2, 1]], [[0, 1, 0], [1, 4, 1], [0, 1, 0]]
    kernel = torch.tensor([square, cross, square], device=mosaic.device, dtype=mosaic.dtype)[:, None]
    # The weights that lie inside the image, so that borders take the mean of what is there.
    weights = F.conv2d(masks, kernel, padding=1, groups=3)
    return F.conv2d(mosaic * masks, kernel, padding=1, groups=3) / weights


def _body(inputs: int, outputs: int, hidden: int) -> torch.nn.Sequential:
    body, last = torch.nn.Sequential(), len(DILATIONS)
    for number, dilation in enumerate(DILATIONS, start=1):
        before, after = inputs if number == 1 else hidden, outputs if number == last else hidden
        layer = Conv2d(before, after, 3, padding=dilation, dilation=dilation)
        _reset(layer, first=number == 1, last=number == last)
        body.add_module(f"conv{number}", layer)
        if 1 < number < last:
            body.add_module(f"conv{number}_bn", torch.nn.BatchNorm2d(after))
        if number < last:
            body.add_module(f"conv{number}_relu", torch.nn.ReLU())
    return body


def _reset(layer: Conv2d, *, first: bool, last: bool) -> None:
    """Start so that the image comes through to the last layer, which leaves the guess almost as it is."""
    torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    torch.nn.init.zeros_(cast(torch.Tensor, layer.bias))
    if last:
        torch.nn.init.normal_(layer.weight, std=0.001)
    elif not first:
        # Random layers alone blur the image away: the first epochs then learn next to nothing.
        hidden = layer.out_channels
        identity_(layer.weight, hidden, std=0.1 * math.sqrt(2 / (9 * hidden)))
