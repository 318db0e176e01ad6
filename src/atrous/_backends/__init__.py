"""Implementations of one operation under one name, and the choice between them.

Each backend is a translation of the `reference` page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

from atrous._autocast import computed_dtype
from atrous._backends import aten, cpu, measured, reference, table, triton
from atrous._errors import BackendError
from atrous._geometry import Geometry
from atrous._layout import lies_last
from atrous._watch import PLAIN, transformed

_BACKENDS = {"reference": reference, "aten": aten, "cpu": cpu, "triton": triton}

TAPS = {"cpu": ("cpu", "a CPU"), "triton": ("cuda", "a GPU")}
"""Backends that run a convolution as a sum over taps -> the device that they are for, and how it is called."""

NAMES = {
    "conv": ("aten", "reference", "cpu", "triton"),
    "conv_transpose": ("aten", "reference", "cpu", "triton"),
    "tap_conv": ("cpu", "reference", "triton"),
}
"""The names that `backend=` accepts for an operation; where no table decides, the first that can run an input does."""


class Route(NamedTuple):
    """Which backends run the forward and the backward of a call, and why, as the end of a sentence."""

    forward: str
    backward: str
    reason: str


def choose(operation: str, input: torch.Tensor, weight: torch.Tensor, ndim: int, backend: str | None) -> Route:
    """Return the route of `operation`: the named backend, or the first that can run this call, both ways.

    `aten` runs floating and complex tensors with one to three axes (torch convolves some integer dtypes on some
    devices, and none of them with every dilation), `cpu` plain tensors of 16 to 64 bits a float on a CPU, `triton` on a
    GPU, `reference` everything dense.

    Raises:
        BackendError: a name that no backend of the operation has, a named backend that cannot run this call, or no
            backend that can.
    """
    names = NAMES[operation]
    if backend is None:
        reason = "it is the first that can run this call"
        elsewhere = "cpu" if input.is_cuda else "triton"  # no news is that it cannot run
        for name in (name for name in names if name != elsewhere):
            refusal = _refusal(operation, name, input, weight, ndim) or _reservation(operation, name, input, weight)
            if refusal is None:
                return Route(name, name, reason)
            reason = f"'{name}' {refusal}"
        raise BackendError(f"{operation}: {reason}")
    if backend not in names:
        raise BackendError(f"{operation}: got backend={backend!r}, expected None or one of {names}")
    if refusal := _refusal(operation, backend, input, weight, ndim):
        raise BackendError(f"{operation}: backend {backend!r} {refusal}; leave backend=None")
    return Route(backend, backend, "it was named")


def choose_conv(
    input: torch.Tensor,
    weight: torch.Tensor,
    geometry: Geometry,
    groups: int,
    output_size: Sequence[int] | None,
    backend: str | None,
) -> Route:
    """Return the route of a convolution: what is named or can run at all, then the written table.

    `output_size` is None where a compiler leaves it free.

    Raises:
        BackendError: as in `choose`.
    """
    won = _won("conv", input, weight, geometry, groups, backend)
    if settled := won or _settle("conv", input, weight, geometry.ndim, backend):
        return _widened(settled, input, geometry)
    outputs, per_group = weight.shape[:2]
    last = _depthwise_last(input, weight)
    if output_size is None:
        # Dynamo would trace through a cache and warn.
        found = _look_up(computed_dtype(input), geometry, per_group, outputs // groups, None, True, last)
        return _widened(found, input, geometry)
    pixels = math.prod(output_size)
    one = transformed()
    known = pixels if type(pixels) is int else None
    columns = computed_dtype(input), geometry, per_group, outputs // groups, known, one, last
    try:
        found = _look_up_cached(*columns)
    except TypeError:  # a size that a tracer leaves free has no hash
        found = _look_up(*columns)
    return _widened(found, input, geometry)


def choose_conv_transpose(
    input: torch.Tensor, weight: torch.Tensor, geometry: Geometry, groups: int, backend: str | None
) -> Route:
    """Return the route of a transposed convolution, as `choose_conv` does.

    Raises:
        BackendError: as in `choose`.
    """
    won = _won("conv_transpose", input, weight, geometry, groups, backend)
    if settled := won or _settle("conv_transpose", input, weight, geometry.ndim, backend):
        return _widened(settled, input, geometry)
    found = _look_up_transpose(computed_dtype(input), geometry, weight.shape[0] // groups, weight.shape[1])
    return _widened(found, input, geometry)


def _won(
    operation: str, input: torch.Tensor, weight: torch.Tensor, geometry: Geometry, groups: int, backend: str | None
) -> Route | None:
    """Return the route that `atrous.tune` measured to be the fastest, where this call can take it; or None."""
    if backend is not None or not measured.consulted():
        return None
    # What torch returns with channels last where a channel lies so by chance, or a weight does, taps would not.
    same_format = lies_last(input) or (_lies_contiguous(input) and _lies_contiguous(weight))
    if not same_format or _unlike_plain(input, weight) or _unlike_dense(input, weight):
        return None
    found = measured.find(operation, input, weight, geometry, groups)
    if found is None:
        return None
    one = torch.compiler.is_compiling() or transformed() or operation == "conv_transpose"
    names = (found.both, found.both) if one else found[:2]
    for name in {*names}:
        if _refusal(operation, name, input, weight, geometry.ndim) or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return None
    return Route(*names, "it was the fastest when measured here")


def _settle(operation: str, input: torch.Tensor, weight: torch.Tensor, ndim: int, backend: str | None) -> Route | None:
    """Return the route of what is named, or only one backend can or should run; None leaves it to the timings."""
    if backend is not None or _refusal(operation, "aten", input, weight, ndim):
        return choose(operation, input, weight, ndim, backend)
    if input.is_cuda:
        return Route("aten", "aten", "nothing was measured on a GPU; atrous.tune does")
    reason = _refusal(operation, "cpu", input, weight, ndim) or _reservation(operation, "cpu", input, weight)
    return Route("aten", "aten", f"'cpu' {reason}") if reason else None


def find_taps(
    input: torch.Tensor,
    weight: torch.Tensor,
    geometry: Geometry,
    dense: Geometry,
    groups: int,
    taps: int,
    tracked: bool,
    backend: str | None,
) -> str | None:
    """Return what runs so many taps for every pair of channels faster than the dense kernel of their window, or None.

    `weight` is (D, C/groups, ...); `geometry` is that of the window, `dense` that of the pixels of it which some output
    reads; `tracked`: whether derivatives are wanted.
    Where the compiled taps cannot run, the dense kernel is the faster one.
    """
    if backend == "triton":  # nothing but their numbers is known there
        return backend if math.prod(dense.kernel) > taps else None
    found = (
        None if backend or not measured.consulted() else measured.find("dcls", input, weight, geometry, groups, taps)
    )
    if found is not None:
        name = found.both
        return name if name in TAPS and not _refusal("tap_conv", name, input, weight, geometry.ndim) else None
    if choose("tap_conv", input, weight, geometry.ndim, None).forward != "cpu":
        return None
    row = table.find_spread(geometry.ndim, max(geometry.stride) > 1, _depthwise_last(input, weight), tracked)
    return "cpu" if math.prod(dense.kernel) > row.each * taps + row.more else None


class Prospect(NamedTuple):
    """Whether some convolution may be better than torch's own, and why, or why not, as the end of a sentence."""

    better: bool
    reason: str


