"""The operations on a GPU by Triton, not differentiable here (`atrous._ops` makes them so).

Legend: B batch, C channels in, D channels out, S input size, P output size, T taps, N axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from atrous._errors import BackendError

_TILE = 1024
"""Outputs that one program sums, or products of a step of the gradient in the weight; powers of two."""

_CHANNELS = 64
"""At most so many channels are in a tile where they lie last in memory; elsewhere there is one."""

_PROGRAMS = 2048
"""The gradient in the weight is summed in parts until there are about so many programs."""

_PROGRAMS_AT_MOST = 2**31 - 1
"""Of one launch."""

_NARROW = 2**30
"""Places below it fit 32 bits, and so does one more with an offset that is held within as much."""


def tap_conv(
    input: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    upsample: Sequence[int],
    output_size: Sequence[int],
    isa: str = "",
) -> torch.Tensor:
    """Run the reference's `tap_conv`, with int32 `offsets`, in a dtype that `cpu` runs too; 16 bits sum in float32.

    Channels that lie last in memory stay there.
    """
    from atrous._backends.triton import kernels

    _check("tap_conv", offsets, input, weight, bias)
    last = _lies_last(input)
    batch, outputs = input.shape[0], weight.shape[0]
    output = input.new_empty(batch, *output_size, outputs).movedim(-1, 1) if last else None
    if output is None:
        output = input.new_empty(batch, outputs, *output_size)
    if not output.numel():
        return output
    weight, offsets = weight.contiguous(), offsets.contiguous()
    groups = input.shape[1] // weight.shape[1]
    *rows, columns = output.shape[2:]
    channels = min(_CHANNELS, _power(outputs)) if last else 1
    across = min(_power(columns), _TILE // channels)
    down = min(_power(math.prod(rows)), _TILE // (channels * across))
    programs = batch * _cut(outputs, channels) * _cut(math.prod(rows), down) * _cut(columns, across)
    _launch(
        kernels.tap_conv, programs, output, input, weight, offsets, weight if bias is None else bias.contiguous(),
        outputs, outputs // groups,
        *_three(input.shape[2:]),
        math.prod(rows), _three(output.shape[2:])[1], columns,
        *_three(stride), *_three(upsample),
        *input.stride()[:2], *_three(input.stride()[2:], 0), *output.stride()[:2], *_three(output.stride()[2:], 0),
        TAPS=offsets.shape[-2], BIAS=bias is not None, ROWS=down, COLUMNS=across, CHANNELS=channels,
        **_what(input, offsets, groups, output, stride, upsample),
    )  # fmt: skip
    return output


def tap_conv_weight(
    grad: torch.Tensor,
    input: torch.Tensor,
    offsets: torch.Tensor,
    stride: Sequence[int],
    upsample: Sequence[int],
    groups: int,
    isa: str = "",
) -> torch.Tensor:
    """Run the reference's `tap_conv_weight`, with int32 `offsets`."""
    from atrous._backends.triton import kernels

    _check("tap_conv_weight", offsets, input, grad)
    outputs, per_group, taps = grad.shape[1], input.shape[1] // groups, offsets.shape[-2]
    pixels = grad.shape[0] * math.prod(grad.shape[2:])
    if not pixels * taps * outputs:
        return grad.new_zeros(outputs, per_group, taps)
    offsets = offsets.contiguous()
    channels = min(_CHANNELS, _power(outputs)) if _lies_last(input) and _lies_last(grad) else 1
    at_once = min(16 if channels == 1 else 4, _power(taps))
    step = _TILE // (channels * at_once)
    programs = _cut(taps, at_once) * _cut(outputs, channels) * per_group
    # By shapes alone, so that a call has the same bits again, and a power of two, so that few kernels are compiled.
    steps = _power(_cut(pixels, step * max(1, _PROGRAMS // programs)))
    count = _cut(pixels, step * steps)
    wide = torch.promote_types(grad.dtype, torch.float32)
    parts = grad.new_empty(count, outputs, per_group, taps, dtype=wide)
    _launch(
        kernels.tap_conv_weight, count * programs, parts, grad, input, offsets,
        outputs, outputs // groups, taps, pixels,
        *_three(input.shape[2:]), *_three(grad.shape[2:]),
        *_three(stride), *_three(upsample),
        *input.stride()[:2], *_three(input.stride()[2:], 0), *grad.stride()[:2], *_three(grad.stride()[2:], 0),
        TAPS=at_once, STEPS=steps, PIXELS=step, CHANNELS=channels,
        **_what(input, offsets, groups, grad, stride, upsample),
    )  # fmt: skip
    return parts.sum(0).to(grad.dtype)


def _check(name: str, offsets: torch.Tensor, input: torch.Tensor, *others: torch.Tensor | None) -> None:
    """Raise unless a kernel may read the tensors: one device and dtype, and int32 offsets."""
    given = [(one.device, one.dtype) for one in (input, *others, offsets) if one is not None]
    wanted = input.device, input.dtype
    if any(one != wanted for one in given[:-1]) or given[-1] != (input.device, torch.int32):
        raise BackendError(
            f"{name}: got tensors and offsets of {given}, expected one device and dtype, and int32 offsets there"
        )


def _launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    if programs > _PROGRAMS_AT_MOST:
        raise BackendError(f"triton: got work for {programs} programs, expected at most {_PROGRAMS_AT_MOST}; split it")
    with torch.cuda.device_of(arguments[0]):  # type: ignore[no-untyped-call]
        kernel[programs,](*arguments, **constants)


def _what(
    input: torch.Tensor,
    offsets: torch.Tensor,
    groups: int,
    output: torch.Tensor,
    stride: Sequence[int],
    upsample: Sequence[int],
) -> dict[str, Any]:
    """Return what a kernel is compiled for, beside its tile."""
    from triton import language

    outputs, per_group = output.shape[1], input.shape[1] // groups
    places = [
        *(size * step for size, step in zip(output.shape[2:], stride, strict=True)),
        *(size * step for size, step in zip(input.shape[2:], upsample, strict=True)),
        sum(size * step for size, step in zip(input.shape[2:], input.stride()[2:], strict=True)),
        outputs * per_group * offsets.shape[-2] * offsets.shape[-1],
        output.numel() // outputs,
    ]
    return {
        "PER_GROUP": per_group,
        "AXES": offsets.shape[-1],
        "PER_PAIR": offsets.ndim == 4,
        "DEPTHWISE": groups == input.shape[1] == outputs,
        "UPSAMPLED": max(upsample) > 1,
        "WIDE": max(places) >= _NARROW,
        "SUM": language.float64 if input.dtype == torch.float64 else language.float32,
    }


def _lies_last(tensor: torch.Tensor) -> bool:
    """Return whether channels lie last in memory, and not by chance."""
    return not tensor.is_contiguous() and tensor.movedim(1, -1).is_contiguous()


def _three(entries: Sequence[int], missing: int = 1) -> tuple[int, ...]:
    """Return one entry for each of three axes."""
    return (missing,) * (3 - len(entries)) + tuple(entries)


def _power(number: int) -> int:
    """Return the least power of two that is no less."""
    return 1 << max(0, number - 1).bit_length()


def _cut(whole: int, part: int) -> int:
    """Return how many parts make up the whole."""
    return -(-whole // part)
