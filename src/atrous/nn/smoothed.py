"""A dilated convolution module without gridding: neighbouring outputs, or inputs, are mixed.

Legend: B batch, C channels in, D channels out, d dilation (d_h, d_w), H, W image size.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from atrous import functional
from atrous._geometry import Ints
from atrous.functional.smoothed import smoothing_size
from atrous.nn.conv import Conv2d


class SmoothedDilatedConv2d(Conv2d):
    """Apply `atrous.functional.smoothed_conv2d` with learned weight, bias and smoothing.

    It starts as the plain dilated convolution of its `weight` and `bias`, for every size of the image, and takes the
    `state_dict` of one with `strict=False`. What it learns more is `smoothing`:

    - 'interaction': (d_h d_w, d_h d_w), which mixes the phases of the output; d^4 parameters. Starts as the identity.
    - 'shared': (2 d_h - 1, 2 d_w - 1), a kernel that all channels of the input are convolved with before; (2 d - 1)^2
      parameters. Starts as a 1 at its centre. The receptive field grows by 2 (d - 1) pixels, and has no hole within.

    Weight decay draws `smoothing` to 0, not to where it starts; leave it out, as biases and norms are.

    Args:
        in_channels: C.
        out_channels: D.
        kernel_size: taps, one integer or one per axis.
        dilation: pixels between taps, one integer or one per axis.
        mode: 'interaction' or 'shared'.
        groups: channel groups.
        bias: whether to learn a bias.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        (B, C, H, W) to (B, D, H, W), or the same without B.

    Raises:
        GeometryError: a dilation or mode that cannot be.
        ShapeError: in the call, an input that does not fit.

    Source: Wang and Ji, Smoothed dilated convolutions for improved dense prediction, KDD 2018, section 3.3.

    Example:
        >>> plain, layer = torch.nn.Conv2d(8, 8, 3, padding=4, dilation=4), SmoothedDilatedConv2d(8, 8, 3, 4)
        >>> layer.load_state_dict(plain.state_dict(), strict=False).missing_keys
        ['smoothing']
        >>> image = torch.randn(1, 8, 30, 21)
        >>> torch.testing.assert_close(layer(image), plain(image))
        >>> layer.smoothing.shape, SmoothedDilatedConv2d(8, 8, 3, 4, mode="shared").smoothing.shape
        (torch.Size([16, 16]), torch.Size([7, 7]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        dilation: Ints,
        mode: Literal["interaction", "shared"] = "interaction",
        groups: int = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, 1, "same", dilation, groups, bias, device=device, dtype=dtype
        )
        self.mode = mode
        size = smoothing_size(mode, self.dilation)
        self.smoothing = torch.nn.Parameter(torch.empty(size, device=device, dtype=dtype))
        self._smooth_nothing()

    def reset_parameters(self) -> None:
        """Draw weight and bias as `torch.nn.Conv2d` does, and let the smoothing change nothing."""
        super().reset_parameters()
        if "smoothing" in self._parameters:  # torch's constructor draws before there is one
            self._smooth_nothing()

    def _smooth_nothing(self) -> None:
        with torch.no_grad():
            if self.mode == "interaction":
                torch.nn.init.eye_(self.smoothing)
            else:
                self.smoothing.zero_()[self.dilation[0] - 1, self.dilation[1] - 1] = 1

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the smoothed convolution of `input`."""
        return functional.smoothed_conv2d(
            input, self.weight, self.smoothing, self.bias, self.dilation, self.groups, mode=self.mode
        )

    def extra_repr(self) -> str:
        """Return the arguments of the convolution, and the mode."""
        return f"{super().extra_repr()}, mode={self.mode!r}"  # type: ignore[no-untyped-call]
