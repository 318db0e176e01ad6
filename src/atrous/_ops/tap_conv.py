"""The two compiled operations with every torch contract; each derivative of either is one of the two again.

`torch.library` registrations serve compiling and exporting, an `autograd.Function` per operation serves eager calls:
a registered derivative knows neither `torch.func` nor forward mode, and Dynamo takes no Function with a `jvp`.

A weight is (D, C/groups, T), or (D, C/groups, *K) with T taps in all.

Legend: B batch, C channels in, D channels out, G groups, S input size, P output size, T taps, N axes, V mapped size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.utils.flop_counter import register_flop_formula

from atrous._autocast import autocasts
from atrous._backends import cpu, triton
from atrous._layout import lies_last
from atrous._watch import recorded

_LARGEST = 2**31 - 1


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
    """Run the compiled `tap_conv`, differentiable to every order; arguments as in `atrous._backends.cpu`."""
    arguments = input, weight, offsets, bias, stride, upsample, output_size, isa
    if autocasts(input):
        # The caller has converted; the registered rule would do it again, to float32.
        with torch.autocast(input.device.type, enabled=False):
            return tap_conv(*arguments)
    if torch.compiler.is_compiling():
        return cpu.tap_conv(*arguments)
    run = _TapConv.apply if recorded(input, weight, bias) else _TapConv.forward
    result: torch.Tensor = run(*arguments)
    return result


def tap_conv_weight(
    grad: torch.Tensor,
    input: torch.Tensor,
    offsets: torch.Tensor,
    stride: Sequence[int],
    upsample: Sequence[int],
    groups: int,
    isa: str = "",
) -> torch.Tensor:
    """Run the compiled `tap_conv_weight`, differentiable to every order; arguments as in `atrous._backends.cpu`."""
    arguments = grad, input, offsets, stride, upsample, groups, isa
    if autocasts(input):
        with torch.autocast(input.device.type, enabled=False):
            return tap_conv_weight(*arguments)
    if torch.compiler.is_compiling():
        return cpu.tap_conv_weight(*arguments)
    run = _TapConvWeight.apply if recorded(grad, input) else _TapConvWeight.forward
    result: torch.Tensor = run(*arguments)
    return result


class _TapConv(torch.autograd.Function):
    """`tap_conv`; bilinear in input and weight."""

    @staticmethod
    def forward(*arguments: Any) -> torch.Tensor:
        # Nobody follows the call inside: the registered derivative would only cost time.
        with torch._C._AutoDispatchBelowAutograd():
            return cpu.tap_conv(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        input, weight, offsets, _, *ctx.plan = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, weight, offsets)
        ctx.save_for_forward(input, weight, offsets)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor | None) -> tuple[Any, ...]:
        input, weight, offsets = ctx.saved_tensors
        stride, upsample, _, isa = ctx.plan
        grads: list[torch.Tensor | None] = [None] * len(ctx.needs_input_grad)
        if grad is None:
            return tuple(grads)
        if ctx.needs_input_grad[0]:
            grads[0] = input_gradient(grad, input, weight, offsets, stride, upsample, isa)
        if ctx.needs_input_grad[1]:
            groups = input.shape[1] // weight.shape[1]
            grads[1] = tap_conv_weight(grad, input, offsets, stride, upsample, groups, isa).reshape(weight.shape)
        if ctx.needs_input_grad[3]:
            grads[3] = channel_sum(grad)
        return tuple(grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        d_input, d_weight, _, d_bias = tangents[:4]
        with _forward_mode(ctx.saved_tensors) as (input, weight, offsets):
            if d_input is not None:
                result = tap_conv(d_input, weight, offsets, d_bias, *ctx.plan)
                return result if d_weight is None else result + tap_conv(input, d_weight, offsets, None, *ctx.plan)
            if d_weight is None:
                # A bias alone is the sum over no taps.
                d_weight, offsets = weight[..., :0], offsets[..., :0, :]
            return tap_conv(input, d_weight, offsets, d_bias, *ctx.plan)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[torch.Tensor, int]:
        return _map_tap_conv(tap_conv, info, in_dims, *arguments)


class _TapConvWeight(torch.autograd.Function):
    """`tap_conv_weight`; bilinear in grad and input."""

    @staticmethod
    def forward(*arguments: Any) -> torch.Tensor:
        # Nobody follows the call inside: the registered derivative would only cost time.
        with torch._C._AutoDispatchBelowAutograd():
            return cpu.tap_conv_weight(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        grad, input, offsets, *ctx.plan = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, input, offsets)
        ctx.save_for_forward(grad, input, offsets)

    @staticmethod
    def backward(ctx: Any, weight: torch.Tensor | None) -> tuple[Any, ...]:
        grad, input, offsets = ctx.saved_tensors
        stride, upsample, _, isa = ctx.plan
        grads: list[torch.Tensor | None] = [None] * len(ctx.needs_input_grad)
        if weight is None:
            return tuple(grads)
        if ctx.needs_input_grad[0]:
            grads[0] = tap_conv(input, weight, offsets, None, stride, upsample, grad.shape[2:], isa)
        if ctx.needs_input_grad[1]:
            grads[1] = input_gradient(grad, input, weight, offsets, stride, upsample, isa)
        return tuple(grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        d_grad, d_input = tangents[:2]
        with _forward_mode(ctx.saved_tensors) as (grad, input, offsets):
            if d_grad is None:
                return tap_conv_weight(grad, d_input, offsets, *ctx.plan)
            result = tap_conv_weight(d_grad, input, offsets, *ctx.plan)
            return result if d_input is None else result + tap_conv_weight(grad, d_input, offsets, *ctx.plan)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[torch.Tensor, int]:
        return _map_tap_conv_weight(tap_conv_weight, info, in_dims, *arguments)


def _map_tap_conv(
    call: Callable[..., torch.Tensor],
    info: Any,
    in_dims: tuple[Any, ...],
    input: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None,
    *plan: Any,
) -> tuple[torch.Tensor, int]:
    """Run `call` once for V mapped calls: with V times the batch where only the input is mapped, else the groups."""
    size, (x, w, o, b) = info.batch_size, in_dims[:4]
    if w is o is b is None:
        output = call(_fold(input, x, size, 0), weight, offsets, bias, *plan)
        return torch.unflatten(output, 0, (size, -1)), 0
    weight = _fold(weight, w, size, 0)
    offsets = _fold_offsets(offsets, o, size, weight.shape[0], weight.shape[1])
    bias = None if bias is None else _fold(bias, b, size, 0)
    output = call(_fold(input, x, size, 1), weight, offsets, bias, *plan)
    return torch.unflatten(output, 1, (size, -1)), 1


def _map_tap_conv_weight(
    call: Callable[..., torch.Tensor],
    info: Any,
    in_dims: tuple[Any, ...],
    grad: torch.Tensor,
    input: torch.Tensor,
    offsets: torch.Tensor,
    stride: Sequence[int],
    upsample: Sequence[int],
    groups: int,
    *isa: str,
) -> tuple[torch.Tensor, int]:
    """Run `call` once for V mapped calls: with V times the groups."""
    size, (g, x, o) = info.batch_size, in_dims[:3]
    grad, input = _fold(grad, g, size, 1), _fold(input, x, size, 1)
    groups *= size
    offsets = _fold_offsets(offsets, o, size, grad.shape[1], input.shape[1] // groups)
    weight = call(grad, input, offsets, stride, upsample, groups, *isa)
    return torch.unflatten(weight, 0, (size, -1)), 0


@contextmanager
def _forward_mode(saved: Sequence[torch.Tensor]) -> Iterator[Sequence[torch.Tensor]]:
    """Yield saved tensors for a `jvp` to use, so that it has a jvp of its own.

    torch calls a `jvp` with forward mode off, and so silently loses terms of nested `torch.func.jvp`s. With it on, the
    saved tensors must not bring the tangents that the call is for: those would call the same `jvp` again.
    """
    if not torch._C._are_functorch_transforms_active():
        yield saved
        return
    primals = [forward_ad.unpack_dual(tensor, level=0).primal for tensor in saved]  # type: ignore[no-untyped-call]
    with forward_ad._set_fwd_grad_enabled(True):
        yield primals


def input_gradient(
    grad: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    stride: Sequence[int],
    upsample: Sequence[int],
    isa: str = "",
) -> torch.Tensor:
    """Return the adjoint of `tap_conv` in its input, of which only the shape is read.

    Output p sees pixel i where `p stride + offset = i upsample`, so pixel i is seen by p where `i upsample - offset =
    p stride`: the same taps from outputs to inputs, offsets negated, stride and upsample exchanged.
    """
    groups = input.shape[1] // weight.shape[1]
    back = exchange(offsets, groups) if offsets.ndim == 4 else offsets
    # The smallest int32 has no negative.
    back = back.clamp(min=-_LARGEST).neg()
    return tap_conv(grad, exchange(weight, groups), back, None, upsample, stride, input.shape[2:], isa)


def channel_sum(grad: torch.Tensor) -> torch.Tensor:
    """Return the sum of every channel, the same bits for every number of threads.

    torch cuts a sum to one number by threads, and a sum to several numbers by these; so a lone channel goes twice.
    """
    channels = grad.shape[1]
    twice = grad.expand(-1, 2, *[-1] * (grad.ndim - 2)) if channels == 1 else grad
    return twice.sum((0, *range(2, grad.ndim)))[:channels]


def exchange(pairs: torch.Tensor, groups: int) -> torch.Tensor:
    """Exchange inputs and outputs inside every group: (D, C/groups, ...) to (C, D/groups, ...)."""
    outputs, per_group, *rest = pairs.shape
    # Not `flatten`, which `torch.autograd.grad` cannot batch.
    apart = pairs.reshape(groups, outputs // groups, per_group, *rest)
    return apart.transpose(1, 2).reshape(groups * per_group, outputs // groups, *rest)


def _fold(tensor: torch.Tensor, dim: int | None, size: int, axis: int) -> torch.Tensor:
    """Merge the mapped dimension into `axis`, in front; what is not mapped is repeated."""
    if dim is None:
        tensor = tensor.unsqueeze(axis).expand(*tensor.shape[:axis], size, *tensor.shape[axis:])
    else:
        tensor = tensor.movedim(dim, axis)
    return tensor.flatten(axis, axis + 1)


def _fold_offsets(offsets: torch.Tensor, dim: int | None, size: int, outputs: int, per_group: int) -> torch.Tensor:
    """Merge the mapped dimension of offsets into the `outputs` (V D); taps that all pairs share stay so if they can."""
    if dim is None:
        return offsets if offsets.ndim == 2 else _fold(offsets, None, size, 0)
    offsets = offsets.movedim(dim, 0)
    if offsets.ndim == 3:
        offsets = offsets[:, None, None].expand(-1, outputs // size, per_group, -1, -1)
    return offsets.flatten(0, 1)


def _fake_tap_conv(
    input: torch.Tensor,
    weight: torch.Tensor,
    offsets: Any,
    bias: Any,
    stride: Any,
    upsample: Any,
    size: Any,
    isa: str = "",
) -> torch.Tensor:
    # As `csrc/ops.cpp`: channels that lie last in memory stay there.
    if not lies_last(input):
        return input.new_empty(input.shape[0], weight.shape[0], *size)
    return input.new_empty(input.shape[0], *size, weight.shape[0]).movedim(-1, 1)


def _fake_tap_conv_weight(
    grad: torch.Tensor,
    input: torch.Tensor,
    offsets: torch.Tensor,
    stride: Any,
    upsample: Any,
    groups: int,
    isa: str = "",
) -> torch.Tensor:
    return input.new_empty(grad.shape[1], input.shape[1] // groups, offsets.shape[-2])


def _flops(_: Any, weight: Sequence[int], *arguments: Any, out_shape: Sequence[int], **options: Any) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _flops_weight(grad: Sequence[int], *arguments: Any, out_shape: Sequence[int], **options: Any) -> int:
    return 2 * math.prod(grad) * math.prod(out_shape[1:])


def _register(name: str, function: Any, vmap: Any, fake: Any, flops: Any) -> None:
    operation = f"atrous::{name}"
    torch.library.register_fake(operation, fake)
    torch.library.register_autograd(operation, function.backward, setup_context=function.setup_context)
    torch.library.register_vmap(operation, vmap)
    for device in ("cpu", "cuda"):
        torch.library.register_autocast(operation, device, torch.float32)
    register_flop_formula(getattr(torch.ops.atrous, name))(flops)


if cpu.UNAVAILABLE is None:
    # Below a registered map no Function may be called.
    _register("tap_conv", _TapConv, partial(_map_tap_conv, cpu.tap_conv), _fake_tap_conv, _flops)
    _register(
        "tap_conv_weight",
        _TapConvWeight,
        partial(_map_tap_conv_weight, cpu.tap_conv_weight),
        _fake_tap_conv_weight,
        _flops_weight,
    )
    if triton.UNAVAILABLE is None:
        torch.library.impl("atrous::tap_conv", "cuda", triton.tap_conv)
        torch.library.impl("atrous::tap_conv_weight", "cuda", triton.tap_conv_weight)
