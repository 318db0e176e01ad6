"""A convolution along its route: one backend, or one forward and another backward; and a transposed convolution.

Legend: B batch, C channels in, D channels out, K kernel size, P output size, S input size, T taps, N axes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch

from atrous._autocast import all_converted
from atrous._backends import TAPS, Route, aten, implementation
from atrous._backends.triton import grid
from atrous._geometry import Geometry
from atrous._ops import tap_conv as taps
from atrous._watch import recorded

_LARGEST = 2**31 - 1


def conv(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    geometry: Geometry,
    groups: int,
    output_size: Sequence[int] | None,
    route: Route,
) -> torch.Tensor:
    """Convolve `input` (B, C, *S) with `weight` (D, C/groups, *K) to (B, D, *P), differentiable to every order.

    `output_size` is P, or None to work it out.
    """
    if route.forward in TAPS or route.backward in TAPS:
        # Torch's operators convert by themselves; taps have one dtype, which their derivatives keep.
        input, weight, bias = all_converted(input, weight, bias)
    return _along(input, weight, bias, geometry, groups, output_size, route)


def _along(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    geometry: Geometry,
    groups: int,
    output_size: Sequence[int] | None,
    route: Route,
) -> torch.Tensor:
    """Run `conv` of tensors that autocast would leave alone."""
    forward, backward, _ = route
    if forward != backward and recorded(input, weight, bias):
        result: torch.Tensor = _Mixed.apply(  # type: ignore[no-untyped-call]
            input, weight, bias, geometry, groups, output_size, route
        )
        return result
    return _forward(input, weight, bias, geometry, groups, output_size, forward)


def prepare(
    dtype: torch.dtype, geometry: Geometry, groups: int, output_size: Sequence[int] | None, route: Route
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]:
    """Return `conv` of all but the tensors, for eager calls that no transform and no mode follows."""
    forward, backward, _ = route

    def run(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return _along(input, weight, bias, geometry, groups, output_size, route)

    plain = geometry.symmetric and geometry.ndim < 3
    plain = plain and not aten.widening(dtype, geometry) and not aten.pads_slowly(geometry)
    if forward == "aten" and plain:
        convolve, padding = aten.CONV[geometry.ndim], tuple(before for before, _ in geometry.padding)
        options = geometry.stride, padding, geometry.dilation, groups

        def call_torch(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            if forward != backward and torch.is_grad_enabled():
                return run(input, weight, bias)
            return convolve(input, weight, bias, *options)

        return call_torch
    if forward == "cpu":
        operation = torch.ops.atrous.tap_conv.default
        offsets = _make_offsets_cached(geometry, torch.device("cpu"))
        plan = geometry.stride, (1,) * geometry.ndim, output_size

        def sum_taps(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            if not torch.is_inference_mode_enabled():
                return run(input, weight, bias)
            result: torch.Tensor = operation(input, weight, offsets, bias, *plan)
            return result

        return sum_taps
    return run


def conv_transpose(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    geometry: Geometry,
    groups: int,
    output_padding: Sequence[int],
    name: str,
) -> torch.Tensor:
    """Spread `input` (B, C, *S) by `weight` (C, D/groups, *K) to (B, D, *P), differentiable to every order."""
    if name not in TAPS:
        return implementation("conv_transpose", name)(input, weight, bias, geometry, groups, output_padding)
    input, weight, bias = all_converted(input, weight, bias)
    size = geometry.transposed_size(input.shape[2:], output_padding)
    # The taps of the convolution whose input gradient this is, seen from the other side.
    weight, offsets = taps.exchange(weight, groups), _offsets(geometry, input.device).neg()
    return taps.tap_conv(input, weight, offsets, bias, (1,) * geometry.ndim, geometry.stride, size)


def _forward(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    geometry: Geometry,
    groups: int,
    output_size: Sequence[int] | None,
    name: str,
) -> torch.Tensor:
    if name not in TAPS:
        return implementation("conv", name)(input, weight, bias, geometry, groups)
    once = (1,) * geometry.ndim
    if output_size is None:
        output_size = geometry.output_size(input.shape[2:])
    offsets = _offsets(geometry, input.device)
    shape = _described(geometry, input.device)
    return taps.tap_conv(input, weight, offsets, bias, geometry.stride, once, output_size, shape)


class _Mixed(torch.autograd.Function):
    """The forward of one backend with the gradients of another.

    Only for eager calls that no transform follows; those take one backend for both (`_backends.choose_conv`). The
    gradients are made of differentiable operations, so every order of them is right.
    """

    @staticmethod
    def forward(*arguments: Any) -> torch.Tensor:
        input, weight, bias, geometry, groups, output_size, route = arguments
        return _forward(input, weight, bias, geometry, groups, output_size, route.forward)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        input, weight, _, ctx.geometry, ctx.groups, _, ctx.route = inputs
        ctx.set_materialize_grads(False)
        # Taken now: the backward may run outside of the mode that the forward ran in.
        ctx.save_for_backward(input, weight, _offsets(ctx.geometry, input.device))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        wanted = ctx.needs_input_grad
        if grad is None:
            return (None,) * len(wanted)
        input, weight, offsets = ctx.saved_tensors
        if ctx.route.backward in TAPS:
            gradients = _gradients_by_taps(grad, input, weight, offsets, ctx.geometry, ctx.groups, wanted[:3])
        else:
            gradients = aten.conv_gradients(grad, input, weight, ctx.geometry, ctx.groups, wanted[:3])
        return *gradients, *[None] * (len(wanted) - 3)


def _gradients_by_taps(
    grad: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    geometry: Geometry,
    groups: int,
    wanted: Sequence[bool],
) -> tuple[torch.Tensor | None, ...]:
    """Return the gradients in input, weight and bias, None where not wanted."""
    steps, shape = (geometry.stride, (1,) * geometry.ndim), _described(geometry, input.device)
    return (
        taps.input_gradient(grad, input, weight, offsets, *steps, shape) if wanted[0] else None,
        taps.tap_conv_weight(grad, input, offsets, *steps, groups, shape).reshape(weight.shape) if wanted[1] else None,
        taps.channel_sum(grad) if wanted[2] else None,
    )


def _described(geometry: Geometry, device: torch.device) -> str:
    """Return what the kernels of a device want to know of the taps; others choose their instructions by themselves."""
    return grid.describe(geometry) if device.type == "cuda" else ""


def _offsets(geometry: Geometry, device: torch.device) -> torch.Tensor:
    """Return the taps of a kernel as (T, N) int32, saturated: `index * dilation - padding before`."""
    # What is made while someone watches belongs to the watcher: a graph, a transform, a mode of fake tensors.
    watched = (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        # What a CUDA graph makes holds nothing before the graph runs.
        or (device.type == "cuda" and torch.cuda.is_current_stream_capturing())
    )
    if watched:
        return _make_offsets_there(geometry, device) if device.type == "cuda" else _make_offsets(geometry, device)
    try:
        return _make_offsets_cached(geometry, device)
    except TypeError:  # a size that a tracer leaves free has no hash
        return _make_offsets(geometry, device)


def _make_offsets(geometry: Geometry, device: torch.device) -> torch.Tensor:
    columns = zip(geometry.kernel, geometry.dilation, geometry.padding, strict=True)
    axes = [[index * gap - before for index in range(size)] for size, gap, (before, _) in columns]
    axes = [[max(-_LARGEST, min(at, _LARGEST)) for at in axis] for axis in axes]
    # Taps of plain integers are one constant of a compiled graph.
    return torch.tensor(list(itertools.product(*axes)), dtype=torch.int32, device=device)


def _make_offsets_there(geometry: Geometry, device: torch.device) -> torch.Tensor:
    """Make them on the device: a graph would copy a constant at every call, and a graph of CUDA could not."""
    columns = zip(geometry.kernel, geometry.dilation, geometry.padding, strict=True)
    counts = [torch.arange(size, device=device) * gap - before for size, gap, (before, _) in columns]
    grid = torch.meshgrid([count.clamp(-_LARGEST, _LARGEST).int() for count in counts], indexing="ij")
    return torch.stack(grid, -1).flatten(0, -2)


@lru_cache(maxsize=1024)
def _make_offsets_cached(geometry: Geometry, device: torch.device) -> torch.Tensor:
    # An inference tensor could not be saved for a later backward. The copy to a GPU waits, so every stream may read it.
    with torch.inference_mode(False):
        return _make_offsets(geometry, device)
