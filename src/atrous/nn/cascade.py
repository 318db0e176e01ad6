"""Convolutions whose dilation grows by a factor from layer to layer: one large kernel of few weights.

Legend: B batch, C channels, H, W size, K kernel size, E extent of all layers together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch

from atrous import functional
from atrous._errors import GeometryError, UnsupportedModule
from atrous._geometry import Geometry, Ints, integers
from atrous.nn.chain import Chain, make_activation
from atrous.nn.conv import Conv2d, convolution


class Cascade(Chain):
    """Apply convolutions of dilation 1, base, base^2 ... to an image, and keep its size.

    `layers` kernels of K pixels read a window of `E = 1 + (K - 1) (base^layers - 1) / (base - 1)`. Without activation
    the cascade is one convolution: `kernel` is its kernel, which for `base` = K is the Kronecker product of the layers'
    kernels, and `merge` makes it. Then only the last layer has a bias, and the layers before it start such that they
    keep the variance of white input: at the start the output is as large as that of one layer.

    Args:
        channels: C.
        kernel_size: K, one integer or one per axis.
        layers: how many, at least 1.
        base: factor of the dilation, one integer or one per axis.
        activation: makes the module between two layers, such as `torch.nn.ReLU`; None for nothing between them.
        padding: 'once' pads the input with zeros by the whole margin; 'same' pads every layer. They differ near the
            border, and only 'once' is one convolution there too.
        groups: of every layer; None for C, depthwise.
        bias: whether to learn one, in every layer if there is an activation.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        (B, C, H, W) to (B, C, H, W), or the same without B.

    Raises:
        GeometryError: sizes below 1, groups that do not divide the channels, or an unknown padding.
        UnsupportedModule: an activation that makes no module.
        ShapeError: in the call, an input that does not fit.

    Source: Huszar, Dilated convolutions and Kronecker factored convolutions, 2016; with activations, Yu and Koltun
        2016, section 3.

    Example:
        >>> cascade = Cascade(64, kernel_size=3, layers=3, base=3)
        >>> cascade.geometry.kernel, sum(p.numel() for p in cascade.parameters())
        ((27, 27), 1792)
        >>> cascade.merge()
        Conv2d(64, 64, kernel_size=(27, 27), stride=(1, 1), padding=(13, 13), groups=64)
    """

    def __init__(
        self,
        channels: int,
        kernel_size: Ints,
        layers: int,
        base: Ints,
        activation: Callable[[], torch.nn.Module] | None = None,
        *,
        padding: Literal["once", "same"] = "once",
        groups: int | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        groups = channels if groups is None else groups
        _check(channels, layers, groups, padding)
        super().__init__()
        self.padding, self.groups = padding, groups
        bases = integers("Cascade: base", base, 2, 1)
        dilations = [tuple(step**layer for step in bases) for layer in range(layers)]
        sides = ["same"] * layers if padding == "same" else [_margin(kernel_size, dilations), *[0] * (layers - 1)]
        for layer, (side, dilation) in enumerate(zip(sides, dilations, strict=True), start=1):
            has_bias = bias and (activation is not None or layer == layers)
            options = {"dilation": dilation, "groups": groups, "bias": has_bias, "device": device, "dtype": dtype}
            self.append(Conv2d(channels, channels, kernel_size, padding=side, **options))
            if activation is not None and layer < layers:
                self.append(make_activation("Cascade", activation))
        self.reset_parameters()

    @property
    def linear(self) -> bool:
        """Whether there is nothing between the convolutions."""
        return len(self._convolutions()) == len(self)

    def reset_parameters(self) -> None:
        """Initialise all layers anew, as torch does; those before the last with three times its variance, if linear."""
        layers = self._convolutions()
        for layer in layers:
            layer.reset_parameters()
        if self.linear:
            # torch's default keeps a third of the variance of white input; one such factor is enough.
            for layer in layers[:-1]:
                with torch.no_grad():
                    layer.weight.mul_(math.sqrt(3))

    def kernel(self) -> torch.Tensor:
        """Return the one kernel of a linear cascade, (C, C/groups, *E), differentiable in the weights.

        Raises:
            UnsupportedModule: activations between the layers.
        """
        if not self.linear:
            raise UnsupportedModule(
                "Cascade: kernel: got a cascade with activations, expected a linear one; no kernel is the same"
            )
        layers = [(layer.weight, layer.dilation) for layer in self._convolutions()]
        return functional.compose(*layers, groups=self.groups)

    def merge(self) -> torch.nn.Conv2d:
        """Return the one convolution that a linear cascade amounts to.

        It is a `torch.nn.Conv2d`, or that of `atrous.nn` if E is even. Its output is that of the cascade, up to
        rounding and at borders too.

        Raises:
            UnsupportedModule: activations between the layers, or layers that pad each for itself.
        """
        if self.padding != "once" and len(self) > 1:
            raise UnsupportedModule(
                "Cascade: merge: got padding='same', expected 'once'; what a layer pads is no pixel of the next, so "
                "at borders no convolution is the same"
            )
        merged: torch.nn.Conv2d = convolution(self.kernel(), self[-1].bias, self.geometry, self.groups)
        return merged.train(self.training)

    def _convolutions(self) -> list[Conv2d]:
        return [layer for layer in self if isinstance(layer, Conv2d)]


def _margin(kernel_size: Ints, dilations: list[tuple[int, ...]]) -> Any:
    """Return the padding that keeps the size of an input under all layers together."""
    whole = Geometry.compose(Geometry.resolve(kernel_size, dilation=dilation, ndim=2) for dilation in dilations)
    sides = Geometry.resolve(whole.kernel, padding="same", ndim=2).padding
    return tuple(before if before == after else (before, after) for before, after in sides)


def _check(channels: int, layers: int, groups: int, padding: str) -> None:
    for what, value in (("channels", channels), ("layers", layers), ("groups", groups)):
        integers(f"Cascade: {what}", value, 1, 1)
    if channels % groups:
        raise GeometryError(f"Cascade: groups: got {groups} for {channels} channels, expected a divisor")
    if padding not in ("once", "same"):
        raise GeometryError(f"Cascade: padding: got {padding!r}, expected 'once' or 'same'")
