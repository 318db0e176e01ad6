"""Convolutions with the contract of `torch.nn.functional`, and the paddings that it lacks.

Legend: B batch, C channels in, D channels out, S input size, P output size, K kernel size, N axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from atrous._backends import choose, choose_conv
from atrous._errors import ShapeError
from atrous._geometry import Geometry, Ints, Padding, plain
from atrous._ops import implementation
from atrous._ops.conv import conv, prepare
from atrous._watch import unwatched
from atrous.functional._check import (
    check_bias,
    check_dtypes,
    check_groups,
    check_input,
    check_margins,
    check_padding_mode,
    refuse_extent,
    resolve,
)
from atrous.functional.routes import note

# In the middle of a network everything that a call looks at comes from memory: checks and choices that take 60 us in a
# loop of one layer take 300. So batches that look alike go straight to what the first of them found.
_ready: dict[Any, Callable[..., torch.Tensor]] = {}
_MOST_READY = 1024


def forget() -> None:
    """Forget what earlier calls found: something that decides has changed since."""
    _ready.clear()


def conv1d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    backend: str | None = None,
) -> torch.Tensor:
    """Correlate a signal with a kernel with holes.

    `y[o, p] = bias[o] + sum over c, t of w[o, c, t] x[c, p stride + t dilation - b]`, b the padding before.

    Everything that `torch.nn.functional.conv1d` accepts, and more paddings: `((before, after),)`, 'same' with a
    stride (P = ceil(S / stride)) and 'causal' (all of `dilation (K - 1)` before: output p reads nothing after
    p stride).

    Args:
        input: (B, C, L) or (C, L).
        weight: (D, C/groups, K).
        bias: (D,) or None.
        stride: pixels of the input between outputs.
        padding: an integer, 'valid', 'same', 'causal', or a sequence with one entry per axis, an entry being an
            integer, a pair (before, after) or a word; in pixels of the input.
        dilation: pixels of the input between taps.
        groups: how many independent channel groups; divides C and D.
        padding_mode: 'zeros', or 'reflect', 'replicate', 'circular' as in `torch.nn.functional.pad`.
        backend: None chooses; 'reference', 'aten', 'cpu' (compiled) or 'triton' (GPUs) runs that one and nothing else.

    Returns:
        (B, D, P) or (D, P), with P = (L + b + a - dilation (K - 1) - 1) // stride + 1.

    Raises:
        ShapeError: tensors that do not fit one another, or a kernel wider than the padded input.
        GeometryError: a stride, padding, dilation or padding_mode that cannot be, or a stride above 2^31 - 1.
        BackendError: an unknown backend, or a named one that cannot run this call.

    Source: the contract of `torch.nn.functional.conv1d`; 'causal' as in van den Oord et al. 2016 (WaveNet).

    Example:
        >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
        >>> w = torch.tensor([[[1.0, 1.0]]])
        >>> conv1d(x, w, padding="causal", dilation=2)
        tensor([[1., 2., 4., 6., 8.]])
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups, padding_mode, backend)


