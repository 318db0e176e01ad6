"""Transposed convolution modules: torch's own, run by `atrous.functional`.

Legend: B batch, C channels in, D channels out, P output size.
"""

from __future__ import annotations

from typing import Any

import torch

from atrous import functional


class _ConvTranspose(torch.nn.Module):
    ndim: int
    weight: torch.Tensor
    bias: torch.Tensor | None
    kernel_size: Any
    stride: Any
    padding: Any
    dilation: Any
    groups: int
    _output_padding: Any

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        sizes = self.stride, self.padding, self.kernel_size, self.ndim, self.dilation
        extra = self._output_padding(input, output_size, *sizes)
        spread = getattr(functional, f"conv_transpose{self.ndim}d")
        options = self.stride, self.padding, extra, self.groups, self.dilation
        output: torch.Tensor = spread(input, self.weight, self.bias, *options)
        return output


class ConvTranspose1d(_ConvTranspose, torch.nn.ConvTranspose1d):
    """Apply `atrous.functional.conv_transpose1d` with learned weight and bias: `torch.nn.ConvTranspose1d`.

    Arguments, parameters, initialisation, `state_dict` and `isinstance` are those of `torch.nn.ConvTranspose1d`.

    Shape:
        (B, C, L) to (B, D, P), or (C, L) to (D, P); `output_size` of the call chooses P among those of a stride.

    Raises:
        GeometryError: in the call, a stride, padding or dilation that cannot be.
        ShapeError: in the call, an input that does not fit.

    Source: the contract of `torch.nn.ConvTranspose1d`.

    Example:
        >>> ConvTranspose1d(4, 4, 4, stride=2, padding=1, groups=4)(torch.zeros(1, 4, 50)).shape
        torch.Size([1, 4, 100])
    """

    ndim = 1


class ConvTranspose2d(_ConvTranspose, torch.nn.ConvTranspose2d):
    """Apply `atrous.functional.conv_transpose2d` with learned weight and bias: `torch.nn.ConvTranspose2d`.

    Arguments, parameters, initialisation, `state_dict` and `isinstance` are those of `torch.nn.ConvTranspose2d`.

    Shape:
        (B, C, H, W) to (B, D, P_h, P_w), or the same without B; `output_size` of the call chooses P.

    Raises:
        GeometryError: in the call, a stride, padding or dilation that cannot be.
        ShapeError: in the call, an input that does not fit.

    Source: the contract of `torch.nn.ConvTranspose2d`.

    Example:
        >>> ConvTranspose2d(4, 4, 4, stride=2, padding=1, groups=4)(torch.zeros(1, 4, 8, 9)).shape
        torch.Size([1, 4, 16, 18])
    """

    ndim = 2


class ConvTranspose3d(_ConvTranspose, torch.nn.ConvTranspose3d):
    """Apply `atrous.functional.conv_transpose3d` with learned weight and bias: `torch.nn.ConvTranspose3d`.

    Arguments, parameters, initialisation, `state_dict` and `isinstance` are those of `torch.nn.ConvTranspose3d`.

    Shape:
        (B, C, D, H, W) to (B, D', P_d, P_h, P_w), or the same without B; `output_size` of the call chooses P.

    Raises:
        GeometryError: in the call, a stride, padding or dilation that cannot be.
        ShapeError: in the call, an input that does not fit.

    Source: the contract of `torch.nn.ConvTranspose3d`.

    Example:
        >>> ConvTranspose3d(2, 2, 2, stride=2, groups=2)(torch.zeros(1, 2, 4, 5, 6)).shape
        torch.Size([1, 2, 8, 10, 12])
    """

    ndim = 3
