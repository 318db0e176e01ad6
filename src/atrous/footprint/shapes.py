"""Rules of operators that move pixels: slices, concatenations, flips, shuffles, reshapes."""

from __future__ import annotations

import math

import torch

from atrous.footprint.axis import Taps
from atrous.footprint.call import Call, is_fake
from atrous.footprint.graph import Edge, Local, Node
from atrous.footprint.rules import adaptive_taps, rule

aten = torch.ops.aten


@rule(aten.clone, aten.alias, aten.contiguous, aten.detach, aten._to_copy, aten.to, aten.lift_fresh_copy, aten.fill,
      aten.hardswish, aten.hardsigmoid, aten.hardtanh, aten.relu6, aten.leaky_relu, aten.elu, aten.celu, aten.selu,
      aten.prelu, aten.mish, aten.threshold, aten.log_sigmoid, aten.tril, aten.triu,
      aten.copy, aten.type_as, aten.nan_to_num, aten.masked_fill, aten.complex, aten.polar,
      aten.expand, aten.expand_as, aten.broadcast_to, aten.__and__, aten.__or__, aten.__xor__)  # fmt: skip
def _alone(call: Call) -> list[Edge]:
    return call.pointwise()


@rule(aten.slice)
def _slice(call: Call) -> list[Edge]:
    return call.along("self", {call["dim"]: Taps.window(1, stride=call["step"], before=-_start(call))})


@rule(aten.select)
def _select(call: Call) -> list[Edge]:
    return _picked(call, call["dim"], call["index"])


@rule(aten.slice_scatter, aten.select_scatter)
def _scatter(call: Call) -> list[Edge]:
    """Read what is written into, and what is written over a part of it."""
    dim, found = call["dim"] % len(call.shape), []
    if call.is_source("self"):
        found.append((call.edge(call.source("self"), {}), call.source("self").dims))
    if call.is_source("src"):
        source, ranged = call.source("src"), "start" in call
        taps: dict[int, Local] = {dim: Taps.spread([-_start(call)], upsample=call["step"])} if ranged else {}
        lies = source.dims if ranged else (*source.dims[:dim], (), *source.dims[dim:])
        found.append((call.edge(source, taps), lies))
    return call.joined(found)


def _start(call: Call) -> int:
    start, size = int(call["start"] or 0), int(call["self"].shape[call["dim"]])
    return max(0, min(size, start + size if start < 0 else start))


def _picked(call: Call, dim: int, index: int) -> list[Edge]:
    source = call.source("self")
    dim %= len(source.shape)
    call.dims = source.dims[:dim] + source.dims[dim + 1 :]
    return [call.edge(source, {dim: Taps(0, ({index % source.shape[dim]: 1},))})]


@rule(aten.cat, aten.concat)
def _cat(call: Call) -> list[Edge]:
    dim = call["dim"] % len(call.shape)
    found, start = [], 0
    for part in call["tensors"]:
        if isinstance(part, Node):
            found.append((call.edge(part, {dim: Taps.window(1, before=start)}), part.dims))
        start += part.shape[dim]
    return call.joined(found)


@rule(aten.stack)
def _stack(call: Call) -> list[Edge]:
    dim = call["dim"] % len(call.shape)
    return call.joined([(call.edge(part, {}), (*part.dims[:dim], (), *part.dims[dim:])) for part in call.sources])


@rule(aten.split, aten.split_with_sizes, aten.chunk, aten.tensor_split)
def _split(call: Call) -> list[Edge]:
    dim = call["dim"]
    start = sum(shape[dim] for shape in call.shapes[: call.index])
    return call.along("self", {dim: Taps.window(1, before=-start)})


@rule(aten.unbind)
def _unbind(call: Call) -> list[Edge]:
    return _picked(call, call["dim"], call.index)


@rule(aten.flip)
def _flip(call: Call) -> list[Edge]:
    shape = call.source("self").shape
    return call.along("self", {dim: Taps(-1, ({shape[dim] - 1: 1},)) for dim in call["dims"]})


