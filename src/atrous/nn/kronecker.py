"""Layers whose weight is a sum of Kronecker products of learned factors.

Legend: B batch, C channels in, D channels out, G groups, r rank, f factors, o and c the channels of one factor,
K kernel size, P output size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import torch

from atrous import functional
from atrous._errors import GeometryError
from atrous._geometry import Geometry, Ints, Padding, integers
from atrous.nn.conv import OURS, TORCH, check_factorable, check_source, convolution, draw_factors, spelled


class _Kronecker(torch.nn.Module):
    """Hold the factors of a weight, whose shape in one group is `block`, and a bias."""

    shapes: tuple[tuple[int, ...], ...]
    rank: int
    bias: torch.Tensor | None
    groups: int = 1

    def _make_parameters(
        self, block: tuple[int, ...], shapes: Iterable[Ints], rank: int, bias: bool, device: Any, dtype: Any
    ) -> None:
        name = type(self).__name__
        self.shapes = tuple(integers(f"{name}: shapes", shape, len(block), 1) for shape in shapes)
        (self.rank,) = integers(f"{name}: rank", rank, 1, 1)
        product = tuple(map(math.prod, zip(*self.shapes, strict=True)))
        if product != block:
            raise GeometryError(
                f"{name}: shapes: got {self.shapes}, whose product is {product}, expected {block}, the shape of the "
                "weight in one group"
            )
        made = [(self.rank, self.groups * shape[0], *shape[1:]) for shape in self.shapes]
        self.factors = torch.nn.ParameterList(
            torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) for shape in made
        )
        empty = torch.empty(self.groups * block[0], device=device, dtype=dtype) if bias else None
        self.register_parameter("bias", None if empty is None else torch.nn.Parameter(empty))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the factors such that the weight varies as torch's does at the start, and the bias as there."""
        fan_in = math.prod(math.prod(shape[1:]) for shape in self.shapes)
        draw_factors([*self.factors], self.bias, fan_in, self.rank)

    def kernel(self) -> torch.Tensor:
        """Return the dense weight, differentiable in the factors."""
        return functional.kronecker_kernel([*self.factors], self.groups)

    def _take(self, source: Any) -> Self:
        """Become what is nearest to a layer with a weight."""
        factors, _ = functional.kronecker_factors(source.weight, self.shapes, self.rank, groups=self.groups)
        self.factors = torch.nn.ParameterList(map(torch.nn.Parameter, factors))
        if source.bias is not None:
            self.bias = torch.nn.Parameter(source.bias.detach().clone())
        return self.train(source.training)


