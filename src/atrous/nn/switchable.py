"""A convolution module that chooses its dilation, pixel by pixel.

Legend: B batch, C channels in, D channels out, P output size, d dilation.
"""

from __future__ import annotations

from typing import Any, Self, cast

import torch
import torch.nn.functional as F

from atrous import functional
from atrous._errors import UnsupportedModule
from atrous._geometry import Geometry, Ints
from atrous.functional._check import check_input
from atrous.functional.switchable import weight_moments
from atrous.nn.conv import Conv2d, check_source

_WINDOW = 5
"""The pixels across that the switch looks at."""


class SwitchableAtrousConv2d(Conv2d):
    """Apply `atrous.functional.switchable_conv2d` with a switch that is predicted from the input.

        x = input + pre_context(mean over all pixels of input)
        s = switch(mean over the 5 x 5 pixels around each of x)
        y = s conv2d(x, kernel, d) + (1 - s) conv2d(x, kernel + weight_diff, 3 d)
        output = y + post_context(mean over all pixels of y)

    `switch`, `pre_context` and `post_context` are 1 x 1 convolutions that start with weights of 0; the switch starts as
    1 everywhere and is not limited to 0 ... 1. So the layer starts as the plain convolution of `weight` and `bias`. The
    mean around a pixel reflects the image at its borders. All convolutions have padding 'same', zeros.

    Standardised, the kernel is `weight` scaled and shifted such that each output channel keeps the mean and the
    standard deviation that it had at the start, in the buffers `weight_beta` and `weight_gamma`. Parameters and buffers
    have the names of the source, so its checkpoints without deformable sampling load.

    Args:
        in_channels: C.
        out_channels: D.
        kernel_size: taps, one integer or one per axis.
        stride: pixels of the input between outputs.
        dilation: d in pixels, one integer or one per axis.
        groups: channel groups.
        bias: whether to learn a bias.
        standardize: whether to standardise the weight, as the source does.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        (B, C, H, W) to (B, D, P_h, P_w), or the same without B, with P = ceil(S / stride); H and W at least 2.

    Raises:
        GeometryError: a stride or dilation that cannot be.
        UnsupportedModule: in `from_conv`, something else than a `torch.nn.Conv2d`, or one with another padding.
        ShapeError: a single weight for each output channel, which cannot be standardised; in the call, an input that
            does not fit, or of one row or column.

    Source: Qiao, Chen and Yuille, DetectoRS, CVPR 2021, section 3.2, and their published code.

    Example:
        >>> plain = torch.nn.Conv2d(8, 16, 3, stride=2, padding=1)
        >>> layer = SwitchableAtrousConv2d.from_conv(plain, standardize=True)
        >>> image = torch.randn(1, 8, 15, 20)
        >>> torch.testing.assert_close(layer(image), plain(image))
    """

    weight_gamma: torch.Tensor
    weight_beta: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        standardize: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(in_channels, out_channels, kernel_size, stride, "same", dilation, groups, bias, **made)
        self.standardize = standardize
        self.switch = Conv2d(in_channels, 1, 1, self.stride, **made)
        self.weight_diff = torch.nn.Parameter(torch.empty_like(self.weight))
        self.pre_context = Conv2d(in_channels, in_channels, 1, **made)
        self.post_context = Conv2d(out_channels, out_channels, 1, **made)
        if standardize:
            for name in ("weight_gamma", "weight_beta"):
                self.register_buffer(name, self.weight.new_empty(out_channels, 1, 1, 1))
        self._switch_nothing()

    @classmethod
    def from_conv(cls, conv: torch.nn.Conv2d, standardize: bool = False) -> Self:
        """Return the layer that starts as a convolution, with copies of its parameters.

        Stride, dilation, groups, dtype, device and training mode are those of the convolution, which stays as it is.
        """
        check_source(f"{cls.__name__}.from_conv", conv, (torch.nn.Conv2d, Conv2d))
        same, its = (
            Geometry.resolve(conv.kernel_size, conv.stride, padding, conv.dilation, ndim=2).padding
            for padding in ("same", conv.padding)
        )
        if conv.padding_mode != "zeros" or its != same:
            raise UnsupportedModule(
                f"{cls.__name__}.from_conv: got padding {its} by {conv.padding_mode!r}, expected {same} by 'zeros', so "
                "that both dilations give outputs of one size"
            )
        layer = cls(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.dilation, conv.groups,
            conv.bias is not None, standardize, conv.weight.device, conv.weight.dtype,
        )  # fmt: skip
        with torch.no_grad():
            layer.weight.copy_(conv.weight)
            if layer.bias is not None and conv.bias is not None:
                layer.bias.copy_(conv.bias)
        layer._switch_nothing()
        return layer.train(conv.training)

    def reset_parameters(self) -> None:
        """Draw weight and bias as `torch.nn.Conv2d` does, and let nothing else change the output."""
        super().reset_parameters()
        if "weight_diff" in self._parameters:  # torch's constructor draws before there is one
            self._switch_nothing()

    def _switch_nothing(self) -> None:
        torch.nn.init.zeros_(self.weight_diff)
        for conv, start in ((self.switch, 1.0), (self.pre_context, 0.0), (self.post_context, 0.0)):
            torch.nn.init.zeros_(conv.weight)
            torch.nn.init.constant_(cast(torch.Tensor, conv.bias), start)
        if self.standardize:
            with torch.no_grad():
                deviation, mean = weight_moments(self.weight)
                self.weight_gamma.copy_(deviation)
                self.weight_beta.copy_(mean)

    def kernel(self) -> torch.Tensor:
        """Return the kernel of the narrow convolution: the weight, standardised or not."""
        if not self.standardize:
            return self.weight
        return functional.standardized_weight(self.weight, self.weight_gamma, self.weight_beta)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution of `input`."""
        check_input("SwitchableAtrousConv2d", input, 2)
        batched = input if input.ndim == 4 else input[None]
        batched = batched + self.pre_context(batched.mean((2, 3), keepdim=True))
        around = F.avg_pool2d(functional.reflect_pad(batched, _WINDOW // 2), _WINDOW, 1)
        output = functional.switchable_conv2d(
            batched, self.kernel(), self.weight_diff, self.switch(around), self.bias, self.stride, self.dilation,
            self.groups,
        )  # fmt: skip
        output = output + self.post_context(output.mean((2, 3), keepdim=True))
        return cast(torch.Tensor, output if input.ndim == 4 else output[0])

    def extra_repr(self) -> str:
        """Return the arguments of the convolution, and whether the weight is standardised."""
        more = ", standardize=True" if self.standardize else ""
        return f"{super().extra_repr()}{more}"  # type: ignore[no-untyped-call]
