"""One table of small convolutions that together touch every argument.

Legend: B batch, C channels in, D channels out, S input size, K kernel size, N axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class ConvCase:
    """Describe one call of `atrous.functional.conv{1,2,3}d`; `tensors` makes its arguments.

    Args:
        name: short and unique.
        size: (*S).
        kernel: (*K).
        batch: B, or None for an unbatched input.
        channels: C.
        outputs: D.
        stride: as in the call.
        padding: as in the call.
        dilation: as in the call.
        groups: as in the call.
        bias: whether there is one.
        layout: how the input lies in memory.

    Example:
        >>> case = CONV_CASES[0]
        >>> input, weight, bias = case.tensors(torch.float64)
        >>> case.name, case.ndim, tuple(input.shape), case.options["dilation"]
        ('1d', 1, (2, 3, 11), 1)
    """

    name: str
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    batch: int | None = 2
    channels: int = 3
    outputs: int = 4
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    bias: bool = True
    layout: Literal["contiguous", "channels_last", "strided"] = "contiguous"

    @property
    def ndim(self) -> int:
        """N."""
        return len(self.kernel)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of the call that are not tensors."""
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}

    def tensors(self, dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return input, weight and bias, the same values in every dtype up to rounding."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        lead = (self.channels,) if self.batch is None else (self.batch, self.channels)
        if self.layout == "strided":
            everything, second = (slice(None),) * len(lead), (slice(None, None, 2),) * self.ndim
            input = normal(*lead, *(2 * n for n in self.size))[everything + second]
        else:
            input = normal(*lead, *self.size)
        if self.layout == "channels_last":
            formats = {2: torch.channels_last, 3: torch.channels_last_3d}
            input = input.contiguous(memory_format=formats[self.ndim])
        weight = normal(self.outputs, self.channels // self.groups, *self.kernel)
        return input, weight, normal(self.outputs) if self.bias else None


CONV_CASES = (
    ConvCase("1d", (11,), (3,)),
    ConvCase("1d-causal", (13,), (3,), padding="causal", dilation=4),
    ConvCase("1d-causal-stride", (13,), (2,), padding="causal", dilation=3, stride=2),
    ConvCase("1d-asymmetric", (9,), (3,), padding=((4, 1),), dilation=2),
    ConvCase("1d-depthwise", (17,), (5,), channels=4, groups=4, padding="same", dilation=2),
    ConvCase("1d-unbatched", (10,), (3,), batch=None, padding=1, dilation=2),
    ConvCase("1d-empty", (8,), (3,), batch=0, padding=1),
    ConvCase("2d", (7, 8), (3, 3), bias=False),
    ConvCase("2d-anisotropic", (12, 9), (3, 2), stride=(2, 1), padding=(1, 2), dilation=(3, 4)),
    ConvCase("2d-same-even", (9, 8), (2, 4), padding="same", dilation=(3, 1)),
    ConvCase("2d-same-stride", (9, 10), (3, 3), padding="same", stride=(2, 3), dilation=2),
    ConvCase("2d-asymmetric", (8, 7), (3, 3), padding=((0, 3), (2, 1)), dilation=(1, 2)),
    ConvCase("2d-words", (8, 9), (2, 3), padding=("causal", "same"), dilation=(4, 2)),
    ConvCase("2d-mixed", (8, 9), (2, 3), padding=((2, 0), "valid"), dilation=(2, 3)),
    ConvCase("2d-groups", (8, 8), (3, 3), channels=4, outputs=6, groups=2, padding=2, dilation=2),
    ConvCase("2d-depthwise", (9, 11), (3, 3), channels=4, groups=4, padding=4, dilation=4),
    ConvCase("2d-multiplier", (9, 9), (3, 3), channels=2, outputs=6, groups=2, padding=3, dilation=3),
    ConvCase("2d-pointwise", (5, 6), (1, 1), stride=2),
    ConvCase("2d-wide-pad", (4, 5), (3, 3), padding=6, dilation=5),
    ConvCase("2d-channels-last", (8, 9), (3, 3), padding=2, dilation=2, layout="channels_last"),
    ConvCase("2d-strided", (8, 9), (3, 3), padding=2, dilation=2, layout="strided"),
    ConvCase("2d-unbatched", (8, 9), (3, 3), batch=None, padding="same", dilation=2),
    ConvCase("2d-empty", (6, 6), (3, 3), batch=0, padding=((1, 0), (0, 1))),
    ConvCase("3d", (5, 6, 7), (2, 3, 3), padding=1, dilation=(1, 2, 1), stride=(1, 1, 2)),
    ConvCase("3d-words", (6, 5, 5), (2, 3, 3), padding=("causal", "same", "same"), dilation=(3, 1, 2)),
    ConvCase("3d-depthwise", (5, 5, 6), (3, 3, 3), channels=3, outputs=3, groups=3, padding=2, dilation=2),
    ConvCase("3d-channels-last", (5, 5, 6), (3, 3, 3), padding=1, layout="channels_last"),
)
"""The grid of every convolution test."""
