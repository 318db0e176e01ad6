"""Convolution modules whose kernels have a low rank.

Legend: B batch, C channels in, D channels out, G groups, R rank, K kernel size, P output size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch

from atrous import functional
from atrous._errors import GeometryError
from atrous._geometry import Geometry, Ints, Padding, integers
from atrous.nn.conv import Conv2d, check_factorable, check_source, convolution, draw_factors, spelled


class _LowRank(torch.nn.Module):
    factor_names: tuple[str, ...]
    bias: torch.Tensor | None
    kernel_size: tuple[int, int]
    stride: tuple[int, int]

    def __init__(self, conv: Any, rank: int, device: Any, dtype: torch.dtype | None) -> None:
        super().__init__()
        # What checks and spells out the arguments of a convolution is a convolution.
        self.in_channels, self.out_channels, self.kernel_size = conv.in_channels, conv.out_channels, conv.kernel_size
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.groups, self.padding_mode = conv.groups, conv.padding_mode
        (self.rank,) = integers(f"{type(self).__name__}: rank", rank, 1, 1)
        bias = None if conv.bias is None else (conv.out_channels,)
        for name, shape in zip((*self.factor_names, "bias"), (*self._shapes(), bias), strict=True):
            made = None if shape is None else torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, made)
        self.reset_parameters()

    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the factors."""
        raise NotImplementedError

    @staticmethod
    def _nearest(conv: torch.nn.Conv2d, rank: int) -> Sequence[torch.Tensor]:
        """Return the factors that are nearest to the kernel of a convolution."""
        raise NotImplementedError

    @property
    def _factors(self) -> list[torch.Tensor]:
        return [getattr(self, name) for name in self.factor_names]

    def kernel(self) -> torch.Tensor:
        """Return the dense kernel, (D, C/G, K_h, K_w), differentiable in the parameters."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw the factors such that the kernel varies as that of `torch.nn.Conv2d` does, and the bias as there."""
        fan_in = self.in_channels // self.groups * math.prod(self.kernel_size)
        draw_factors(self._factors, self.bias, fan_in, self.rank)

    @classmethod
    def from_conv(cls, conv: torch.nn.Conv2d, rank: int) -> Self:
        """Return the layer of a rank whose kernel is near to that of a convolution, with a copy of its bias.

        Geometry, dtype, device and training mode are those of the convolution, which is left as it is.
        """
        check_source(f"{cls.__name__}.from_conv", conv, (torch.nn.Conv2d, Conv2d))
        check_factorable(f"{cls.__name__}.from_conv", conv.weight)
        factors = cls._nearest(conv, rank)
        layer = cls.__new__(cls)
        _LowRank.__init__(layer, conv, rank, "meta", conv.weight.dtype)
        for name, factor in zip(cls.factor_names, factors, strict=True):
            layer.register_parameter(name, torch.nn.Parameter(factor))
        if conv.bias is not None:
            layer.bias = torch.nn.Parameter(conv.bias.detach().clone())
        return layer.train(conv.training)

    def merge(self) -> torch.nn.Conv2d:
        """Return a `torch.nn.Conv2d` with the dense kernel as it is now and a copy of the bias.

        Where the two sides of an axis are padded differently, it is the `Conv2d` of `atrous.nn`, which is one too. Its
        output is that of this layer, but for rounding.
        """
        window = Geometry.resolve(self.kernel_size, self.stride, self.padding, self.dilation, ndim=2)
        merged: torch.nn.Conv2d = convolution(self.kernel(), self.bias, window, self.groups, self.padding_mode)
        return merged.train(self.training)

    def extra_repr(self) -> str:
        """Return the arguments without a default, and those that are not at theirs."""
        first = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, rank={self.rank}"
        return spelled(self, first)


