"""Sums over taps: the operation that convolutions with holes, of any spacing, are made of.

Legend: B batch, C channels in, D channels out, S input size, P output size, T taps, N axes.
"""

from __future__ import annotations

import torch

from atrous._autocast import autocasts
from atrous._backends import choose
from atrous._errors import ShapeError
from atrous._geometry import Ints, integers
from atrous._ops import implementation
from atrous.functional._check import LARGEST, check_bias, check_dtypes, check_input, check_steps
from atrous.functional.routes import note

_INTEGERS = (torch.int32, torch.int64, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64)


def tap_conv(
    input: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: Ints = 1,
    upsample: Ints = 1,
    output_size: Ints | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Sum pixels at integer offsets, each with its weight.

    `y[o, p] = bias[o] + sum over c, t of w[o, c, t] xu[c, p stride + offsets[t]]`, where xu is the input with
    `upsample - 1` zeros after every pixel, and c runs over the channels of the group of o. A tap on such a zero, or
    outside of the image, is left out: an infinite weight makes no NaN there.

    The cost is the number of taps, never their extent. A convolution has `offsets = index * dilation - padding`; a
    transposed one of stride s has `upsample=s`. Offsets get no gradient.

    Args:
        input: (B, C, *S) or (C, *S), with 1 to 3 axes.
        weight: (D, C/groups, T); its shape says how many groups there are.
        offsets: (T, N), or (D, C/groups, T, N) where every pair of channels has its own; an integer dtype, in pixels
            of the upsampled input. Offsets beyond 32 bits are as far outside as 32 bits reach.
        bias: (D,) or None.
        stride: pixels of the upsampled input between outputs, one integer or one per axis.
        upsample: pixels of the upsampled input between pixels of the input, one integer or one per axis.
        output_size: P, one integer or one per axis; None is ceil(((S - 1) upsample + 1) / stride).
        backend: None chooses; 'reference', 'cpu' (compiled) or 'triton' (GPUs) runs that one and nothing else.

    Returns:
        (B, D, *P) or (D, *P); float32 under autocast.

    Raises:
        ShapeError: tensors that do not fit one another, or offsets that are no integers.
        GeometryError: a stride or upsample below 1 or above 2^31 - 1, an output_size below 0, or a wrong number of any.
        BackendError: an unknown backend, or a named one that cannot run this call.

    Source: Yu and Koltun 2016, eq. 2, is the case of a regular grid; Khalfaoui-Hassani et al. 2023 (DCLS) that of
    learned offsets.

    Example:
        >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
        >>> tap_conv(x, torch.tensor([[[1.0, 10.0]]]), torch.tensor([[-1], [3]]))
        tensor([[40., 51.,  2.,  3.,  4.]])
    """
    ndim = _check(input, weight, offsets, bias)
    steps = integers("stride", stride, ndim, 1), integers("upsample", upsample, ndim, 1)
    check_steps("stride", steps[0])
    check_steps("upsample", steps[1])
    if autocasts(input):
        input, weight, bias = _to_float32(input), _to_float32(weight), bias if bias is None else _to_float32(bias)
    if offsets.dtype != torch.int32:
        offsets = _to_int32(offsets)
    batched = input if input.ndim == ndim + 2 else input[None]
    if output_size is None:
        axes = zip(batched.shape[2:], *steps, strict=True)
        output_size = tuple(((size - 1) * up) // step + 1 if size else 0 for size, step, up in axes)
    output_size = integers("output_size", output_size, ndim, 0)
    route = choose("tap_conv", input, weight, ndim, backend)
    note("tap_conv", batched, weight, route)
    output = implementation("tap_conv", route.forward)(batched, weight, offsets, bias, *steps, output_size)
    return output if input.ndim == ndim + 2 else output[0]


def _to_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Convert what autocast would; it leaves other dtypes alone."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _to_int32(offsets: torch.Tensor) -> torch.Tensor:
    wide = offsets.long()
    if offsets.dtype == torch.uint64:
        # From 2^63 on they have become negative.
        wide = wide.where(wide >= 0, LARGEST)
    return wide.clamp(-LARGEST, LARGEST).int()


def _check(input: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor, bias: torch.Tensor | None) -> int:
    """Raise unless the tensors fit one another, and return N."""
    # Compared one by one, so that a compiler with free sizes knows N.
    ndim = next((n for n in (1, 2, 3) if offsets.ndim in (2, 4) and offsets.shape[-1] == n), None)
    if ndim is None:
        raise ShapeError(
            f"tap_conv: offsets: got shape {tuple(offsets.shape)}, expected (T, N) or (D, C/groups, T, N), "
            "with N of 1, 2 or 3 axes"
        )
    if offsets.dtype not in _INTEGERS:
        raise ShapeError(
            f"tap_conv: offsets: got {offsets.dtype}, expected integers such as torch.int32; "
            "split a real position over the pixels around it"
        )
    check_input("tap_conv", input, ndim)
    if weight.ndim != 3:
        raise ShapeError(f"tap_conv: weight: got shape {tuple(weight.shape)}, expected (D, C/groups, T)")
    outputs, per_group, _ = weight.shape
    channels = input.shape[-ndim - 1]
    if not (channels and outputs and per_group) or channels % per_group or outputs % (channels // per_group):
        raise ShapeError(
            f"tap_conv: got {channels} input channels and weight {tuple(weight.shape)}, expected (D, C/groups, T) with "
            "groups to divide both C and D, none of them 0"
        )
    if offsets.shape[:-1] != (weight.shape if offsets.ndim == 4 else weight.shape[2:]):
        raise ShapeError(
            f"tap_conv: offsets: got shape {tuple(offsets.shape)} beside weight {tuple(weight.shape)}, expected "
            f"({weight.shape[2]}, {ndim}) or {(*weight.shape, ndim)}"
        )
    check_bias("tap_conv", bias, outputs)
    check_dtypes("tap_conv", input, weight, bias)
    return ndim
