"""Print the cases of `atrous.testing`, and random ones, for the sanitizer run of the kernels: one line each."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import torch

from atrous import Geometry
from atrous.testing import CONV_CASES, TAP_CASES

RANDOM_CASES = 150


def line(
    name: str,
    input: Sequence[int],
    weight: Sequence[int],
    offsets: torch.Tensor,
    out: Sequence[int],
    stride: Sequence[int],
    upsample: Sequence[int],
    bias: bool,
) -> list[str]:
    """Return one call as the driver reads it, and again with channels last where the kernels have that."""
    groups, ndim, pairs = input[1] // weight[1], offsets.shape[-1], int(offsets.ndim == 4)
    numbers = offsets.clamp(-(2**31 - 1), 2**31 - 1).flatten().tolist()  # as the functional saturates them
    axes = [field for axis in zip(input[2:], out, stride, upsample, strict=True) for field in axis]
    axes = [1] * 4 * (3 - ndim) + axes
    channels = groups, weight[1], weight[0] // groups, weight[2], ndim, pairs
    calls = [[name, input[0], *channels, 0, int(bias), 1, 1, 1, 1, *axes, *numbers]]
    if not pairs and weight[1] == 1 and weight[0] == groups:
        channels = 1, 1, 1, weight[2], ndim, pairs
        calls.append([f"{name}-last", input[0], *channels, 1, int(bias), *axes, groups, groups, 1, 1, *numbers])
    return [" ".join(map(str, call)) for call in calls]


def tap_cases() -> list[str]:
    """The table of `tap_conv`."""
    lines = []
    for case in TAP_CASES:
        input, weight, offsets, bias = case.tensors(torch.float32)
        batched = input if input.ndim == case.ndim + 2 else input[None]
        size = batched.shape[2:]
        stride, upsample = ((n,) * case.ndim if isinstance(n, int) else tuple(n) for n in (case.stride, case.upsample))
        out = case.output_size
        if out is None:
            out = [-(-((n - 1) * u + 1) // s) if n else 0 for n, s, u in zip(size, stride, upsample, strict=True)]
        out = (out,) * case.ndim if isinstance(out, int) else out
        lines.extend(line(case.name, batched.shape, weight.shape, offsets, out, stride, upsample, bias is not None))
    return lines


def conv_cases() -> list[str]:
    """The table of the convolutions, as taps."""
    lines = []
    for case in CONV_CASES:
        input, weight, bias = case.tensors(torch.float32)
        batched = input if input.ndim == case.ndim + 2 else input[None]
        geometry = Geometry.resolve(case.kernel, case.stride, case.padding, case.dilation, ndim=case.ndim)
        axes = zip(geometry.kernel, geometry.dilation, geometry.padding, strict=True)
        taps = itertools.product(*[[i * step - sides[0] for i in range(k)] for k, step, sides in axes])
        offsets, ones = torch.tensor(list(taps)), (1,) * case.ndim
        out = geometry.output_size(case.size)
        shape = weight.flatten(2).shape
        lines.extend(line(case.name, batched.shape, shape, offsets, out, geometry.stride, ones, bias is not None))
    return lines


def random_cases() -> list[str]:
    """Shapes, strides and offsets that no one thought of; the same ones each time."""
    draw = random.Random(0)
    lines = []
    for index in range(RANDOM_CASES):
        axes = draw.choice([1, 2, 2, 3])
        size = [draw.choice([1, 2, 3, 5, 8, 9] if axes == 3 else [1, 2, 7, 8, 15, 16, 17, 33, 65]) for _ in range(axes)]
        groups, inner, outer = (draw.choice([1, 1, 2, 3]) for _ in range(3))
        if draw.random() < 0.3:
            groups, inner, outer = draw.choice([5, 8, 17, 40]), 1, 1  # as many channels as a vector, and more
        stride, upsample = ([draw.choice([1, 1, 2, 3]) for _ in range(axes)] for _ in range(2))
        out = [draw.choice([n, 2 * n, n + 3]) for n in size]
        taps, reach, pairs = draw.choice([1, 4, 9, 40]), draw.choice([1, 5, 40, 10**6]), draw.random() < 0.5
        shape = (groups * outer, inner, taps, axes) if pairs else (taps, axes)
        count = torch.Size(shape).numel()
        offsets = torch.tensor([draw.randint(-reach, reach) for _ in range(count)]).reshape(shape)
        input, weight = (draw.choice([1, 2]), groups * inner, *size), (groups * outer, inner, taps)
        lines.extend(line(f"random-{index}", input, weight, offsets, out, stride, upsample, draw.random() < 0.5))
    return lines


def large_cases() -> list[str]:
    """Images cut into tiles, and taps so far apart that their sources are worked off in batches."""
    lines = []
    for size, reach, step in (((5000,), 2500, 1), ((40000,), 9000, 2), ((3, 2100), 1500, 1), ((600, 608), 40, 2)):
        ndim = len(size)
        for stride, upsample in ((1, 1), (step, 1), (1, step)):
            grid = [torch.arange(-1, 2) * min(reach, n // 2) for n in size]
            offsets = torch.cartesian_prod(*grid).reshape(-1, ndim)
            out = [(n - 1) * upsample // stride + 1 for n in size]
            name = f"large-{'x'.join(map(str, size))}-s{stride}-u{upsample}"
            taps = (2, 1, len(offsets))
            lines.extend(line(name, (1, 2, *size), taps, offsets, out, (stride,) * ndim, (upsample,) * ndim, True))
    draw = torch.Generator().manual_seed(0)
    scattered = torch.randint(-3000, 3001, (2, 1, 400, 1), generator=draw)
    lines.extend(line("scattered", (1, 2, 7000), (2, 1, 400), scattered, (7000,), (1,), (1,), False))
    return lines


if __name__ == "__main__":
    print("\n".join(tap_cases() + conv_cases() + random_cases() + large_cases()))