class SeparableConv2d(_LowRank):
    """Apply `atrous.functional.separable_conv2d` with learned factors and bias: a column, then a row.

    The kernel of each group is a matrix of rank R. With `groups=in_channels` every channel has a kernel that is a sum
    of R columns times rows, K_h + K_w weights each; otherwise the first convolution leads from C to G R channels, the
    second to D. Parameters: `vertical` (G R, C/G, K_h, 1), `horizontal` (D, R, 1, K_w), `bias` (D,). Not to be confused
    with what Keras calls so, a depthwise and then a pointwise convolution.

    Args:
        in_channels: C.
        out_channels: D.
        kernel_size: taps, one integer or one per axis.
        rank: R, in each group.
        stride: pixels of the input between outputs.
        padding: as in `atrous.nn.Conv2d`.
        dilation: pixels of the input between taps.
        groups: G.
        bias: whether to learn a bias.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        (B, C, H, W) to (B, D, P_h, P_w), or the same without B.

    Raises:
        GeometryError: a rank, stride, padding or dilation that cannot be.
        UnsupportedModule: in `from_conv`, something else than a `torch.nn.Conv2d`.
        ShapeError: in the call, an input that does not fit.

    Source: Jaderberg, Vedaldi and Zisserman, Speeding up convolutional neural networks with low rank expansions, BMVC
    2014, scheme 2.

    Example:
        >>> conv = torch.nn.Conv2d(64, 64, 3, padding=1)
        >>> layer = SeparableConv2d.from_conv(conv, rank=32)
        >>> layer
        SeparableConv2d(64, 64, kernel_size=(3, 3), rank=32, padding=(1, 1))
        >>> sum(one.numel() for one in conv.parameters()), sum(one.numel() for one in layer.parameters())
        (36928, 12352)
        >>> layer.merge()
        Conv2d(64, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """

    factor_names = ("vertical", "horizontal")
    vertical: torch.Tensor
    horizontal: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        rank: int,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        conv = Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, "meta"
        )
        super().__init__(conv, rank, device, dtype)

    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        height, width = self.kernel_size
        vertical = self.groups * self.rank, self.in_channels // self.groups, height, 1
        return vertical, (self.out_channels, self.rank, 1, width)

    @staticmethod
    def _nearest(conv: torch.nn.Conv2d, rank: int) -> Sequence[torch.Tensor]:
        return functional.nearest_separable(conv.weight, rank, conv.groups)[:2]

    def kernel(self) -> torch.Tensor:
        """Return the dense kernel, (D, C/G, K_h, K_w), differentiable in the parameters."""
        return functional.separable_kernel(self.vertical, self.horizontal, self.groups)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution of `input`."""
        factors = self.vertical, self.horizontal
        options: Any = self.stride, self.padding, self.dilation, self.groups
        return functional.separable_conv2d(input, *factors, self.bias, *options, padding_mode=self.padding_mode)


class CPConv2d(_LowRank):
    """Apply `atrous.functional.cp_conv2d` with learned factors and bias: 1 x 1, K_h x 1, 1 x K_w, 1 x 1.

    The kernel is a sum of R products of four vectors; the two convolutions in the middle are depthwise on R channels.
    Parameters: `outputs` (D, R), `inputs` (C, R), `rows` (K_h, R), `columns` (K_w, R), `bias` (D,). The other arguments
    are those of `SeparableConv2d`, without groups.

    Args:
        in_channels: C.
        out_channels: D.
        kernel_size: taps, one integer or one per axis.
        rank: R.
        stride: pixels of the input between outputs.
        padding: as in `atrous.nn.Conv2d`.
        dilation: pixels of the input between taps.
        bias: whether to learn a bias.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        (B, C, H, W) to (B, D, P_h, P_w), or the same without B.

    Raises:
        GeometryError: a rank, stride, padding or dilation that cannot be; in `from_conv`, more than one group.
        UnsupportedModule: in `from_conv`, something else than a `torch.nn.Conv2d`.
        ShapeError: in the call, an input that does not fit.

    Source: Lebedev, Ganin, Rakhuba, Oseledets and Lempitsky, Speeding-up convolutional neural networks using
    fine-tuned CP-decomposition, ICLR 2015.

    Example:
        >>> layer = CPConv2d(64, 128, 3, rank=48, stride=2, padding="same")
        >>> layer(torch.zeros(1, 64, 15, 15)).shape, sum(one.numel() for one in layer.parameters())
        (torch.Size([1, 128, 8, 8]), 9632)
    """

    factor_names = ("outputs", "inputs", "rows", "columns")
    outputs: torch.Tensor
    inputs: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        rank: int,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        conv = Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, 1, bias, padding_mode, "meta")
        super().__init__(conv, rank, device, dtype)

    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple((size, self.rank) for size in (self.out_channels, self.in_channels, *self.kernel_size))

    @staticmethod
    def _nearest(conv: torch.nn.Conv2d, rank: int) -> Sequence[torch.Tensor]:
        if conv.groups != 1:
            raise GeometryError(
                f"CPConv2d.from_conv: groups: got {conv.groups}, expected 1; SeparableConv2d takes groups"
            )
        return functional.nearest_cp(conv.weight, rank)[0]

    def kernel(self) -> torch.Tensor:
        """Return the dense kernel, (D, C, K_h, K_w), differentiable in the parameters."""
        return functional.cp_kernel(self._factors)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution of `input`."""
        options: Any = self.stride, self.padding, self.dilation
        return functional.cp_conv2d(input, self._factors, self.bias, *options, padding_mode=self.padding_mode)
