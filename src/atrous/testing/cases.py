"""Two tables of small calls, of convolutions and of sums over taps, that together touch every argument.

Legend: B batch, C channels in, D channels out, S input size, K kernel size, T taps, N axes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

Layout: TypeAlias = Literal["contiguous", "channels_last", "strided"]


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
    layout: Layout = "contiguous"

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
        normal = _normal(dtype, torch.Generator().manual_seed(seed))
        input = _image(normal, self.batch, self.channels, self.size, self.layout)
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


@dataclass(frozen=True)
class TapCase:
    """Describe one call of `atrous.functional.tap_conv`; `tensors` makes its arguments.

    Args:
        name: short and unique.
        size: (*S).
        offsets: the taps, each (N,) in pixels; or how many random ones, at most `reach` pixels away.
        batch: B, or None for an unbatched input.
        channels: C.
        outputs: D.
        groups: how many independent channel groups.
        stride: as in the call.
        upsample: as in the call.
        output_size: as in the call.
        reach: how far random taps lie, in pixels.
        per_pair: whether every pair of channels draws its own random taps.
        bias: whether there is one.
        layout: how the input lies in memory.

    Example:
        >>> case = TAP_CASES[0]
        >>> input, weight, offsets, bias = case.tensors(torch.float64)
        >>> case.name, case.ndim, tuple(weight.shape), offsets.flatten().tolist()
        ('1d', 1, (4, 1, 3), [-2, 0, 2])
    """

    name: str
    size: tuple[int, ...]
    offsets: tuple[tuple[int, ...], ...] | int
    batch: int | None = 2
    channels: int = 4
    outputs: int = 4
    groups: int = 4
    stride: Any = 1
    upsample: Any = 1
    output_size: Any = None
    reach: int = 6
    per_pair: bool = False
    bias: bool = False
    layout: Layout = "contiguous"

    @property
    def ndim(self) -> int:
        """N."""
        return len(self.size)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of the call that are not tensors."""
        return {name: getattr(self, name) for name in ("stride", "upsample", "output_size")}

    def tensors(
        self, dtype: torch.dtype, seed: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return input, weight, offsets and bias, the same values in every dtype up to rounding."""
        generator = torch.Generator().manual_seed(seed)
        normal, per_group = _normal(dtype, generator), self.channels // self.groups
        input = _image(normal, self.batch, self.channels, self.size, self.layout)
        if isinstance(self.offsets, int):
            shape = (self.outputs, per_group, self.offsets, self.ndim) if self.per_pair else (self.offsets, self.ndim)
            offsets = torch.randint(-self.reach, self.reach + 1, shape, generator=generator, dtype=torch.int32)
        else:
            offsets = torch.tensor(self.offsets, dtype=torch.int64).reshape(-1, self.ndim)
        weight = normal(self.outputs, per_group, offsets.shape[-2])
        return input, weight, offsets, normal(self.outputs) if self.bias else None


def _normal(dtype: torch.dtype, generator: torch.Generator) -> Callable[..., torch.Tensor]:
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def _image(
    normal: Callable[..., torch.Tensor], batch: int | None, channels: int, size: tuple[int, ...], layout: Layout
) -> torch.Tensor:
    """Draw (B, C, *S) or (C, *S) that lies in memory as `layout` says."""
    lead, ndim = (channels,) if batch is None else (batch, channels), len(size)
    if layout == "strided":
        everything, second = (slice(None),) * len(lead), (slice(None, None, 2),) * ndim
        return normal(*lead, *(2 * n for n in size))[everything + second]
    input = normal(*lead, *size)
    if layout == "channels_last":
        return input.movedim(-1 - ndim, -1).contiguous().movedim(-1, -1 - ndim)
    return input


def _grid(
    kernel: tuple[int, ...], dilation: int | tuple[int, ...] = 1, before: tuple[int, ...] | None = None
) -> tuple[tuple[int, ...], ...]:
    """Return the taps of a kernel; `before` is what lies before its first pixel, by default half of its extent."""
    gaps = (dilation,) * len(kernel) if isinstance(dilation, int) else dilation
    before = before or tuple(gap * (k - 1) // 2 for k, gap in zip(kernel, gaps, strict=True))
    axes = (range(-b, gap * (k - 1) - b + 1, gap) for k, gap, b in zip(kernel, gaps, before, strict=True))
    return tuple(itertools.product(*axes))


_FAR = 2**31 - 1
_DENSE: dict[str, Any] = {"channels": 3, "groups": 1}

TAP_CASES = (
    TapCase("1d", (11,), _grid((3,), 2), bias=True),
    TapCase("1d-causal", (40,), _grid((5,), 3, (12,))),
    TapCase("1d-transposed", (9,), _grid((4,)), upsample=2, output_size=18, bias=True),
    TapCase("1d-stride-3-2", (23,), 6, stride=3, upsample=2),
    TapCase("1d-stride-2-3", (14,), 6, stride=2, upsample=3, bias=True),
    TapCase("1d-dense", (21,), 5, **_DENSE),
    TapCase("1d-unbatched", (12,), 3, batch=None),
    TapCase("1d-hostile", (70,), ((_FAR,), (-_FAR,), (0,), (-(2**40),), (71,), (-70,), (69,), (-69,))),
    TapCase("1d-one-pixel", (1,), ((-1,), (0,), (1,)), bias=True),
    TapCase("2d", (9, 11), _grid((3, 3)), bias=True),
    TapCase("2d-irregular", (12, 19), 13, bias=True),
    TapCase("2d-random-far", (12, 19), 30, reach=25),
    TapCase("2d-anisotropic", (10, 20), _grid((5, 3), (1, 4))),
    TapCase("2d-row", (6, 40), _grid((1, 9), 3)),
    TapCase("2d-column", (40, 6), _grid((9, 1), 3)),
    TapCase("2d-even", (11, 18), ((-1, -1), (-1, 2), (2, -1), (2, 2))),
    TapCase("2d-shifted", (9, 17), _grid((3, 3), 2, (0, 4))),
    TapCase("2d-repeated", (8, 9), ((1, -1),) * 3 + ((0, 2),) * 2),
    TapCase("2d-many", (12, 19), _grid((17, 17)), batch=1, channels=2, outputs=2, groups=2),
    TapCase("2d-large-over-small", (5, 6), _grid((7, 9), 2), batch=1),
    TapCase("2d-no-taps", (5, 6), (), bias=True),
    TapCase("2d-one-tap", (7, 18), ((1, 2),)),
    TapCase("2d-empty", (6, 7), 4, batch=0, bias=True),
    TapCase("2d-no-pixels", (0, 7), 4, bias=True),
    TapCase("2d-no-outputs", (5, 7), 4, output_size=(3, 0), bias=True),
    TapCase("2d-filled-from-nothing", (0, 3), 2, output_size=(2, 2), bias=True),
    TapCase("2d-one-pixel", (1, 1), _grid((3, 3)), upsample=2, output_size=3),
    TapCase("2d-hostile", (9, 33), ((_FAR, 0), (0, -_FAR), (-_FAR, _FAR), (2**40, 1), (1, 1), (-8, 32), (8, -32))),
    TapCase("2d-hostile-stride", (7, 9), ((_FAR, -_FAR), (1, 1), (-_FAR, -_FAR)), stride=(2, 3), upsample=(3, 2)),
    TapCase("2d-larger-output", (6, 7), 5, output_size=(20, 37)),
    TapCase("2d-smaller-output", (20, 37), 5, output_size=(6, 7)),
    TapCase("2d-dense", (9, 17), 5, outputs=5, **_DENSE),
    TapCase("2d-dense-stride", (9, 17), 5, outputs=2, stride=(2, 1), upsample=(1, 3), bias=True, **_DENSE),
    TapCase("2d-groups", (8, 18), 5, channels=6, outputs=4, groups=2, bias=True),
    TapCase("2d-groups-of-8", (6, 17), _grid((3, 3), 2), channels=16, outputs=16, groups=2),
    TapCase("2d-multiplier", (8, 17), 5, channels=2, outputs=6, groups=2, stride=2),
    TapCase("2d-per-pair", (8, 17), 5, per_pair=True, bias=True),
    TapCase("2d-per-pair-dense", (8, 17), 5, per_pair=True, stride=(2, 1), upsample=(1, 2), **_DENSE),
    TapCase("2d-per-pair-groups", (9, 16), 4, channels=6, outputs=4, groups=2, stride=(3, 2), per_pair=True),
    TapCase("2d-per-pair-far", (9, 16), 6, reach=_FAR, per_pair=True),
    TapCase("2d-per-pair-many", (7, 7), 40, batch=9, reach=4, per_pair=True, bias=True),
    TapCase("2d-per-pair-wide", (30, 40), 12, batch=3, channels=2, outputs=2, groups=2, per_pair=True),
    TapCase("2d-per-pair-large", (90, 900), 9, batch=1, channels=1, outputs=1, groups=1, reach=12, per_pair=True),
    TapCase("2d-per-pair-of-3", (6, 9), 7, channels=6, outputs=4, groups=2, per_pair=True, bias=True),
    TapCase("2d-per-pair-smaller-output", (9, 16), 6, output_size=(5, 20), per_pair=True),
    TapCase("2d-transposed-same", (7, 8), _grid((4, 4)), upsample=2, output_size=(14, 16)),
    TapCase("2d-channels-last", (8, 19), 5, layout="channels_last"),
    TapCase("2d-channels-last-dense", (6, 9), 5, outputs=5, layout="channels_last", **_DENSE),
    TapCase("2d-channels-last-per-pair", (6, 9), 4, per_pair=True, layout="channels_last"),
    TapCase("2d-channels-last-unbatched", (6, 9), 4, batch=None, layout="channels_last"),
    TapCase("2d-channels-last-hostile", (5, 9), ((_FAR, 0), (0, -_FAR), (1, 1), (4, 8)), layout="channels_last"),
    *(
        TapCase(
            f"{len(size)}d-{channels}-channels-last-{stride}-{upsample}",
            size,
            _grid((3,) * len(size), 2),
            channels=channels,
            outputs=channels,
            groups=channels,
            stride=stride,
            upsample=upsample,
            bias=True,
            layout="channels_last",
        )
        for size, channels, stride, upsample in (
            ((23,), 19, 1, 1),
            ((23,), 40, 2, 3),
            ((7, 12), 8, 1, 1),
            ((7, 12), 17, 2, 1),
            ((7, 12), 24, 1, 2),
            ((3, 4, 9), 33, 1, 1),
            ((3, 4, 9), 5, 2, 1),
        )
    ),
    TapCase("2d-strided", (8, 19), 5, layout="strided", bias=True),
    TapCase("2d-unbatched", (8, 9), 5, batch=None, bias=True),
    TapCase("3d", (4, 5, 18), _grid((3, 3, 3)), channels=2, outputs=2, groups=2, bias=True),
    TapCase("3d-irregular", (5, 6, 7), 9, stride=(1, 2, 3), upsample=(2, 3, 1)),
    TapCase("3d-causal", (6, 5, 17), _grid((3, 1, 3), (2, 1, 4), (4, 0, 4)), stride=(1, 1, 2)),
    TapCase("3d-dense-per-pair", (3, 4, 5), 4, per_pair=True, outputs=2, upsample=(1, 2, 1), bias=True, **_DENSE),
    TapCase("3d-one-pixel", (1, 1, 1), 5, reach=1),
    *(TapCase(f"2d-width-{width}", (4, width), _grid((3, 3), (1, 2))) for width in (1, 7, 15, 16, 17, 31, 33, 64, 65)),
    *(TapCase(f"2d-dilation-{gap}", (13, 18), _grid((3, 3), gap)) for gap in (2, 3, 4, 6, 9, 12, 13, 16, 17, 18, 20)),
    *(
        TapCase(f"2d-stride-{stride}-upsample-{upsample}", (8, 35), _grid((3, 3), 2), stride=stride, upsample=upsample)
        for stride, upsample in itertools.product((1, 2, 3), repeat=2)
    ),
    *(
        TapCase(f"2d-{gap}-under-stride-{stride}", (9, 34), _grid((3, 3), gap), stride=stride)
        for gap, stride in itertools.product((1, 3, 4), (2, 3))
    ),
)
"""The grid of every test of sums over taps."""
