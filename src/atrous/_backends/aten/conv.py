"""Convolution by torch's operator: behind a pad where it knows no asymmetric padding, in float32 where better."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from atrous._autocast import all_converted, computed_dtype, outside
from atrous._backends.aten.columns import conv_by_columns, prefers_columns
from atrous._geometry import Geometry
from atrous._watch import recorded, unwatched

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_ONEDNN = torch._C._has_mkldnn and hasattr(torch.ops.aten, "mkldnn_convolution")
_SLOW_IN_FLOAT16 = not getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: True)()


def conv(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry, groups: int
) -> torch.Tensor:
    """Run the reference's `conv` through `torch.nn.functional.conv{1,2,3}d`."""
    if widens(input, geometry):
        # Autocast would take it back, and a cast keeps the layout.
        tensors = all_converted(input, weight, bias)
        with outside(input):
            if prefers_columns(*tensors, groups):
                return conv_by_columns(*tensors, geometry)
            low, wide = _wide(*tensors)
            return conv(*wide, geometry, groups).to(low)
    first = _pads_quicker(input, weight, geometry)
    input, shared = _pad(input, geometry, (0,) if first else _shared(geometry))
    if _passed_over(input, weight, geometry, groups):
        options = shared, geometry.stride, geometry.dilation, groups
        result: torch.Tensor = torch.ops.aten.mkldnn_convolution(input, weight, bias, *options)
        return result
    convolve = CONV[geometry.ndim]
    return convolve(input, weight, bias, geometry.stride, shared, geometry.dilation, groups)


def conv_transpose(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    geometry: Geometry,
    groups: int,
    output_padding: Sequence[int],
) -> torch.Tensor:
    """Run the reference's `conv_transpose`, padded alike on both sides, through torch's own."""
    if widens(input, geometry):
        low, wide = _wide(input, weight, bias)
        with outside(input):
            return conv_transpose(*wide, geometry, groups, output_padding).to(low)
    padding = tuple(before for before, _ in geometry.padding)
    spread = _CONV_TRANSPOSE[geometry.ndim]
    return spread(input, weight, bias, geometry.stride, padding, output_padding, groups, geometry.dilation)


def conv_gradients(
    grad: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    geometry: Geometry,
    groups: int,
    wanted: Sequence[bool],
) -> tuple[torch.Tensor | None, ...]:
    """Return the gradients of `conv` in input, weight and bias, None where not wanted; differentiable."""
    if widens(input, geometry):
        with outside(input):
            wide = conv_gradients(grad.float(), input.float(), weight.float(), geometry, groups, wanted)
        return tuple(None if one is None else one.to(input.dtype) for one in wide)
    padded, shared = _pad(input, geometry, _shared(geometry))
    none = (0,) * geometry.ndim
    options = (weight.shape[0],), geometry.stride, shared, geometry.dilation, False, none, groups, wanted
    found = torch.ops.aten.convolution_backward.default(grad, padded, weight, *options)
    d_input, *others = (one if needed else None for one, needed in zip(found, wanted, strict=True))
    if d_input is not None:
        for axis, (size, pair) in enumerate(zip(input.shape[2:], geometry.padding, strict=True), 2):
            d_input = d_input.narrow(axis, pair[0] - min(pair), size)
    return d_input, *others


def widens(input: torch.Tensor, geometry: Geometry) -> str | None:
    """Return why a call runs in float32 instead of in its own dtype, as the end of a sentence, or None."""
    return widening(computed_dtype(input), geometry) if input.device.type == "cpu" else None


def widening(dtype: torch.dtype, geometry: Geometry) -> str | None:
    """Return why a convolution in `dtype` on a CPU runs in float32, as the end of a sentence, or None.

    In bfloat16 oneDNN reads and writes beside its tensors on some CPUs, unless stride and dilation are 1 in 1-D or 2-D
    (torch 2.13; `examples/bfloat16_channels_last.py` shows it). The layout does not count: strided and 3-D calls are
    wrong in every one, Inductor chooses `channels_last` for the others, and derivatives of a dilated convolution are
    strided ones. In float16 it has kernels only for processors that multiply such numbers themselves.
    """
    if dtype == torch.bfloat16 and (geometry.ndim > 2 or max(*geometry.stride, *geometry.dilation) > 1):
        return "torch is wrong in bfloat16"
    # An exported program may run on another processor.
    if dtype == torch.float16 and _SLOW_IN_FLOAT16 and not torch.compiler.is_exporting():
        return "torch is slow in float16 on this processor"
    return None


def _wide(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.dtype, tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
    """Return the dtype of a convolution, and its tensors, rounded to it, in float32."""
    input, weight, bias = all_converted(input, weight, bias)
    return input.dtype, (input.float(), weight.float(), bias if bias is None else bias.float())


def pads_slowly(geometry: Geometry) -> bool:
    """Return whether torch may take longer for the padding of a convolution than a copy of its input does.

    In one axis oneDNN leaves its fast path at dilations of 16 and more, unless nothing is padded.
    """
    return geometry.ndim == 1 and geometry.dilation[0] >= 16 and _shared(geometry) != (0,)


def _pads_quicker(input: torch.Tensor, weight: torch.Tensor, geometry: Geometry) -> bool:
    """Return whether padding the input first is quicker: 1.1 to 2.1 times, where measured (benchmarks/README.md).

    Gradients gain from 5 taps on; autograd takes them where the forward went.
    """
    return (
        pads_slowly(geometry)
        and not torch.compiler.is_compiling()
        and input.is_cpu
        and input.dtype == torch.float32
        and 16 <= weight.shape[1] <= 128
        and (geometry.kernel[0] >= 5 or not recorded(input, weight))
    )


def _passed_over(input: torch.Tensor, weight: torch.Tensor, geometry: Geometry, groups: int) -> bool:
    """Return whether torch, by a rule of sizes that leaves out the width, would not take oneDNN for one small volume.

    Its own loop takes 2 to 11 times as long there; its gradients follow the same rule, so only what is not recorded.
    """
    return (
        geometry.ndim == 3
        and _ONEDNN
        and groups == 1
        and input.dtype == torch.float32
        and input.shape[0] == 1
        and weight.shape[1] > 1
        and min(weight.shape[3:]) <= 3
        and math.prod(weight.shape[2:]) > 1
        and math.prod(input.shape[1:4]) <= 20480
        and unwatched(input, weight, None)
        and not recorded(input, weight)
        and bool(torch.backends.mkldnn.enabled)
    )


def _shared(geometry: Geometry) -> tuple[int, ...]:
    """Return the padding that both sides of each axis share: torch's own. Only the rest needs a copy of the input."""
    return tuple(min(pair) for pair in geometry.padding)


def _pad(input: torch.Tensor, geometry: Geometry, shared: tuple[int, ...]) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Return the input with all padding but `shared`, and `shared`."""
    if all(pair == (both, both) for pair, both in zip(geometry.padding, shared, strict=True)):
        return input, shared
    pairs = zip(reversed(geometry.padding), reversed(shared), strict=True)
    return F.pad(input, [side - both for pair, both in pairs for side in pair]), shared
