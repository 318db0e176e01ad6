"""The written tables: which backend runs which half of a convolution on a CPU, and the timing that says so.

They are data, one for each dtype, read from the top: the first row whose columns all fit decides. A column is (least,
most), most None for no limit. Cells are those of `benchmarks`: N x C x sizes - kernel - dilation - stride - last for
channels that lie last in memory - dtype, behind `t` for a transposed convolution, the rank if not 2 and `CtoD` for
channels in and out of a group; `python -m benchmarks routes` measures them all.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch

Limits: TypeAlias = tuple[int, int | None]
"""Least and most, both allowed; None is no limit."""

ANY: Limits = (0, None)
ONE: Limits = (1, 1)
MORE_THAN_ONE: Limits = (2, None)
FEW: Limits = (1, 8)


class Row(NamedTuple):
    """One row: who runs the forward and who both gradients, why, measured where, and for which convolutions."""

    forward: str
    backward: str
    because: str
    cell: str
    ndim: int
    inputs: Limits = ANY
    outputs: Limits = ANY
    taps: Limits = MORE_THAN_ONE
    dilation: Limits = ANY
    stride: Limits = ANY
    pixels: Limits = ANY
    last: bool | None = None
    """Whether channels lie last in memory; None is either."""


FORWARD_TORCH = "torch is faster forward and taps backward for "

FLOAT32 = (
    Row("cpu", "cpu", "taps are faster for depthwise signals", "1d-4x256x500-k3-d4",
        ndim=1, inputs=ONE, outputs=(1, 16)),
    Row("cpu", "cpu", "taps are faster for signals of few channels in a group", "1d-8to8-4x8x4096-k3-d1",
        ndim=1, inputs=FEW, outputs=FEW),
    Row("aten", "cpu", FORWARD_TORCH + "few channels in and many out", "1d-4to32-4x4x4096-k3-d2",
        ndim=1, inputs=(1, 4), outputs=(1, 32), stride=ONE),
    Row("cpu", "cpu", "taps are faster for few channels out", "1d-64to4-4x64x4096-k3-d2",
        ndim=1, inputs=(9, 64), outputs=(1, 4), stride=ONE),
    Row("aten", "aten", "torch is faster for small strided undilated kernels with channels last",
        "8x96x56-k3-d1-s2-last",
        ndim=2, inputs=ONE, outputs=ONE, taps=(2, 9), dilation=ONE, stride=MORE_THAN_ONE, last=True),
    Row("aten", "cpu", FORWARD_TORCH + "small strided kernels with channels last", "8x96x56-k3-d2-s2-last",
        ndim=2, inputs=ONE, outputs=ONE, taps=(2, 9), dilation=(2, 6), stride=MORE_THAN_ONE, last=True),
    Row("cpu", "cpu", "taps are faster for depthwise images", "8x96x56-k7-d4",
        ndim=2, taps=ANY, inputs=ONE, stride=ONE),
    Row("aten", "cpu", FORWARD_TORCH + "dilated groups of 5 to 8 channels", "8to8-4x96x56-k3-d2",
        ndim=2, inputs=(5, 8), outputs=(5, 16), dilation=MORE_THAN_ONE, stride=ONE),
    Row("cpu", "cpu", "taps are faster for groups of up to 8 channels", "4to4-4x96x56-k3-d1",
        ndim=2, inputs=FEW, outputs=FEW, stride=ONE),
    Row("cpu", "cpu", "taps are faster for groups of up to 12 channels", "12to12-4x12x56-k3-d1",
        ndim=2, inputs=(9, 16), outputs=(1, 12), stride=ONE),
    Row("aten", "cpu", FORWARD_TORCH + "few channels in and many out", "3to64-2x3x112-k3-d2",
        ndim=2, inputs=FEW, outputs=(17, 64), stride=ONE),
    Row("cpu", "cpu", "taps are faster for few channels out", "64to8-4x64x56-k3-d1",
        ndim=2, inputs=(17, 256), outputs=FEW, stride=ONE),
    Row("aten", "aten", "torch is faster for small strided undilated kernels on small maps", "8x384x14-k3-d1-s2",
        ndim=2, inputs=ONE, outputs=ONE, taps=(2, 9), dilation=ONE, stride=MORE_THAN_ONE, pixels=(0, 127)),
    Row("aten", "cpu", FORWARD_TORCH + "strided kernels on small maps", "8x384x14-k7-d2-s2",
        ndim=2, inputs=ONE, outputs=ONE, stride=MORE_THAN_ONE, pixels=(0, 127)),
    Row("cpu", "cpu", "taps are faster for strided images of few channels in a group", "2to2-4x64x56-k3-d1-s2",
        ndim=2, inputs=(1, 4), outputs=(1, 4), stride=MORE_THAN_ONE),
    Row("cpu", "cpu", "taps are faster for strided dilated kernels and few channels in a group",
        "8to8-8x256x28-k3-d2-s2", ndim=2, inputs=FEW, outputs=FEW, dilation=MORE_THAN_ONE, stride=MORE_THAN_ONE),
    Row("aten", "cpu", FORWARD_TORCH + "strided dilated kernels", "16to16-8x256x28-k3-d2-s2",
        ndim=2, inputs=(1, 16), outputs=(1, 16), dilation=MORE_THAN_ONE, stride=MORE_THAN_ONE),
    Row("aten", "cpu", FORWARD_TORCH + "few channels in and many out, strided", "3to64-1x3x224-k7-d1-s2",
        ndim=2, inputs=(1, 4), outputs=(5, 128), stride=MORE_THAN_ONE),
    Row("aten", "cpu", FORWARD_TORCH + "undilated volumes with channels last", "3d-1x32x24-k3-d1-last",
        ndim=3, inputs=ONE, outputs=ONE, dilation=ONE, last=True),
    Row("cpu", "cpu", "taps are faster for volumes of few channels in a group", "3d-4x32x24-k3-d1",
        ndim=3, inputs=FEW, outputs=FEW, stride=ONE),
    Row("cpu", "cpu", "taps are faster for strided dilated depthwise volumes", "3d-2x32x24-k3-d2-s2",
        ndim=3, inputs=ONE, outputs=ONE, dilation=MORE_THAN_ONE, stride=MORE_THAN_ONE),
    Row("aten", "cpu", FORWARD_TORCH + "volumes of few channels in a group", "3d-1to16-2x1x24-k3-d2",
        ndim=3, inputs=FEW, outputs=(1, 32)),
    Row("cpu", "cpu", "taps are faster for few channels out", "3d-64to4-1x64x16x24x24-k3-d2",
        ndim=3, inputs=(9, 64), outputs=(1, 4), stride=ONE),
)  # fmt: skip
"""The rows of float32; what fits none is torch's."""

