"""Layers one after another that know the one window they amount to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from atrous._errors import UnsupportedModule
from atrous._geometry import Geometry


class Chain(torch.nn.Sequential):
    """Base of the networks that are plain sequences of convolutions, pools and pointwise layers."""

    @property
    def geometry(self) -> Geometry:
        """The one window that the layers amount to; its kernel is the receptive field."""
        windows = [Geometry.resolve(1, ndim=2)]
        for layer in self:
            if isinstance(layer, torch.nn.Conv2d):
                windows.append(Geometry.resolve(layer.kernel_size, layer.stride, layer.padding, layer.dilation, ndim=2))
            elif isinstance(layer, torch.nn.MaxPool2d):
                # Rounding a size up is one pixel less than a stride of padding after.
                window = Geometry.resolve(layer.kernel_size, layer.stride, ndim=2)
                up = tuple((0, stride - 1 if layer.ceil_mode else 0) for stride in window.stride)
                windows.append(replace(window, padding=up))
        return Geometry.compose(windows)

    def __getitem__(self, index: Any) -> Any:
        """Return one layer, or for a slice a plain Sequential under the same names."""
        if not isinstance(index, slice):
            return super().__getitem__(index)
        part = torch.nn.Sequential()
        for name, layer in list(self.named_children())[index]:
            part.add_module(name, layer)
        return part


def make_activation(name: str, maker: Any) -> torch.nn.Module:
    """Return a new activation of a class or function, or raise for something else, as a module that is one already."""
    try:
        made = maker()
        if isinstance(made, torch.nn.Module):
            return made
        reason = f"that makes a {type(made).__name__}"
    except TypeError as error:
        reason = str(error)
    raise UnsupportedModule(
        f"{name}: activation: got {maker!r}, expected what makes a module when called, such as torch.nn.ReLU: {reason}"
    )
