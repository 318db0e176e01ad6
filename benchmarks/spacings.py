"""Layers with learnable spacings beside the `dcls` package, dense kernels and plain 7x7: `python -m benchmarks dcls`.

All are depthwise, float32, with 'same' padding and a batch of 8. 'dense' builds the kernel by one scatter
(`dcls_kernel`) and convolves with torch; 'official' is the layer of the package (extra `dev`). Building the kernel is
part of every time, and every competitor but ours has both layouts of the images, of which the faster one counts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from atrous.nn import Dcls2d
from benchmarks.measure import ALLOCATOR
from benchmarks.turns import medians

SHAPES = ((96, 56), (192, 28), (384, 14), (768, 7))
"""(C, H) of the four stages of a ConvNeXt for images of 224 x 224."""
BATCH = 8
SPREADS = {"uniform": None, "deviation 2": 2.0}
"""How positions lie in the window: everywhere alike, or normal around the centre, as after training."""
LAYOUTS = {"": torch.contiguous_format, " last": torch.channels_last}
Runs = dict[str, Callable[[], object]]


class Stage:
    """Layers and images of one shape.

    Args:
        channels: C.
        extent: H and W.
        interpolation: of the layers.
        window: K on both axes.
        elements: P.
        deviation: of the positions, None for uniform ones.
    """

    def __init__(
        self,
        channels: int,
        extent: int,
        interpolation: str = "bilinear",
        window: int = 17,
        elements: int = 34,
        deviation: float | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.channels, self.window, self.elements = channels, window, elements
        self.ours = Dcls2d(
            channels, channels, elements,
            padding=window // 2, dilated_kernel_size=window, groups=channels, interpolation=interpolation,
        )  # fmt: skip
        with torch.no_grad():
            if deviation is None:
                self.ours.P.uniform_(-(window // 2), window // 2)
            else:
                self.ours.P.normal_(0, deviation)
        self.ours.clamp_parameters()
        shape = BATCH, channels, extent, extent
        inputs, gradients = torch.randn(shape), torch.randn(shape)
        self.images = {
            name: (inputs.to(memory_format=layout).requires_grad_(), gradients.to(memory_format=layout))
            for name, layout in LAYOUTS.items()
        }

    def official(self) -> nn.Module:
        """Return the layer of the `dcls` package with the same parameters."""
        from DCLS.construct.modules import Dcls2d as Official  # type: ignore[import-untyped]

        version = {"bilinear": "v0", "gaussian": "gauss"}[self.ours.interpolation]
        layer: nn.Module = Official(
            self.channels, self.channels, self.elements,
            padding=self.window // 2, dilated_kernel_size=self.window, groups=self.channels, version=version,
        )  # fmt: skip
        flipped = version != "v0"  # these have W before H
        own = layer.state_dict()
        for name, tensor in self.ours.state_dict().items():
            own[name].copy_(tensor.flip(0) if flipped and name in ("P", "SIG") else tensor)
        return layer

    def plain(self) -> nn.Module:
        """Return the 7x7 that such a layer replaces."""
        return nn.Conv2d(self.channels, self.channels, 7, padding=3, groups=self.channels)

    def dense(self, input: torch.Tensor, kernel: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve with the dense kernel, made now unless given."""
        kernel = self.ours.kernel() if kernel is None else kernel
        return F.conv2d(input, kernel, self.ours.bias, padding=self.window // 2, groups=self.channels)

    def steps(self, *, official: bool = True) -> Runs:
        """Return training steps: forward, and backward to the input and all parameters."""
        layers: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "ours": self.ours, "dense": self.dense, "7x7": self.plain(),
        }  # fmt: skip
        if official:
            layers["official"] = self.official()
        return {
            name + layout: self._step(layer, *images)
            for name, layer in layers.items()
            for layout, images in self.images.items()
        }

    def _step(
        self, layer: Callable[[torch.Tensor], torch.Tensor], input: torch.Tensor, gradient: torch.Tensor
    ) -> Callable[[], object]:
        return lambda: layer(input).backward(gradient)  # type: ignore[no-untyped-call]

    def inferences(self) -> Runs:
        """Return inferences: with everything built anew, and with what evaluation keeps."""
        kernel = self.ours.eval().kernel().detach()
        runs: Runs = {}
        for layout, (input, _) in self.images.items():
            image = input.detach()
            runs["ours" + layout] = _inference(lambda image=image: self.ours.eval()(image))
            runs["kept" + layout] = _inference(lambda image=image: self.ours(image))
            runs["dense" + layout] = _inference(lambda image=image: self.dense(image))
            runs["dense kept" + layout] = _inference(lambda image=image: self.dense(image, kernel))
        return runs

    def builds(self) -> Runs:
        """Return what every step does but for the convolution, forward and backward, of ours and of the package."""
        official, geometry = self.official(), (self.ours.dilated_kernel_size, self.ours.interpolation)
        made = self._built(geometry)
        gradient, kernel_gradient = torch.ones_like(made), torch.ones_like(self.ours.kernel())
        construct: Any = official.DCK
        return {
            "ours": lambda: self._built(geometry).backward(gradient),  # type: ignore[no-untyped-call]
            "official": lambda: construct(official.weight, official.P, official.SIG).backward(kernel_gradient),
        }

    def _built(self, geometry: tuple[Any, str]) -> torch.Tensor:
        from atrous.functional import dcls_kernel, dcls_taps

        size, interpolation = geometry
        if interpolation == "bilinear":
            return dcls_taps(self.ours.weight, self.ours.P, dilated_kernel_size=size)[0]
        return dcls_kernel(
            self.ours.weight, self.ours.P, self.ours.SIG, dilated_kernel_size=size, interpolation=interpolation
        )
