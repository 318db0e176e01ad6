"""A convolution module that learns its dilation, a real number for each pixel or for the whole layer.

Legend: B batch, C channels in, D channels out, P output size, S input size.
"""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch

from atrous import functional
from atrous._errors import GeometryError
from atrous._geometry import Ints
from atrous.nn.conv import Conv2d

_PER = ("pixel", "layer")


class AdaptiveDilationConv2d(Conv2d):
    """Apply `atrous.functional.adaptive_conv2d` with learned weight, bias and rate.

    'pixel' predicts a rate for each pixel of the output by a 3 x 3 convolution of the input, `predictor`, which starts
    with weights of 0 and so with one rate for all. 'layer' learns one number, `rate`. Where the first rate is an
    integer, the layer starts as the dilated convolution of its `weight` and `bias` with padding 'same', and takes the
    `state_dict` of one with `strict=False`.

    Args:
        in_channels: C.
        out_channels: D.
        kernel_size: taps, odd, one integer or one per axis.
        stride: pixels of the input between outputs.
        rate: at the start, pixels of the input between taps, at least 0.
        per: 'pixel' or 'layer'.
        groups: channel groups.
        bias: whether to learn a bias.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        (B, C, H, W) to (B, D, P_h, P_w), or the same without B, with P = ceil(S / stride).

    Raises:
        GeometryError: an even kernel, or a stride, rate or per that cannot be.
        ShapeError: in the call, an input that does not fit.

    Source: pixel-wise adaptive dilation, as in PAD-Net (2019) and ADCNN (2022), which have published no code.

    Example:
        >>> layer = AdaptiveDilationConv2d(8, 16, 3, rate=2)
        >>> plain = torch.nn.Conv2d(8, 16, 3, padding=2, dilation=2)
        >>> layer.load_state_dict(plain.state_dict(), strict=False).missing_keys
        ['predictor.weight', 'predictor.bias']
        >>> image = torch.randn(1, 8, 20, 15)
        >>> torch.testing.assert_close(layer(image), plain(image))
        >>> layer.rates(image).shape
        torch.Size([1, 1, 20, 15])
    """

    rate: Any
    predictor: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        rate: float = 1.0,
        per: Literal["pixel", "layer"] = "pixel",
        groups: int = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(in_channels, out_channels, kernel_size, stride, "same", 1, groups, bias, **made)
        if any(taps % 2 == 0 for taps in self.kernel_size):
            raise GeometryError(f"AdaptiveDilationConv2d: kernel_size: got {self.kernel_size}, expected odd numbers")
        if not 0 <= rate < math.inf:
            raise GeometryError(f"AdaptiveDilationConv2d: rate: got {rate}, expected a finite number of at least 0")
        if per not in _PER:
            raise GeometryError(f"AdaptiveDilationConv2d: per: got {per!r}, expected one of {_PER}")
        self.first_rate, self.per = float(rate), per
        self.predictor = Conv2d(in_channels, 1, 3, self.stride, "same", **made) if per == "pixel" else None
        self.register_parameter("rate", torch.nn.Parameter(torch.empty((), **made)) if per == "layer" else None)
        self._reset_rate()

    def reset_parameters(self) -> None:
        """Draw weight and bias as `torch.nn.Conv2d` does, and start again at the first rate."""
        super().reset_parameters()
        if "rate" in self._parameters:  # torch's constructor draws before there is one
            self._reset_rate()

    def _reset_rate(self) -> None:
        if self.predictor is None:
            torch.nn.init.constant_(self.rate, self.first_rate)
        else:
            torch.nn.init.zeros_(self.predictor.weight)
            torch.nn.init.constant_(self.predictor.bias, self.first_rate)

    def rates(self, input: torch.Tensor) -> torch.Tensor:
        """Return the pixels between taps, (B, 1, P_h, P_w) or (1, P_h, P_w), or () for a layer; below 0 counts as 0."""
        return cast(torch.Tensor, self.rate if self.predictor is None else self.predictor(input))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution of `input`."""
        return functional.adaptive_conv2d(input, self.weight, self.rates(input), self.bias, self.stride, self.groups)

    def extra_repr(self) -> str:
        """Return the arguments of the convolution, and where the rate starts."""
        return f"{super().extra_repr()}, rate={self.first_rate:g}, per={self.per!r}"  # type: ignore[no-untyped-call]