@rule(aten.fft_fftshift, aten.fft_ifftshift)
def _half_roll(call: Call) -> list[Edge]:
    sign = -1 if "ifft" in call.operator else 1
    dims = call["dim"] or range(len(call.shape))
    return call.along("self", {dim: Taps.window(1, before=sign * (call.shape[dim] // 2)) for dim in dims}, "circular")


@rule(aten.rot90)
def _rot90(call: Call) -> list[Edge]:
    source, (a, b) = call.source("self"), (dim % len(call.shape) for dim in call["dims"])
    quarters = call["k"] % 4
    turned = ([], [b], [a, b], [a])[quarters]
    if quarters % 2:
        order = list(range(len(call.shape)))
        order[a], order[b] = b, a
        call.dims = tuple(source.dims[dim] for dim in order)
    else:
        call.dims = source.dims
    return [call.edge(source, {dim: Taps(-1, ({source.shape[dim] - 1: 1},)) for dim in turned})]


@rule(aten.roll)
def _roll(call: Call) -> list[Edge]:
    if not call["dims"]:
        return call.everything("self", range(len(call.shape)))
    moves = zip(call["dims"], call["shifts"], strict=True)
    return call.along("self", {dim: Taps.window(1, before=shift) for dim, shift in moves}, "circular")


@rule(aten.repeat, aten.tile)
def _repeat(call: Call) -> list[Edge]:
    source = call.source("self")
    new = len(call.shape) - len(source.shape)
    call.dims = ((),) * new + source.dims
    repeated = {dim: size for dim, size in enumerate(source.shape) if size != call.shape[new + dim]}
    # Every copy reads the same pixels.
    return [call.edge(source, {dim: Taps(0, tuple({p: 1} for p in range(size))) for dim, size in repeated.items()})]


@rule(aten.repeat_interleave)
def _repeat_interleave(call: Call) -> list[Edge]:
    if not isinstance(call.get("repeats"), int) or call["dim"] is None:
        raise call.unsupported("with several numbers of repeats or without a dim")
    return call.along("self", {call["dim"]: Taps(1, ({0: 1},) * call["repeats"])})


@rule(aten.index_select)
def _index_select(call: Call) -> list[Edge]:
    if not isinstance(call["index"], torch.Tensor) or is_fake(call["index"]):
        return call.everything_of_all()  # which places, is computed
    size = call.source("self").shape[call["dim"]]
    places = [place % size for place in call.value("index").reshape(-1).tolist()]
    return call.along("self", {call["dim"]: Taps(0, tuple({place: 1} for place in places))})


def _places(call: Call) -> tuple[int, list[int]] | None:
    """Return along which dim a list of indices goes, and where to, if it is one list of fixed places."""
    found = [(dim, index) for dim, index in enumerate(call["indices"]) if index is not None]
    dim, index = found[0]
    if len(found) > 1 or not isinstance(index, torch.Tensor) or is_fake(index):
        return None
    size = call["self"].shape[dim]
    return (dim, [place % size for place in index.tolist()]) if index.ndim == 1 and index.dtype != torch.bool else None


@rule(aten.index)
def _index(call: Call) -> list[Edge]:
    """Read along one dim, whose indices are fixed, what they name; several at once read everything of those dims."""
    if (named := _places(call)) is not None:
        return call.along("self", {named[0]: Taps(0, tuple({place: 1} for place in named[1]))})
    given = [dim for dim, index in enumerate(call["indices"]) if index is not None]
    computed = not all(isinstance(call["indices"][dim], torch.Tensor) for dim in given)
    if computed or len(call.shape) != len(call.source("self").shape):
        return call.everything_of_all()
    return call.everything("self", given)


@rule(aten.index_put)
def _index_put(call: Call) -> list[Edge]:
    """Read what is written into, and what is written: along one dim by its fixed indices, else as a whole."""
    parts = []
    if call.is_source("self"):
        parts.append((call.edge(call.source("self"), {}), call.source("self").dims))
    if call.is_source("values"):
        values = call.source("values")
        dim, places = _places(call) or (0, [])
        own = dim - len(call.shape) + len(values.shape)
        if own >= 0 and values.shape[own] == len(places):
            written: list[dict[int, int]] = [{} for _ in range(call.shape[dim])]
            for index, place in enumerate(places):
                written[place][index] = 1
            lies = list(call.broadcast(values))
            lies[dim] = values.dims[own]
            parts.append((call.edge(values, {own: Taps(0, tuple(written))}), tuple(lies)))
        else:
            parts.append((call.whole(values), ()))
    return call.joined(parts)


@rule(
    aten.scatter, aten.scatter_add, aten.scatter_reduce, aten.index_add, aten.index_copy, aten.index_fill, aten.gather
)
def _scattered(call: Call) -> list[Edge]:
    """Read at its place what the result has the shape of, and all others as a whole along one dim."""
    dim, parts = call["dim"] % max(len(call.shape), 1), []
    stays = "index" if "gather" in call.operator else "self"
    for name in ("self", "index", "src", "source"):
        if call.is_source(name) and len(call.source(name).shape) == len(call.shape):
            part = call.source(name)
            parts.append((call.edge(part, {} if name == stays else {dim: None}), part.dims))
    return call.joined(parts)


@rule(aten.masked_scatter)
def _masked_scatter(call: Call) -> list[Edge]:
    """Read at its place what is written into and where; what is written, which lies in any order, as a whole."""
    parts = [(call.edge(part, {}), call.broadcast(part)) for part in call.tensors[:2] if isinstance(part, Node)]
    if call.is_source("source"):
        parts.append((call.whole(call.source("source")), ()))
    return call.joined(parts)


@rule(aten.unfold, aten.view_as_real)
def _with_last_dim(call: Call) -> list[Edge]:
    """Add a last dim that holds no axis: the pixels of a window, or the two parts of a number."""
    source = call.source("self")
    call.dims = (*source.dims, ())
    if "step" not in call:
        return [call.edge(source, {})]
    return [call.edge(source, {call["dimension"] % len(source.shape): Taps.window(call["size"], call["step"])})]


@rule(aten.view_as_complex)
def _without_last_dim(call: Call) -> list[Edge]:
    return call.reduced("self", [len(call.shape)])


@rule(aten.pixel_shuffle)
def _pixel_shuffle(call: Call) -> list[Edge]:
    spread = Taps(1, ({0: 1},) * call["upscale_factor"])
    return call.along("self", {-3: None, -2: spread, -1: spread})


@rule(aten.pixel_unshuffle)
def _pixel_unshuffle(call: Call) -> list[Edge]:
    factor = call["downscale_factor"]
    window = Taps.window(factor, stride=factor)
    return call.along("self", {-3: None, -2: window, -1: window})


@rule(aten.permute, aten.transpose, aten.t, aten.channel_shuffle)
def _permute(call: Call) -> list[Edge]:
    source = call.source(call.first)
    order = list(range(len(source.shape)))
    if "dims" in call:
        order = [dim % len(order) for dim in call["dims"]]
    elif "dim0" in call:
        a, b = call["dim0"], call["dim1"]
        order[a], order[b] = order[b], order[a]
    elif "groups" not in call:
        order.reverse()
    call.dims = tuple(source.dims[dim] for dim in order)
    return [call.edge(source, {1: None} if "groups" in call else {})]


@rule(aten.view, aten.reshape, aten._unsafe_view, aten.flatten, aten.unflatten, aten.unsqueeze, aten.squeeze,
      aten.view_as, aten.reshape_as)  # fmt: skip
def _reshape(call: Call) -> list[Edge]:
    """Follow the axes from dims to dims: kept, flattened together, taken apart again, or in blocks; else everything."""
    source = call.source(call.first)
    locals: dict[int, Local] = {}
    dims: list[tuple[int, ...]] = [()] * len(call.shape)
    for olds, news in _groups(source.shape, call.shape):
        _regroup(source, call.shape, olds, news, dims, locals)
    call.dims = tuple(dims)
    edge = call.edge(source, {})
    held = [locals.get(axis, local) for axis, local in enumerate(edge.locals)]
    return [Edge(source, tuple(held), edge.borders)]


def _groups(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Return the least groups of old and new dims with the same number of elements; dims of size 1 are in none."""
    olds = [dim for dim, size in enumerate(old) if size != 1]
    news = [dim for dim, size in enumerate(new) if size != 1]
    groups = []
    while olds and news:
        left, right = [olds.pop(0)], [news.pop(0)]
        while (a := math.prod(old[d] for d in left)) != (b := math.prod(new[d] for d in right)):
            if a < b:
                left.append(olds.pop(0))
            else:
                right.append(news.pop(0))
        groups.append((left, right))
    return groups


def _regroup(
    source: Node,
    shape: tuple[int, ...],
    olds: list[int],
    news: list[int],
    dims: list[tuple[int, ...]],
    locals: dict[int, Local],
) -> None:
    """Note which axes the new dims hold, and how they read those of the old ones."""
    held = [source.dims[dim] for dim in olds]
    axes = [axis for one in held for axis in one]
    if not axes:
        return
    tracked = [dim for dim, one in zip(olds, held, strict=True) if one]
    if len(olds) == len(news) == 1:
        dims[news[0]] = held[0]
    elif len(news) == 1 and len(tracked) == len(olds):
        dims[news[0]] = tuple(axes)  # flattened together
    elif len(olds) == 1 and [shape[dim] for dim in news] == [source.sizes[axis] for axis in axes]:
        for dim, axis in zip(news, axes, strict=True):
            dims[dim] = (axis,)
    elif len(axes) == 1 and held[0]:
        # The axis counts the old blocks, and the first new dim the new ones: cut up, or side by side as in a shuffle.
        old, new = source.shape[olds[0]], shape[news[0]]
        dims[news[0]], locals[axes[0]] = (axes[0],), adaptive_taps(old, new)
    else:
        locals.update(dict.fromkeys(axes))