def prospect(dtype: torch.dtype, geometry: Geometry, inputs: int, outputs: int) -> Prospect:
    """Return what a convolution in `dtype` on a CPU may gain, whose input of any size is still to come.

    That is what the first route says which leaves torch, for a free size or for one beyond a limit of the table.
    """
    limits = [limit for row in table.TABLES.get(dtype, ()) for limit in row.pixels if limit is not None]
    sizes = [None, *sorted({size for limit in limits for size in (limit, limit + 1)})]
    routes = [_look_up(dtype, geometry, inputs, outputs, pixels, False) for pixels in sizes]
    for forward, backward, reason in routes:
        if {forward, backward} != {"aten"}:
            return Prospect(True, reason)
    return _prospect_of_torch(dtype, geometry, routes[0].reason)


def prospect_transpose(dtype: torch.dtype, geometry: Geometry, inputs: int, outputs: int) -> Prospect:
    """Return what a transposed convolution in `dtype` on a CPU may gain, as `prospect` does."""
    forward, _, reason = _look_up_transpose(dtype, geometry, inputs, outputs)
    return Prospect(True, reason) if forward == "cpu" else _prospect_of_torch(dtype, geometry, reason)


def _prospect_of_torch(dtype: torch.dtype, geometry: Geometry, reason: str) -> Prospect:
    wide = aten.widening(dtype, geometry)
    return Prospect(True, f"{wide}, and it runs in float32") if wide else Prospect(False, reason)


def _look_up_transpose(dtype: torch.dtype, geometry: Geometry, inputs: int, outputs: int) -> Route:
    """Return the route of a transposed convolution on a CPU, for `inputs` and `outputs` channels of a group."""
    taps, dilation, stride = math.prod(geometry.kernel), max(geometry.dilation), max(geometry.stride)
    row = table.find(dtype, geometry.ndim, inputs, outputs, taps, dilation, stride, None, False, True)
    if row is None:
        return Route("aten", "aten", "torch is faster for transposed convolutions that no row of the table names")
    return Route(row.forward, row.backward, f"{row.because} ({row.cell})")


