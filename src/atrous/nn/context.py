"""The context module of Yu and Koltun: dilated 3x3 convolutions that widen the view and keep the resolution.

Legend: B batch, C classes (score maps), H, W feature size.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F

from atrous._errors import GeometryError, ShapeError
from atrous.nn import init
from atrous.nn.chain import Chain
from atrous.nn.conv import Conv2d

DILATIONS = {
    7: (1, 1, 2, 4, 8, 1),
    8: (1, 1, 2, 4, 8, 16, 1),
    10: (1, 1, 2, 4, 8, 16, 32, 64, 1),
}
"""Number of layers -> dilations of the 3x3 layers; the last layer of all is 1x1."""


class ContextModule(Chain):
    """Refine score maps by context: C maps in, C maps of the same size out.

    With the identity initialisation and std = 0 an untrained module returns max(input, 0): it can be put behind a
    trained front end without harm, and learns from there. Layers are named as in the published models (`ctx_conv1_1`
    ... `ctx_fc1`, `ctx_final`), each 3x3 layer followed by a ReLU.

    Args:
        num_classes: C.
        channels: 'basic', C everywhere; 'large', 2C 2C 4C 8C ... (twice the dilation, from the second layer on),
            the last 3x3 layer as wide as the one before it. Published for 8 layers only; the rule is carried over.
        layers: 7, 8 or 10, the published depths; receptive field 35, 67 or 259 feature pixels.
        padding: 'once' pads the input with zeros by the whole margin (VOC); 'same' pads every layer (CamVid, KITTI,
            Cityscapes). They differ near the border, where bias and ReLU make a margin padded once non-zero.
        std: noise of the identity initialisation, relative to its centre tap.
        init: 'identity', or 'default' for torch's own.
        dilated: False sets every dilation to 1: same weights, same cost, a receptive field of 13, 15 or 19. The
            control of an experiment.

    Shape:
        (B, C, H, W) to (B, C, H, W).

    Raises:
        GeometryError: an unknown `channels`, `layers`, `padding` or `init`, or a negative `std`.
        ShapeError: num_classes below 1; in the call, scores of another shape than (B, C, H, W).

    Source: Yu and Koltun 2016, section 3 and table 1.

    Example:
        >>> module = ContextModule(21, std=0.0)
        >>> module.geometry.kernel, sum(p.numel() for p in module.parameters())
        ((67, 67), 28392)
        >>> scores = torch.randn(1, 21, 40, 50)
        >>> torch.equal(module(scores), scores.relu())
        True
    """

    def __init__(
        self,
        num_classes: int,
        channels: Literal["basic", "large"] = "basic",
        layers: Literal[7, 8, 10] = 8,
        padding: Literal["once", "same"] = "once",
        *,
        std: float = 0.01,
        init: Literal["identity", "default"] = "identity",
        dilated: bool = True,
    ) -> None:
        _check_options(num_classes, channels, layers, padding)
        super().__init__()
        self.num_classes = num_classes
        dilations = DILATIONS[layers] if dilated else (1,) * len(DILATIONS[layers])
        widths = [1] * len(dilations) if channels == "basic" else _large_widths(DILATIONS[layers])
        width_in = num_classes
        for name, dilation, multiple in zip(_names(layers), dilations, widths, strict=True):
            side = dilation if padding == "same" else 0
            self.add_module(name, Conv2d(width_in, multiple * num_classes, 3, padding=side, dilation=dilation))
            self.add_module(f"{name}_relu", torch.nn.ReLU())
            width_in = multiple * num_classes
        self.ctx_final = Conv2d(width_in, num_classes, 1)
        self.margin = (self.geometry.kernel[0] - 1) // 2 if padding == "once" else 0
        self.reset_parameters(init, std)

    def reset_parameters(self, initialisation: Literal["identity", "default"] = "identity", std: float = 0.01) -> None:
        """Initialise all layers anew, by the identity (noise `std`, bias 0) or torch's default.

        Raises:
            GeometryError: an unknown initialisation, or a std that is not a number of at least 0.
        """
        _check_option("init", initialisation, ("identity", "default"))
        if not std >= 0:
            raise GeometryError(f"ContextModule: std: got {std}, expected a number of at least 0")
        for layer in self:
            if isinstance(layer, Conv2d) and initialisation == "default":
                layer.reset_parameters()
            elif isinstance(layer, Conv2d):
                init.identity_(layer.weight, self.num_classes, std)
                torch.nn.init.zeros_(cast(torch.Tensor, layer.bias))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Refine scores (B, C, H, W) into scores of the same shape."""
        if input.ndim != 4 or input.shape[1] != self.num_classes:
            raise ShapeError(
                f"ContextModule: got scores of shape {tuple(input.shape)}, expected (B, {self.num_classes}, H, W)"
            )
        if self.margin:
            input = F.pad(input, (self.margin,) * 4)
        return cast(torch.Tensor, super().forward(input))  # type: ignore[no-untyped-call]


def _names(layers: int) -> list[str]:
    return ["ctx_conv1_1", "ctx_conv1_2", *(f"ctx_conv{i}_1" for i in range(2, layers - 2)), "ctx_fc1"]


def _large_widths(dilations: tuple[int, ...]) -> list[int]:
    widths = [2 * dilation for dilation in dilations[:-1]]
    return [*widths, widths[-1]]


def _check_options(num_classes: int, channels: str, layers: int, padding: str) -> None:
    if num_classes < 1:
        raise ShapeError(f"ContextModule: num_classes: got {num_classes}, expected at least 1")
    _check_option("channels", channels, ("basic", "large"))
    _check_option("layers", layers, tuple(DILATIONS))
    _check_option("padding", padding, ("once", "same"))


def _check_option(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise GeometryError(f"ContextModule: {name}: got {value!r}, expected one of {known}")