FLOAT64 = (
    Row("cpu", "cpu", "taps are faster for depthwise signals", "1d-4x256x500-k3-d4-f64",
        ndim=1, inputs=ONE, outputs=(1, 16)),
    Row("cpu", "cpu", "taps are faster for dilated signals of few channels in a group", "1d-8to8-4x8x4096-k3-d2-f64",
        ndim=1, inputs=FEW, outputs=FEW, dilation=MORE_THAN_ONE),
    Row("cpu", "cpu", "taps are faster for few channels out", "1d-64to4-4x64x4096-k3-d2-f64",
        ndim=1, inputs=(9, 64), outputs=FEW, stride=ONE),
    Row("cpu", "cpu", "taps are faster for images of up to 16 channels in a group", "16to16-4x16x56-k3-d1-f64",
        ndim=2, inputs=(1, 16), outputs=(1, 16)),
    Row("cpu", "cpu", "taps are faster for few channels out", "64to8-4x64x56-k3-d1-f64",
        ndim=2, inputs=(17, 256), outputs=(1, 12), stride=ONE),
    Row("cpu", "cpu", "taps are faster for few channels in and many out", "3to64-2x3x112-k3-d2-f64",
        ndim=2, inputs=(1, 4), outputs=(17, 64)),
    Row("cpu", "cpu", "taps are faster for volumes of up to 16 channels in a group", "3d-16to16-2x16x16-k3-d1-f64",
        ndim=3, inputs=(1, 16), outputs=(1, 16)),
    Row("cpu", "cpu", "taps are faster for volumes of up to 64 channels", "3d-64to64-1x64x16-k3-d1-f64",
        ndim=3, inputs=(1, 64), outputs=(1, 64), stride=ONE),
)  # fmt: skip
"""The rows of float64."""