def _widened(route: Route, input: torch.Tensor, geometry: Geometry) -> Route:
    """Return a route that says so where torch's half of it runs in float32."""
    if "aten" not in (route.forward, route.backward):
        return route
    reason = aten.widens(input, geometry)
    return route._replace(reason=f"{route.reason}, in float32, as {reason}") if reason else route


def implementation(operation: str, name: str) -> Callable[..., torch.Tensor]:
    """Return `operation` of the backend `name`."""
    found: Callable[..., torch.Tensor] = getattr(_BACKENDS[name], operation)
    return found


def _look_up(
    dtype: torch.dtype,
    geometry: Geometry,
    inputs: int,
    outputs: int,
    pixels: int | None,
    one: bool,
    last: bool = False,
) -> Route:
    """Return the route of the first row that fits; `one` says that the caller takes no two backends for one call."""
    taps, dilation, stride = math.prod(geometry.kernel), max(geometry.dilation), max(geometry.stride)
    row = table.find(dtype, geometry.ndim, inputs, outputs, taps, dilation, stride, pixels, last)
    if row is None:
        return Route("aten", "aten", "no row of the table says otherwise")
    reason = f"{row.because} ({row.cell})"
    if one and row.forward != row.backward:
        return Route("aten", "aten", f"{reason}, and a compiler or a transform takes one backend for both")
    return Route(row.forward, row.backward, reason)


_look_up_cached = lru_cache(maxsize=4096)(_look_up)


def _refusal(operation: str, name: str, input: torch.Tensor, weight: torch.Tensor, ndim: int) -> str | None:
    """Return why a backend cannot run this call, as the end of a sentence, or None."""
    if name == "aten":
        floating = input.is_floating_point() or input.is_complex()
        if floating and ndim <= 3:
            return None
        got = f"{ndim} axes" if floating else f"{input.dtype} tensors"
        return f"is for floating and complex tensors of 1 to 3 axes, got {got}"
    if name in TAPS:
        device, called = TAPS[name]
        if reason := unavailable(name):
            return f"cannot run: {reason}"
        if input.dtype not in cpu.DTYPES or input.device.type != device:
            return f"is for floating tensors of 16 to 64 bits on {called}, got {input.dtype} on {input.device.type}"
        if torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export():
            return "is no operator of ONNX"
        return _unlike_plain(input, weight) or _unlike_dense(input, weight)
    return _unlike_dense(input, weight)


def unavailable(name: str) -> str | None:
    """Return why taps cannot run at all by a backend of `TAPS` and what to do, or None."""
    # What registers the operations is the compiled library, for every device.
    return cpu.UNAVAILABLE or (triton.UNAVAILABLE if name == "triton" else None)


def runner(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return the backend that runs taps of such tensors, or None."""
    names = (name for name, (kind, _) in TAPS.items() if kind == device.type and unavailable(name) is None)
    return next(names, None) if dtype in cpu.DTYPES else None


def _unlike_plain(*tensors: torch.Tensor) -> str | None:
    for tensor in tensors:
        if type(tensor) not in PLAIN:
            # A fake tensor stands for a plain one while its mode is on; later it mixes with no real one.
            mode = getattr(tensor, "fake_mode", None)
            if mode is None or mode is not torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE):
                return f"is for plain tensors, got a {type(tensor).__name__}"
    return None


def _unlike_dense(*tensors: torch.Tensor) -> str | None:
    for tensor in tensors:
        if tensor.layout != torch.strided:
            return f"is for dense tensors, got {tensor.layout}, which `to_dense()` converts"
    return None


def _reservation(operation: str, name: str, input: torch.Tensor, weight: torch.Tensor) -> str | None:
    """Return why a backend, which could run this call, is not chosen for it, as the end of a sentence, or None."""
    if name != "cpu":
        return None
    last = operation == "conv" and _depthwise_last(input, weight)
    if operation != "tap_conv" and not last and not (_lies_contiguous(input) and _lies_contiguous(weight)):
        return "is chosen for contiguous tensors, got another memory format"
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return "is not chosen for what torch.jit traces"
    return None


def _lies_contiguous(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is contiguous, and means to be: with one channel, `channels_last` is so by chance.

    Such a weight or image stands at the front of a network that wants `channels_last` everywhere, as torch reads it.
    """
    by_chance = tensor.ndim > 3 and tensor.shape[1] == 1 and tensor.stride(1) == 1 and tensor[0, 0].numel() > 1
    return tensor.is_contiguous() and not by_chance


def _depthwise_last(input: torch.Tensor, weight: torch.Tensor) -> bool:
    """Return whether a convolution is depthwise, one output a channel, on channels that lie last in memory."""
    # A tracer's own truths are settled here, so that the table meets plain ones.
    depthwise = bool(weight.shape[1] == 1) and bool(weight.shape[0] == input.shape[1])
    return depthwise and lies_last(input)
