"""One rule per operator: what its output reads of its inputs. Windows, sampling, padding, norms, reductions.

Rules of shapes are in `shapes.py`. Legend: N axes, S input size, P output size, k kernel, s stride, d dilation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeAlias

import torch

from atrous._errors import GeometryError
from atrous.footprint.axis import Taps
from atrous.footprint.call import Call
from atrous.footprint.graph import Border, Edge, Local

aten = torch.ops.aten

Rule: TypeAlias = Callable[[Call], "list[Edge]"]
"""Given a call, says what its output reads."""

RULES: dict[Any, Rule] = {}


def rule(*operators: Any) -> Callable[[Rule], Rule]:
    """Return a decorator that makes a function the rule of operators, as `torch.ops.aten.relu`.

    The function takes a `Call` and returns its edges, which `call.along(...)` and its neighbours make; a rule for an
    operator that has one already replaces it.

    Raises:
        GeometryError: something that is no operator of `torch.ops`.

    Example:
        >>> @rule(torch.ops.aten.cumsum)
        ... def cumsum(call):
        ...     return call.everything("self", [call["dim"]])
    """
    for operator in operators:
        if not isinstance(operator, (torch._ops.OpOverloadPacket, torch._ops.OpOverload)):
            raise GeometryError(f"rule: got {operator!r}, expected an operator as torch.ops.aten.relu")

    def register(function: Rule) -> Rule:
        for operator in operators:
            RULES[getattr(operator, "overloadpacket", operator)] = function
        return function

    return register


@rule(aten.conv1d, aten.conv2d, aten.conv3d, aten.convolution)
def _convolution(call: Call) -> list[Edge]:
    if call.get("transposed"):
        return _transposed(call)
    kernel = call.shape_of("weight")[2:]
    stride, dilation = (call.per_axis(name, len(kernel)) for name in ("stride", "dilation"))
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    word = call["padding"]
    if isinstance(word, str):
        before = [total // 2 if word == "same" else 0 for total in totals]
    else:
        before = call.per_axis("padding", len(kernel))
    return _mixed(call, [Taps.window(*one) for one in zip(kernel, stride, dilation, before, strict=True)])


def _mixed(call: Call, windows: list[Taps]) -> list[Edge]:
    """Read the last dims by windows, and the channels in front of them, which may hold an axis, as a whole."""
    return call.along("input", {-1 - len(windows): None, **dict(enumerate(windows, -len(windows)))})


@rule(aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)
def _transposed(call: Call) -> list[Edge]:
    kernel = call.shape_of("weight")[2:]
    stride, dilation, padding = (call.per_axis(name, len(kernel)) for name in ("stride", "dilation", "padding"))
    columns = zip(kernel, stride, dilation, padding, strict=True)
    return _mixed(call, [Taps.spread([b - index * d for index in range(k)], upsample=s) for k, s, d, b in columns])


def _pooling(call: Call) -> list[Edge]:
    kernel = call.per_axis("kernel_size", call.pooled_axes)
    given = call["stride"]
    stride = call.per_axis("stride", len(kernel)) if given else kernel
    dilation = call.per_axis("dilation", len(kernel)) if "dilation" in call else [1] * len(kernel)
    padding = call.per_axis("padding", len(kernel))
    windows = zip(kernel, stride, dilation, padding, strict=True)
    return call.last_dims(call.first, [Taps.window(*one) for one in windows])


for _name in ("max_pool{}d", "max_pool{}d_with_indices", "avg_pool{}d"):
    for _ndim in (1, 2, 3):
        if hasattr(aten, _name.format(_ndim)):
            rule(getattr(aten, _name.format(_ndim)))(_pooling)


def _adaptive(call: Call) -> list[Edge]:
    ndim = call.pooled_axes
    sizes = zip(call.source(call.first).shape[-ndim:], call.shape[-ndim:], strict=True)
    return call.last_dims(call.first, [adaptive_taps(before, after) for before, after in sizes])


def adaptive_taps(before: int, after: int) -> Local:
    """Return how `after` outputs share `before` inputs: each reads those that overlap it when both fill one length."""
    if after == 1 < before:
        return None
    scale = Fraction(before, after)
    phases = []
    for p in range(scale.denominator):
        first, end = p * before // after, -(-(p + 1) * before // after)
        phases.append(dict.fromkeys(range(first, end), 1))
    return Taps(scale.numerator, tuple(phases))


for _name in ("adaptive_avg_pool{}d", "_adaptive_avg_pool{}d", "adaptive_max_pool{}d"):
    for _ndim in (1, 2, 3):
        if hasattr(aten, _name.format(_ndim)):
            rule(getattr(aten, _name.format(_ndim)))(_adaptive)


@rule(aten.max_unpool2d, aten.max_unpool3d)
def _unpooling(call: Call) -> list[Edge]:
    """An output reads the pooled values in whose windows it lies: the pooling turned round."""
    indices = call.source("indices")
    if not indices.operator.startswith("max_pool") or indices.edges[0].source.shape[2:] != call.shape[2:]:
        raise call.unsupported("with indices that no max pooling of that size made")
    (pooling,) = indices.edges
    windows = [pooling.locals[axis] for held in pooling.source.dims[-call.pooled_axes :] for axis in held]
    back = [window and Taps.spread([-at for at in window.phases[0]], upsample=window.step) for window in windows]
    return call.last_dims("indices", back) + call.last_dims("self", back)


# What each kind of interpolation reads, counted from the pixel below the sampled place; on a pixel: that one alone.
_SAMPLES = {
    "nearest": (range(1), None),
    "linear": (range(2), range(1)),
    "cubic": (range(-1, 3), range(1)),
}


def _interpolation(kind: str) -> Rule:
    def interpolation(call: Call) -> list[Edge]:
        ndim = call.pooled_axes
        aligned = bool(call.get("align_corners"))
        locals = []
        for axis, (before, after) in enumerate(
            zip(call.source("input").shape[-ndim:], call.shape[-ndim:], strict=True)
        ):
            scale = _scale_of(call, axis, before, after)
            if aligned:
                scale, start = Fraction(before - 1, max(after - 1, 1)), Fraction(0)
            elif kind == "nearest":
                start = scale / 2 if "exact" in call.operator else Fraction(0)
            else:
                start = (scale - 1) / 2
            reach, exact = _SAMPLES[kind]
            if kind == "nearest" and _falls_short(scale, start, after):
                exact = range(-1, 1)
            locals.append(Taps.sampled(scale, start, reach, exact))
        return call.last_dims("input", locals, "replicate")

    return interpolation


def _falls_short(scale: Fraction, start: Fraction, after: int) -> bool:
    """Return whether an output that lies on a pixel may read the one before it: torch counts in single precision."""
    for phase in range(min(scale.denominator, after)):
        place = phase * scale + start
        if place.denominator == 1:
            p = torch.arange(phase, after, scale.denominator)
            exact = int(place) + torch.arange(len(p)) * scale.numerator
            single = torch.tensor(float(scale), dtype=torch.float32)
            return bool(((p.float() + float(start / scale)) * single < exact).any())
    return False


def _scale_of(call: Call, axis: int, before: int, after: int) -> Fraction:
    """Return input pixels per output pixel: by the factor that was given, or else by the sizes."""
    factors = call.get("scale_factors") or [call.get(name) for name in call.scale_names]
    factor = factors[axis] if len(factors) > axis else None
    if not factor:
        return Fraction(before, after)
    return 1 / Fraction(factor).limit_denominator(1 << 16)


for _kind, _names in {
    "nearest": [f"{exact}upsample_nearest{mode}{n}d" for n in (1, 2, 3) for exact, mode in (("", ""), ("_", "_exact"))],
    "linear": ["upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"],
    "cubic": ["upsample_bicubic2d"],
}.items():
    rule(*(getattr(aten, _name) for _name in _names))(_interpolation(_kind))


@rule(aten.pad, aten.constant_pad_nd)
def _padding(call: Call) -> list[Edge]:
    modes: dict[str, Border] = {"constant": "zeros", "reflect": "reflect", "replicate": "replicate"}
    return _padded(call, modes.get(call.get("mode") or "constant", "circular"))


@rule(aten.reflection_pad1d, aten.reflection_pad2d, aten.reflection_pad3d)
def _reflected(call: Call) -> list[Edge]:
    return _padded(call, "reflect")


@rule(aten.replication_pad1d, aten.replication_pad2d, aten.replication_pad3d)
def _replicated(call: Call) -> list[Edge]:
    return _padded(call, "replicate")


def _padded(call: Call, border: Border) -> list[Edge]:
    sides = list(call["padding"] if "padding" in call else call["pad"])
    before = sides[::2][::-1]  # given from the last dim on
    return call.last_dims(call.first, [Taps.window(1, before=pixels) for pixels in before], border)


@rule(aten.layer_norm, aten.native_layer_norm, aten.rms_norm)
def _layer_norm(call: Call) -> list[Edge]:
    return call.everything("input", range(-len(call["normalized_shape"]), 0))


@rule(aten.instance_norm)
def _over_space(call: Call) -> list[Edge]:
    return call.everything(call.first, range(2, len(call.source(call.first).shape)))


@rule(aten.group_norm, aten.native_group_norm)
def _over_channels_and_space(call: Call) -> list[Edge]:
    return call.everything(call.first, range(1, len(call.source(call.first).shape)))


@rule(aten._native_batch_norm_legit_no_training, aten.dropout, aten.feature_dropout, aten.alpha_dropout)
def _alone(call: Call) -> list[Edge]:
    return call.pointwise()


@rule(aten.linear)
def _linear(call: Call) -> list[Edge]:
    return call.everything("input", [-1])


@rule(aten.softmax, aten._softmax, aten.log_softmax, aten._log_softmax, aten.cumsum, aten.cumprod, aten.logcumsumexp,
      aten.glu, aten.sort, aten.argsort, aten.topk, aten.cummax, aten.cummin,
      aten.fft_fft, aten.fft_ifft, aten.fft_rfft, aten.fft_irfft, aten.fft_hfft, aten.fft_ihfft)  # fmt: skip
def _over_dim(call: Call) -> list[Edge]:
    return call.everything(call.first, [call["dim"]])


@rule(*(getattr(aten, f"fft_{kind}fft{ndim}") for kind in ("", "i", "r", "ir", "h", "ih") for ndim in "2n"))
def _fourier(call: Call) -> list[Edge]:
    return call.everything("self", call["dim"] or range(-len(call["s"] or call.shape), 0))


@rule(aten.diff)
def _diff(call: Call) -> list[Edge]:
    if call["prepend"] is not None or call["append"] is not None:
        raise call.unsupported("with something joined to its ends")
    times = call["n"]
    return call.along("self", {call["dim"]: Taps(1, ({index: math.comb(times, index) for index in range(times + 1)},))})


@rule(aten.mean, aten.sum, aten.amax, aten.amin, aten.var, aten.std, aten.norm, aten.linalg_vector_norm, aten.prod,
      aten.max, aten.min, aten.argmax, aten.argmin, aten.logsumexp, aten.any, aten.all, aten.var_mean,
      aten.median, aten.aminmax)  # fmt: skip
def _reduction(call: Call) -> list[Edge]:
    if len([name for name in ("other", "self") if call.is_source(name)]) == 2:
        return call.pointwise()  # the larger of two tensors
    given = call.get("dim")
    ndim = len(call.source(call.first).shape)
    dims = range(ndim) if given is None or given == [] else [given] if isinstance(given, int) else given
    return call.reduced(call.first, [dim % max(ndim, 1) for dim in dims])


@rule(aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu, aten.grid_sampler, aten.grid_sampler_2d, aten.im2col,
      aten.col2im)  # fmt: skip
def _anywhere(call: Call) -> list[Edge]:
    return call.everything_of_all()


def _tap_conv(call: Call) -> list[Edge]:
    stride, upsample, sizes = call["stride"], call["upsample"], call.source("input").shape[2:]
    taps = {tuple(tap) for tap in call.value("offsets").flatten(0, -2).tolist()}
    columns = [sorted(set(column)) for column in zip(*taps, strict=True)] or [[]] * len(sizes)

    def lands(axis: int, offset: int) -> bool:
        places = (divmod(p * stride[axis] + offset, upsample[axis]) for p in range(call.shape[2 + axis]))
        return any(not rest and 0 <= at < sizes[axis] for at, rest in places)

    if len(taps) < math.prod(map(len, columns)):
        # Scattered: one that always reads outside along one axis reads nothing along the others.
        kept = [tap for tap in taps if all(lands(axis, offset) for axis, offset in enumerate(tap))]
        columns = [sorted({tap[axis] for tap in kept}) for axis in range(len(sizes))]
    return call.last_dims("input", [Taps.spread(*one) for one in zip(columns, stride, upsample, strict=True)])


def find(operator: Any) -> Rule | None:
    """Return the rule of an operator, or None."""
    packet = getattr(operator, "overloadpacket", operator)
    if packet in RULES:
        return RULES[packet]
    if str(packet) == "atrous.tap_conv":
        return _tap_conv
    return Call.pointwise if torch.Tag.pointwise in getattr(operator, "tags", ()) else None