def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    backend: str | None = None,
) -> torch.Tensor:
    """Correlate an image with a kernel with holes; `conv1d` explains every argument and error.

    Args:
        input: (B, C, H, W) or (C, H, W).
        weight: (D, C/groups, K_h, K_w).
        bias: (D,) or None.
        stride: one integer, or one per axis.
        padding: one entry, or one per axis: `((1, 2), 0)`, `("causal", "same")`.
        dilation: one integer, or one per axis.
        groups: how many independent channel groups; divides C and D.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        backend: None, 'reference', 'aten', 'cpu' or 'triton'.

    Returns:
        (B, D, P_h, P_w) or (D, P_h, P_w).

    Raises:
        ShapeError: tensors that do not fit.
        GeometryError: a geometry that cannot be.
        BackendError: a backend that is unknown or cannot run this call.

    Source: Yu and Koltun 2016, eq. 2 (as a correlation); `dilated_convolve` is the true convolution.

    Example:
        >>> conv2d(torch.ones(1, 4, 4), torch.ones(1, 1, 3, 3), padding="same", dilation=2)
        tensor([[[4., 4., 4., 4.],
                 [4., 4., 4., 4.],
                 [4., 4., 4., 4.],
                 [4., 4., 4., 4.]]])
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups, padding_mode, backend)


def conv3d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    backend: str | None = None,
) -> torch.Tensor:
    """Correlate a volume or a video with a kernel with holes; `conv1d` explains every argument and error.

    Args:
        input: (B, C, D, H, W) or (C, D, H, W).
        weight: (D, C/groups, K_d, K_h, K_w).
        bias: (D,) or None.
        stride: one integer, or one per axis.
        padding: one entry, or one per axis: `("causal", "same", "same")` is causal in time.
        dilation: one integer, or one per axis.
        groups: how many independent channel groups; divides C and D.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        backend: None, 'reference', 'aten', 'cpu' or 'triton'.

    Returns:
        (B, D, P_d, P_h, P_w) or (D, P_d, P_h, P_w).

    Raises:
        ShapeError: tensors that do not fit.
        GeometryError: a geometry that cannot be.
        BackendError: a backend that is unknown or cannot run this call.

    Source: the contract of `torch.nn.functional.conv3d`.

    Example:
        >>> video = torch.zeros(2, 3, 8, 16, 16)
        >>> conv3d(video, torch.zeros(4, 3, 3, 3, 3), padding=("causal", "same", "same"), dilation=(4, 1, 1)).shape
        torch.Size([2, 4, 8, 16, 16])
    """
    return _conv(3, input, weight, bias, stride, padding, dilation, groups, padding_mode, backend)


def dilated_convolve(signal: torch.Tensor, kernel: torch.Tensor, dilation: Ints = 1) -> torch.Tensor:
    """Convolve in the true sense, with a kernel with holes: `y[t] = sum_u kernel[u] signal[t - dilation u]`.

    The kernel is flipped, unlike in every `conv` of deep learning, and y covers all t where it can be non-zero.

    Args:
        signal: (*S), N axes, no batch and no channels.
        kernel: (*K), N axes.
        dilation: pixels between taps, one integer or one per axis.

    Returns:
        (*P), with P = S + dilation (K - 1) per axis.

    Raises:
        ShapeError: a signal and a kernel of different dtypes or numbers of axes, without any, or an empty signal.
        GeometryError: a dilation below 1.

    Source: Huszar, Dilated convolutions and Kronecker factored convolutions, 2016; Yu and Koltun 2016, eq. 2.

    Example:
        >>> dilated_convolve(torch.tensor([1, 10, 100]), torch.tensor([1, 2]), dilation=2)
        tensor([  1,  10, 102,  20, 200])
    """
    ndim = signal.ndim
    if ndim == 0 or kernel.ndim != ndim:
        raise ShapeError(
            f"dilated_convolve: got a signal with {ndim} axes and a kernel with {kernel.ndim}, "
            "expected the same number, at least 1; batches and channels go through conv1d, conv2d, conv3d"
        )
    if not signal.numel():
        raise ShapeError(f"dilated_convolve: got an empty signal of shape {tuple(signal.shape)}, expected some samples")
    check_dtypes("dilated_convolve", signal, kernel)
    dilation = plain("dilation", dilation)
    extent = Geometry.resolve(tuple(kernel.shape), dilation=dilation, ndim=ndim).extent
    margin = tuple((size - 1, size - 1) for size in extent)
    geometry = Geometry.resolve(tuple(kernel.shape), padding=margin, dilation=dilation, ndim=ndim)
    route = choose("conv", signal, kernel, ndim, None)
    note("dilated_convolve", signal, kernel, route)
    run = implementation("conv", route.forward)
    return run(signal[None, None], kernel.flip(tuple(range(ndim)))[None, None], None, geometry, 1)[0, 0]


def _conv(
    ndim: int,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Ints,
    padding: Padding,
    dilation: Ints,
    groups: int,
    padding_mode: str,
    backend: str | None,
) -> torch.Tensor:
    call = None
    if padding_mode == "zeros" and input.ndim == ndim + 2 and unwatched(input, weight, bias):
        # All that checks and choices read of such a call, in types that are equal only where they mean the same.
        options = plain("stride", stride), plain("padding", padding), plain("dilation", dilation)
        layouts = input.shape, input.stride(), weight.shape, weight.stride(), None if bias is None else bias.shape
        call = ndim, input.get_device(), input.dtype, layouts, options, groups, type(groups), backend
        try:
            run = _ready.get(call)
        except TypeError:  # a size that a tracer leaves free has no hash
            run = call = None
        if run is not None:
            return run(input, weight, bias)
    _check(ndim, input, weight, bias, groups)
    check_padding_mode(f"conv{ndim}d", padding_mode)
    compiling = torch.compiler.is_compiling()
    geometry = resolve(tuple(weight.shape[2:]), stride, padding, dilation, ndim)
    batched = input if input.ndim == ndim + 2 else input[None]
    if padding_mode != "zeros":
        check_margins(f"conv{ndim}d", batched, geometry, padding_mode)
        batched = F.pad(batched, [side for pair in reversed(geometry.padding) for side in pair], mode=padding_mode)
        geometry = resolve(geometry.kernel, geometry.stride, 0, geometry.dilation, ndim)
    output_size = None if compiling else geometry.output_size(batched.shape[2:])
    if output_size is not None and 0 in output_size:
        refuse_extent(f"conv{ndim}d", batched, geometry)
    route = choose_conv(batched, weight, geometry, groups, output_size, backend)
    note(f"conv{ndim}d", batched, weight, route)
    if call is not None:
        if len(_ready) >= _MOST_READY:
            _ready.clear()
        _ready[call] = prepare(input.dtype, geometry, groups, output_size, route)
    output = conv(batched, weight, bias, geometry, groups, output_size, route)
    return output if input.ndim == ndim + 2 else output[0]


def _check(ndim: int, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, groups: int) -> None:
    name = f"conv{ndim}d"
    if weight.ndim != ndim + 2:
        raise ShapeError(
            f"{name}: weight: got shape {tuple(weight.shape)}, expected (D, C/groups, *K), {ndim + 2} axes"
        )
    check_input(name, input, ndim)
    check_groups(name, input.shape[-ndim - 1], weight, groups)
    check_bias(name, bias, weight.shape[0])
    check_dtypes(name, input, weight, bias)