class _KroneckerConv(_Kronecker):
    ndim: int
    convolve: Callable[..., torch.Tensor]
    kernel_size: tuple[int, ...]
    stride: Any
    padding: Any
    dilation: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        shapes: Sequence[Ints],
        rank: int = 1,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        each = [integers(f"{type(self).__name__}: shapes", shape, self.ndim + 2, 1) for shape in shapes]
        size = tuple(math.prod(shape[axis] for shape in each) for axis in range(2, self.ndim + 2))
        # What checks and spells out the arguments of a convolution is a convolution.
        conv: Any = OURS[self.ndim](
            in_channels, out_channels, size, stride, padding, dilation, groups, False, padding_mode, "meta"
        )
        self.in_channels, self.out_channels, self.kernel_size = conv.in_channels, conv.out_channels, conv.kernel_size
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.groups, self.padding_mode = conv.groups, conv.padding_mode
        self._make_parameters((out_channels // groups, in_channels // groups, *size), each, rank, bias, device, dtype)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution of `input`."""
        options = self.stride, self.padding, self.dilation, self.groups
        return self.convolve(input, [*self.factors], self.bias, *options, padding_mode=self.padding_mode)

    @classmethod
    def from_conv(cls, conv: Any, shapes: Sequence[Ints], rank: int = 1) -> Self:
        """Return the layer of these shapes whose weight is near to that of a convolution, with a copy of its bias.

        Of two factors it is the nearest there is. Geometry, dtype, device and training mode are those of the
        convolution, which is left as it is; `atrous.functional.choose_kronecker` finds shapes and ranks.
        """
        check_source(f"{cls.__name__}.from_conv", conv, (TORCH[cls.ndim], OURS[cls.ndim]))
        check_factorable(f"{cls.__name__}.from_conv", conv.weight)
        layer = cls(
            conv.in_channels, conv.out_channels, shapes, rank, conv.stride, conv.padding, conv.dilation, conv.groups,
            conv.bias is not None, conv.padding_mode, "meta", conv.weight.dtype,
        )  # fmt: skip
        return layer._take(conv)

    def merge(self) -> torch.nn.Module:
        """Return a `torch.nn.Conv1d`, `Conv2d` or `Conv3d` with the dense weight as it is now and a copy of the bias.

        Where the two sides of an axis are padded differently, it is the module of `atrous.nn` of that name, which is a
        torch.nn one too. Its output is that of this layer, but for rounding.
        """
        window = Geometry.resolve(self.kernel_size, self.stride, self.padding, self.dilation, ndim=self.ndim)
        merged: torch.nn.Module = convolution(self.kernel(), self.bias, window, self.groups, self.padding_mode)
        return merged.train(self.training)

    def extra_repr(self) -> str:
        """Return the arguments without a default, and those that are not at theirs."""
        return spelled(self, f"{self.in_channels}, {self.out_channels}, shapes={self.shapes}, rank={self.rank}")


class KroneckerConv1d(_KroneckerConv):
    """Apply `atrous.functional.kronecker_conv1d` with learned factors and bias.

    The weight of each group is a sum of r Kronecker products of f factors. The parameters are `factors.0` (outermost)
    to `factors.{f - 1}`, each (r, groups o, c, K) with the o, c and K of its shape, and `bias` (D,). Factors start such
    that the weight has mean 0 and the variance of that of `torch.nn.Conv1d`.

    Args:
        in_channels: C.
        out_channels: D.
        shapes: (o, c, K) of every factor, outermost first; their product is (D/groups, C/groups, kernel size).
        rank: r, how many products are summed.
        stride: pixels of the input between outputs.
        padding: as in `atrous.nn.Conv1d`, for the kernel size of the product.
        dilation: pixels of the input between taps of the product.
        groups: channel groups, each with factors of its own; with `groups=in_channels` every o and c is 1.
        bias: whether to learn a bias.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        (B, C, L) to (B, D, P), or (C, L) to (D, P).

    Raises:
        GeometryError: shapes whose product is another, or an argument that cannot be.
        UnsupportedModule: in `from_conv`, something else than a `torch.nn.Conv1d`.
        ShapeError: in the call, an input that does not fit.

    Source: Zhou, Wu, Wu and Zhou, Exploiting local structures with the Kronecker layer, 2015.

    Example:
        >>> layer = KroneckerConv1d(8, 16, shapes=[(4, 4, 5), (4, 2, 3)], rank=2, padding="causal")
        >>> layer(torch.zeros(1, 8, 100)).shape, layer.kernel().shape, sum(one.numel() for one in layer.factors)
        (torch.Size([1, 16, 100]), torch.Size([16, 8, 15]), 208)
    """

    ndim = 1
    convolve = staticmethod(functional.kronecker_conv1d)


class KroneckerConv2d(_KroneckerConv):
    """Apply `atrous.functional.kronecker_conv2d` with learned factors and bias.

    The rest is as in `KroneckerConv1d`, with shapes (o, c, K_h, K_w). A depthwise kernel of 27 x 27 pixels in three
    factors is `KroneckerConv2d(C, C, [(1, 1, 3, 3)] * 3, padding="same", groups=C)`.

    Shape:
        (B, C, H, W) to (B, D, P_h, P_w), or the same without B.

    Example:
        >>> conv = torch.nn.Conv2d(64, 64, 3, padding=1)
        >>> layer = KroneckerConv2d.from_conv(conv, shapes=[(8, 8, 1, 1), (8, 8, 3, 3)], rank=2)
        >>> sum(one.numel() for one in conv.parameters()), sum(one.numel() for one in layer.parameters())
        (36928, 1344)
        >>> layer.merge()
        Conv2d(64, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """

    ndim = 2
    convolve = staticmethod(functional.kronecker_conv2d)


class KroneckerConv3d(_KroneckerConv):
    """Apply `atrous.functional.kronecker_conv3d` with learned factors and bias.

    The rest is as in `KroneckerConv1d`, with shapes (o, c, K_d, K_h, K_w).

    Shape:
        (B, C, D, H, W) to (B, D', P_d, P_h, P_w), or the same without B.

    Example:
        >>> layer = KroneckerConv3d(4, 4, [(1, 1, 3, 1, 1), (1, 1, 1, 3, 3)], padding=("causal", 1, 1), groups=4)
        >>> layer(torch.zeros(1, 4, 4, 8, 8)).shape
        torch.Size([1, 4, 4, 8, 8])
    """

    ndim = 3
    convolve = staticmethod(functional.kronecker_conv3d)


class KroneckerLinear(_Kronecker):
    """Apply `atrous.functional.kronecker_linear` with learned factors and bias.

    The weight is a sum of r Kronecker products of f factors, of shapes (o, c). The parameters are `factors.0`
    (outermost) to `factors.{f - 1}`, each (r, o, c), and `bias` (D,). Factors start such that the weight has mean 0 and
    the variance of that of `torch.nn.Linear`.

    Args:
        in_features: C.
        out_features: D.
        shapes: (o, c) of every factor, outermost first; their product is (D, C).
        rank: r, how many products are summed.
        bias: whether to learn a bias.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        (..., C) to (..., D).

    Raises:
        GeometryError: shapes whose product is another, or an argument that cannot be.
        UnsupportedModule: in `from_linear`, something else than a `torch.nn.Linear`.
        ShapeError: in the call, an input that does not fit.

    Source: Zhou, Wu, Wu and Zhou, Exploiting local structures with the Kronecker layer, 2015.

    Example:
        >>> layer = KroneckerLinear(1024, 512, shapes=[(16, 32), (32, 32)], rank=4)
        >>> layer(torch.zeros(8, 1024)).shape, sum(one.numel() for one in layer.parameters())
        (torch.Size([8, 512]), 6656)
        >>> layer.merge()
        Linear(in_features=1024, out_features=512, bias=True)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        shapes: Sequence[Ints],
        rank: int = 1,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self._make_parameters((out_features, in_features), shapes, rank, bias, device, dtype)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the product of the weight and `input`, and the bias added."""
        return functional.kronecker_linear(input, [*self.factors], self.bias)

    @classmethod
    def from_linear(cls, linear: torch.nn.Linear, shapes: Sequence[Ints], rank: int = 1) -> Self:
        """Return the layer of these shapes whose weight is near to that of a linear one, with a copy of its bias.

        Of two factors it is the nearest there is. Dtype, device and training mode are those of the layer, which is left
        as it is; `atrous.functional.choose_kronecker` finds shapes and ranks.
        """
        check_source(f"{cls.__name__}.from_linear", linear, (torch.nn.Linear,))
        check_factorable(f"{cls.__name__}.from_linear", linear.weight)
        outputs, inputs = linear.weight.shape
        return cls(inputs, outputs, shapes, rank, linear.bias is not None, "meta", linear.weight.dtype)._take(linear)

    def merge(self) -> torch.nn.Linear:
        """Return a `torch.nn.Linear` with the dense weight as it is now and a copy of the bias."""
        dtype = self.factors[0].dtype
        linear = torch.nn.Linear(self.in_features, self.out_features, self.bias is not None, "meta", dtype)
        linear.weight = torch.nn.Parameter(self.kernel().detach())
        if self.bias is not None:
            linear.bias = torch.nn.Parameter(self.bias.detach().clone())
        return linear.train(self.training)

    def extra_repr(self) -> str:
        """Return the arguments without a default, and that which is not at its."""
        text = f"{self.in_features}, {self.out_features}, shapes={self.shapes}, rank={self.rank}"
        return text if self.bias is not None else f"{text}, bias=False"