BFLOAT16 = (
    Row("cpu", "cpu", "taps are faster for depthwise signals", "1d-4x256x500-k3-d4-bf16",
        ndim=1, inputs=ONE, outputs=(1, 16)),
    Row("cpu", "cpu", "taps are faster for signals of few channels in a group", "1d-8to8-4x8x4096-k3-d1-bf16",
        ndim=1, inputs=FEW, outputs=FEW),
    Row("cpu", "cpu", "taps are faster for few channels in and many out", "1d-4to32-4x4x4096-k3-d2-bf16",
        ndim=1, inputs=(1, 4), outputs=(1, 32), stride=ONE),
    Row("cpu", "cpu", "taps are faster for few channels out", "1d-64to4-4x64x4096-k3-d2-bf16",
        ndim=1, inputs=(9, 64), outputs=(1, 4), stride=ONE),
    Row("aten", "aten", "torch is faster for small undilated kernels on small maps with channels last",
        "8x384x14-k3-d1-last-bf16",
        ndim=2, inputs=ONE, outputs=ONE, taps=(2, 9), dilation=ONE, stride=ONE, pixels=(0, 1023), last=True),
    Row("aten", "cpu", FORWARD_TORCH + "undilated kernels with channels last", "8x96x56-k7-d1-last-bf16",
        ndim=2, inputs=ONE, outputs=ONE, dilation=ONE, stride=ONE, last=True),
    Row("cpu", "cpu", "taps are faster for depthwise images", "8x96x56-k7-d4-bf16",
        ndim=2, taps=ANY, inputs=ONE, stride=ONE),
    Row("cpu", "cpu", "taps are faster for groups of up to 4 channels", "4to4-4x96x56-k3-d1-bf16",
        ndim=2, inputs=(1, 4), outputs=(1, 4), stride=ONE),
    Row("cpu", "cpu", "taps are faster for dilated groups of up to 8 channels", "8to8-4x96x56-k3-d2-bf16",
        ndim=2, inputs=FEW, outputs=(1, 64), dilation=MORE_THAN_ONE, stride=ONE),
    Row("aten", "cpu", FORWARD_TORCH + "groups of 5 to 8 channels", "8to8-4x96x56-k3-d1-bf16",
        ndim=2, inputs=(5, 8), outputs=(1, 16), stride=ONE),
    Row("cpu", "cpu", "taps are faster for groups of up to 12 channels", "12to12-4x12x56-k3-d1-bf16",
        ndim=2, inputs=(9, 12), outputs=(1, 12), stride=ONE),
    Row("cpu", "cpu", "taps are faster for few channels in and many out", "3to64-2x3x112-k3-d1-bf16",
        ndim=2, inputs=(1, 4), outputs=(17, 64), stride=ONE),
    Row("cpu", "cpu", "taps are faster for dilated kernels and few channels out", "64to8-4x64x56-k3-d2-bf16",
        ndim=2, inputs=(17, 256), outputs=FEW, dilation=MORE_THAN_ONE, stride=ONE),
    Row("aten", "aten", "torch is faster for small strided undilated kernels on small maps", "8x384x14-k3-d1-s2-bf16",
        ndim=2, inputs=ONE, outputs=ONE, taps=(2, 9), dilation=ONE, stride=MORE_THAN_ONE, pixels=(0, 700), last=False),
    Row("cpu", "cpu", "taps are faster for strided images of few channels in a group", "2to2-4x64x56-k3-d1-s2-bf16",
        ndim=2, inputs=(1, 4), outputs=(1, 4), stride=MORE_THAN_ONE),
    Row("cpu", "cpu", "taps are faster for strided dilated kernels", "16to16-8x256x28-k3-d2-s2-bf16",
        ndim=2, inputs=(1, 16), outputs=(1, 16), dilation=MORE_THAN_ONE, stride=MORE_THAN_ONE),
    Row("cpu", "cpu", "taps are faster for few channels in and many out", "3to64-1x3x224-k7-d1-s2-bf16",
        ndim=2, inputs=(1, 4), outputs=(5, 64), stride=MORE_THAN_ONE),
    Row("aten", "cpu", FORWARD_TORCH + "few channels in and many more out, strided", "3to128-1x3x112-k7-d1-s2-bf16",
        ndim=2, inputs=(1, 4), outputs=(65, 128), stride=MORE_THAN_ONE),
    Row("cpu", "cpu", "taps are faster for strided depthwise volumes", "3d-2x32x24-k3-d1-s2-bf16",
        ndim=3, inputs=ONE, outputs=ONE, stride=MORE_THAN_ONE),
    Row("cpu", "cpu", "taps are faster for volumes of few channels in a group", "3d-4x32x24-k3-d1-bf16",
        ndim=3, inputs=FEW, outputs=(1, 64)),
    Row("cpu", "cpu", "taps are faster for few channels out", "3d-64to4-1x64x16x24x24-k3-d2-bf16",
        ndim=3, inputs=(9, 64), outputs=FEW, stride=ONE),
)  # fmt: skip
"""The rows of bfloat16."""

