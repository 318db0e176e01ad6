"""The operations on a GPU by Triton, not differentiable here (`atrous._ops` makes them so).

Legend: B batch, C channels in, D channels out, S input size, P output size, T taps, N axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from atrous._backends.triton import tiles
from atrous._backends.triton.grid import Grid
from atrous._errors import BackendError
from atrous._layout import lies_last

_PROGRAMS = 2048
"""The gradient in the weight is summed in parts until there are about so many programs."""

_PROGRAMS_AT_MOST = 2**31 - 1
"""Of one launch."""

_NARROW = 2**30
"""Places below it fit 32 bits; those that lie off by any offset are told from them in 32 bits too."""

_ACROSS = 16
"""A tile of pixels is at least so wide, as far as they go: what threads beside one another read lies together."""


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

    Channels that lie last in memory stay there. `isa`: what `grid.describe` says of the offsets, or nothing.
    """
    from atrous._backends.triton import kernels

    _check("tap_conv", offsets, input, weight, bias)
    last = lies_last(input)
    if last and offsets.ndim == 4:
        # Channels with offsets of their own read apart from one another, and do so best where they lie apart.
        arguments = input.contiguous(), weight, offsets, bias, stride, upsample, output_size
        return tap_conv(*arguments).movedim(1, -1).contiguous().movedim(-1, 1)
    batch, outputs = input.shape[0], weight.shape[0]
    sizes = (*output_size, outputs) if last else (outputs, *output_size)
    output = input.new_empty(batch, *sizes)
    output = output.movedim(-1, 1) if last else output
    if not output.numel():
        return output
    groups, per_group = input.shape[1] // weight.shape[1], weight.shape[1]
    what = _what(input, offsets, groups, output, stride, upsample)
    grid = _grid(isa, offsets, output, what, stride)
    tile = _tile("grid_conv" if grid else "tap_conv", last, input, offsets, output)
    rows, columns = math.prod(output.shape[2:-1]), output.shape[-1]
    first, size = rows, tile.size
    shared = 1
    if grid:
        shared = min(tile.shared, _power(_cut(rows, grid.gap)))
        # A tile holds the first ones of the rows that a thread sums.
        first, size = _cut(_cut(rows, grid.gap), shared) * grid.gap, tile.size // shared
    channels = min(tile.channels, _power(outputs)) if last else 1
    across = _fitting(columns, size // channels, _ACROSS)
    down = _fitting(first, size // (channels * across))
    if not last:
        channels = min(_power(outputs), size // (across * down))
    programs = batch * _cut(outputs, channels) * _cut(first, down) * _cut(columns, across)
    # A program reads the weights of its channels together.
    weight = weight.flatten(0, 1).T.contiguous() if last else weight.contiguous()
    weight_strides = (1, outputs * per_group) if last else (offsets.shape[-2], 1)
    tensors = output, input, weight, offsets.contiguous(), weight if bias is None else bias.contiguous()
    constants = {"BIAS": bias is not None, "ROWS": down, "COLUMNS": across, "CHANNELS": channels}
    if grid:
        _launch(
            kernels.grid_conv, programs, *tensors, outputs, grid.gap, *input.shape[2:], rows, columns,
            *input.stride(), *output.stride(), *weight_strides,
            DOWN=grid.down, ACROSS=grid.across, SHARED=shared, **constants, SUM=what["SUM"], num_warps=tile.warps,
        )  # fmt: skip
        return output
    _launch(
        kernels.tap_conv, programs, *tensors, outputs, outputs // groups,
        *_three(input.shape[2:]),
        rows, _three(output.shape[2:])[1], columns,
        *_three(stride), *_three(upsample),
        *input.stride()[:2], *_three(input.stride()[2:], 0), *output.stride()[:2], *_three(output.stride()[2:], 0),
        *weight_strides, TAPS=offsets.shape[-2], **constants, **what, num_warps=tile.warps,
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
    last = lies_last(input) and lies_last(grad)
    if last and offsets.ndim == 4:
        grad, input, last = grad.contiguous(), input.contiguous(), False  # as in `tap_conv`
    outputs, per_group, taps = grad.shape[1], input.shape[1] // groups, offsets.shape[-2]
    batch, pixels = grad.shape[0], math.prod(grad.shape[2:])
    if not batch * pixels * taps * outputs:
        return grad.new_zeros(outputs, per_group, taps)
    tile = _tile("tap_conv_weight", last, input, offsets, grad)
    at_once = _fitting(taps, tile.shared)
    channels = min(tile.channels, _power(outputs)) if last else 1
    step = min(_power(pixels), tile.size // (channels * at_once))
    if not last:
        channels = min(_power(outputs), tile.size // (at_once * step))
    programs = _cut(taps, at_once) * _cut(outputs, channels) * per_group
    # Cut by shapes alone, so that a call has the same bits again; samples last, as one more costs a program least.
    steps, wanted = _cut(pixels, step), max(1, _PROGRAMS // programs)
    chunks = _cut(steps, wanted)
    samples = _cut(batch, max(1, wanted // _cut(steps, chunks)))
    count = _cut(steps, chunks) * _cut(batch, samples)
    wide = torch.promote_types(grad.dtype, torch.float32)
    parts = grad.new_empty(count, outputs, per_group, taps, dtype=wide)
    _launch(
        kernels.tap_conv_weight, count * programs, parts, grad, input, offsets.contiguous(),
        outputs, outputs // groups, taps, batch, pixels, samples, chunks,
        *_three(input.shape[2:]), *_three(grad.shape[2:])[1:],
        *_three(stride), *_three(upsample),
        *input.stride()[:2], *_three(input.stride()[2:], 0), *grad.stride()[:2], *_three(grad.stride()[2:], 0),
        TAPS=at_once, PIXELS=step, CHANNELS=channels,
        **_what(input, offsets, groups, grad, stride, upsample), num_warps=tile.warps,
    )  # fmt: skip
    return parts.sum(0).to(grad.dtype)


def _grid(
    isa: str, offsets: torch.Tensor, output: torch.Tensor, what: dict[str, Any], stride: Sequence[int]
) -> Grid | None:
    """Return the grid of taps that a caller described, where rows of outputs can share what they read."""
    grid = Grid.parse(isa)
    # Forward mode asks for a convolution's bias alone, by no taps.
    if grid is None or what["PER_PAIR"] or grid.down * grid.across != offsets.shape[0]:
        return None
    if what["UPSAMPLED"] or what["WIDE"] or not what["DEPTHWISE"] or max(stride) > 1:
        return None
    return grid if output.shape[2] > grid.gap else None


def _tile(kernel: str, last: bool, input: torch.Tensor, offsets: torch.Tensor, output: torch.Tensor) -> tiles.Tile:
    """Return the tile of a call whose output, or whose gradient in it, is `output`."""
    outputs = output.shape[1]
    pixels = _power(output.numel() // outputs)
    return tiles.find(
        tiles.Launch(kernel, last, str(input.dtype).removeprefix("torch."), offsets.shape[-2], outputs, pixels)
    )


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
        sum(size * step for size, step in zip(output.shape[2:], output.stride()[2:], strict=True)),
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


def _three(entries: Sequence[int], missing: int = 1) -> tuple[int, ...]:
    """Return one entry for each of three axes."""
    return (missing,) * (3 - len(entries)) + tuple(entries)


def _power(number: int) -> int:
    """Return the least power of two that is no less."""
    return 1 << max(0, number - 1).bit_length()


def _fitting(size: int, most: int, least: int = 1) -> int:
    """Return the largest power of two, of at most `most`, whose multiples exceed a size by a quarter at most."""
    tile = min(most, _power(size))
    while tile > least and 4 * _cut(size, tile) * tile > 5 * size:
        tile //= 2
    return tile


def _cut(whole: int, part: int) -> int:
    """Return how many parts make up the whole."""
    return -(-whole // part)
