"""Convolution as one matrix product: every window of the input as a row of a matrix (im2col)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from atrous._geometry import Geometry
from atrous._watch import recorded, unwatched

_FEWEST_CHANNELS = 64
_MOST_ELEMENTS = 2**22  # of the matrix at one time: 8 MiB
_FAST_IN_BFLOAT16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()


def prefers_columns(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, groups: int) -> bool:
    """Return whether `conv_by_columns` is faster than float32, for what has to avoid torch's kernels in bfloat16.

    That is where the processor multiplies bfloat16 itself and the rows are long, so that the products outweigh the
    copies (benchmarks/README.md); and where nothing is recorded, for the gradients run in float32.
    """
    return (
        _FAST_IN_BFLOAT16
        and groups == 1
        and input.dtype == torch.bfloat16
        and weight.shape[1] >= _FEWEST_CHANNELS
        and unwatched(input, weight, bias)
        and not recorded(input, weight, bias)
    )


def conv_by_columns(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry
) -> torch.Tensor:
    """Run the reference's `conv` of one group, not differentiable: sums in float32, rounded once."""
    outputs = weight.shape[0]
    matrix = weight.movedim(1, -1).reshape(outputs, -1).t()
    windows = _windows(input.movedim(1, -1), geometry)
    places = windows.shape[: geometry.ndim + 1]
    result = input.new_empty(*places, outputs)
    for part in _parts(places, matrix.shape[0]):
        columns, rows = windows[part].reshape(-1, matrix.shape[0]), result[part].view(-1, outputs)
        if bias is None:
            torch.mm(columns, matrix, out=rows)
        else:
            torch.addmm(bias, columns, matrix, out=rows)
    result = result.movedim(-1, 1)
    return result.contiguous() if input.is_contiguous() and weight.is_contiguous() else result


def _windows(last: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Return what each output of (B, *S, C) reads, as (B, *P, *K, C): a view, but for the padding."""
    if any(map(any, geometry.padding)):
        last = F.pad(last, [0, 0, *(side for pair in reversed(geometry.padding) for side in pair)])
    columns = zip(geometry.extent, geometry.stride, geometry.dilation, strict=True)
    for axis, (extent, stride, dilation) in enumerate(columns, 1):
        last = last.unfold(axis, extent, stride)[..., ::dilation]
    return last.movedim(geometry.ndim + 1, -1)


def _parts(places: Sequence[int], length: int) -> Iterator[tuple[slice, ...]]:
    """Yield slices of (B, P_1), of whole samples or of rows of one, whose matrices are small."""
    batch, rows = places[:2]
    of_row = math.prod(places[2:]) * length
    samples = max(1, _MOST_ELEMENTS // max(1, rows * of_row))
    step = rows if samples > 1 else max(1, _MOST_ELEMENTS // max(1, of_row))
    for sample in range(0, batch, samples):
        for row in range(0, rows, max(1, step)):
            yield slice(sample, sample + samples), slice(row, row + step)