TABLES = {torch.float32: FLOAT32, torch.float16: FLOAT32, torch.float64: FLOAT64, torch.bfloat16: BFLOAT16}
"""The rows by dtype. float16 has those of float32, in which torch's half runs on most processors (`aten.widens`)."""

UP_TO_2, UP_TO_4, UP_TO_8 = (
    f"taps are faster for transposed convolutions of up to {most} channels in a group" for most in (2, 4, 8)
)
FEW_TO_MANY = "taps are faster for transposed convolutions of few channels in and many out"

TRANSPOSED_FLOAT32 = (
    Row("cpu", "cpu", UP_TO_4, "t-1d-4to4-4x64x1000-k4-d1-s2", ndim=1, inputs=(1, 4), outputs=(1, 4)),
    Row("cpu", "cpu", UP_TO_4, "t-8x96x28-k4-d1-s2", ndim=2, inputs=(1, 4), outputs=(1, 4), taps=ANY),
    Row("cpu", "cpu", FEW_TO_MANY, "t-3to64-8x3x56-k3-d1",
        ndim=2, inputs=(1, 4), outputs=(16, 64), taps=(9, 25), stride=ONE),
    Row("cpu", "cpu", FEW_TO_MANY + ", strided", "t-3to32-4x3x32-k4-d1-s2",
        ndim=2, inputs=(2, 3), outputs=(16, 32), taps=(9, 25), stride=(2, 2)),
    Row("cpu", "cpu", "taps are faster for transposed convolutions of one channel in and many out, strided",
        "t-1to64-8x1x56-k4-d1-s2", ndim=2, inputs=ONE, outputs=(16, 64), taps=(9, 25), stride=(2, 2)),
    Row("cpu", "cpu", UP_TO_2, "t-3d-2to2-2x32x12-k2-d1-s2", ndim=3, inputs=(1, 2), outputs=(1, 2)),
    Row("cpu", "cpu", UP_TO_4, "t-3d-4to4-2x32x12-k4-d1-s2", ndim=3, inputs=(1, 4), outputs=(1, 4), taps=(9, None)),
)  # fmt: skip
"""The rows of transposed convolutions in float32, whose stride is between pixels of the output."""

TRANSPOSED_FLOAT64 = (
    Row("cpu", "cpu", UP_TO_8, "t-1d-8to8-4x64x1000-k3-d1-f64", ndim=1, inputs=FEW, outputs=FEW),
    Row("cpu", "cpu", UP_TO_8, "t-8to8-4x64x28-k4-d1-s2-f64", ndim=2, inputs=FEW, outputs=FEW, taps=ANY),
    Row("cpu", "cpu", "taps are faster for transposed convolutions of up to 16 channels in a group",
        "t-16to16-4x64x28-k4-d1-s2-f64", ndim=2, inputs=(1, 16), outputs=(1, 16), taps=(9, None)),
    Row("cpu", "cpu", FEW_TO_MANY, "t-3to64-4x3x32-k4-d1-s2-f64", ndim=2, inputs=FEW, outputs=(17, 128), taps=(9, 64)),
    Row("cpu", "cpu", UP_TO_2, "t-3d-2to2-2x32x12-k2-d1-s2-f64", ndim=3, inputs=(1, 2), outputs=(1, 2)),
    Row("cpu", "cpu", UP_TO_8, "t-3d-8to8-2x32x12-k4-d1-s2-f64", ndim=3, inputs=FEW, outputs=FEW, taps=(9, None)),
)  # fmt: skip
"""The rows of transposed convolutions in float64."""

TRANSPOSED_BFLOAT16 = (
    Row("cpu", "cpu", UP_TO_4, "t-1d-4to4-4x64x1000-k4-d1-s2-bf16", ndim=1, inputs=(1, 4), outputs=(1, 4)),
    Row("cpu", "cpu", UP_TO_4, "t-4to4-4x64x28-k4-d1-s2-bf16", ndim=2, inputs=(1, 4), outputs=(1, 4), taps=ANY),
    Row("cpu", "cpu", "taps are faster for dilated transposed convolutions of up to 8 channels in a group",
        "t-8to8-4x64x56-k3-d2-bf16", ndim=2, inputs=FEW, outputs=FEW, dilation=MORE_THAN_ONE),
    Row("cpu", "cpu", FEW_TO_MANY + ", strided", "t-3to64-4x3x32-k4-d1-s2-bf16",
        ndim=2, inputs=(1, 4), outputs=(16, 64), taps=(4, 25), stride=(2, 2)),
    Row("cpu", "cpu", FEW_TO_MANY + ", dilated", "t-4to64-8x4x56-k3-d2-bf16",
        ndim=2, inputs=(1, 4), outputs=(16, 64), taps=(9, 25), dilation=MORE_THAN_ONE, stride=ONE),
    Row("cpu", "cpu", FEW_TO_MANY, "t-3to64-8x3x56-k3-d1-bf16",
        ndim=2, inputs=(1, 3), outputs=(16, 64), taps=(9, 25), stride=ONE),
    Row("cpu", "cpu", UP_TO_4, "t-3d-4to4-2x32x12-k4-d1-s2-bf16", ndim=3, inputs=(1, 4), outputs=(1, 4)),
)  # fmt: skip
"""The rows of transposed convolutions in bfloat16."""

TRANSPOSED = {
    torch.float32: TRANSPOSED_FLOAT32,
    torch.float16: TRANSPOSED_FLOAT32,
    torch.float64: TRANSPOSED_FLOAT64,
    torch.bfloat16: TRANSPOSED_BFLOAT16,
}
"""The rows of transposed convolutions by dtype; one backend runs both halves of these."""


def find(
    dtype: torch.dtype,
    ndim: int,
    inputs: int,
    outputs: int,
    taps: int,
    dilation: int,
    stride: int,
    pixels: int | None,
    last: bool = False,
    transposed: bool = False,
) -> Row | None:
    """Return the first row that fits, of `TABLES` or of `TRANSPOSED`.

    `inputs` and `outputs` are channels of one group, `dilation` and `stride` the largest of any axis, `pixels` those
    of one output plane. None for `pixels` is a size that is not known yet: rows with a limit on it do not fit. `last`:
    channels lie last in memory.
    """
    for row in (TRANSPOSED if transposed else TABLES).get(dtype, ()):
        columns = (
            (row.inputs, inputs),
            (row.outputs, outputs),
            (row.taps, taps),
            (row.dilation, dilation),
            (row.stride, stride),
        )
        if row.ndim != ndim or row.last not in (None, last):
            continue
        if not all(_within(limits, value) for limits, value in columns):
            continue
        if row.pixels == ANY or (pixels is not None and _within(row.pixels, pixels)):
            return row
    return None


class Spread(NamedTuple):
    """One row: where elements at learned positions run as taps, and where as the dense kernel of their window.

    They run as taps where the window has more than `each` pixels for every tap, and `more`.
    """

    each: float
    more: int
    because: str
    ndim: int
    strided: bool | None = None
    last: bool | None = None
    """Whether channels lie last in memory, one in a group."""
    recorded: bool | None = None
    """Whether derivatives are wanted."""


SPREADS = (
    Spread(1.8, 0, "neighbours share little in a signal", ndim=1),
    Spread(8.0, 0, "taps of strided images go one by one, and are copied out of channels last", ndim=2,
        strided=True, last=True),
    Spread(5.0, 0, "taps of strided images go one by one", ndim=2, strided=True),
    Spread(0.8, 90, "taps are copied out of channels last, and a dense gradient is slow", ndim=2, last=True,
        recorded=True),
    Spread(1.0, 200, "taps are copied out of channels last", ndim=2, last=True),
    Spread(1.0, 30, "taps of an image share what they read", ndim=2, recorded=True),
    Spread(1.0, 40, "taps of an image share what they read", ndim=2),
    Spread(20.0, 0, "taps of strided volumes go one by one", ndim=3, strided=True),
    Spread(5.5, 0, "taps of volumes go one by one", ndim=3),
)  # fmt: skip
"""Read from the top, for all dtypes; `python -m benchmarks dcls` times both sides of every row."""


def find_spread(ndim: int, strided: bool, last: bool, recorded: bool) -> Spread:
    """Return the first row of `SPREADS` that fits."""
    for row in SPREADS:
        wanted = (row.ndim, ndim), (row.strided, strided), (row.last, last), (row.recorded, recorded)
        if all(column in (None, value) for column, value in wanted):
            return row
    raise AssertionError(f"no row of SPREADS is for {ndim} axes")


def _within(limits: Limits, value: int) -> bool:
    least, most = limits
    return least <= value and (most is None or value <= most)
