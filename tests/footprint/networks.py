"""Random networks whose every number is positive, and what they truly read, found by changing the input."""

import itertools

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

from atrous import functional, trace_footprint
from atrous.footprint.graph import pixels_read

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
SMALLEST, LARGEST = 3, 26


def sizes(rng, low, high, ndim):
    return [rng.randint(low, high) for _ in range(ndim)]


def weight(*shape):
    return torch.rand(shape, dtype=torch.float64) + 0.1


def conv(rng, ndim, channels):
    groups = rng.choice([1, channels])
    kernel, stride, dilation = (sizes(rng, 1, high, ndim) for high in (4, 3, 3))
    padding = rng.choice(["same", "valid"]) if max(stride) == 1 else sizes(rng, 0, 3, ndim)
    w, b = weight(channels, channels // groups, *kernel), weight(channels)
    run = getattr(F, f"conv{ndim}d")
    return lambda x: run(x, w, b, stride, padding, dilation, groups)


def conv_transpose(rng, ndim, channels):
    kernel, stride, dilation = (sizes(rng, 1, high, ndim) for high in (4, 3, 2))
    padding = [rng.randint(0, d * (k - 1)) for k, d in zip(kernel, dilation, strict=True)]
    more = [rng.randint(0, s - 1) for s in stride]
    w, b = weight(channels, channels, *kernel), weight(channels)
    run = getattr(F, f"conv_transpose{ndim}d")
    return lambda x: run(x, w, b, stride, padding, more, 1, dilation)


def tap_conv(rng, ndim, channels):
    # A grid: scattered taps are no product of axes, and have a test of their own.
    columns = [sorted({rng.randint(-4, 4) for _ in range(2)}) for _ in range(ndim)]
    offsets = torch.tensor(list(itertools.product(*columns)), dtype=torch.int32)
    stride, upsample = sizes(rng, 1, 2, ndim), sizes(rng, 1, 2, ndim)
    w = weight(channels, 1, len(offsets))
    return lambda x: functional.tap_conv(x, w, offsets, stride=stride, upsample=upsample)


def max_pool(rng, ndim, channels):
    kernel, stride, dilation = (sizes(rng, 1, high, ndim) for high in (4, 3, 2))
    padding = [rng.randint(0, k // 2) for k in kernel]
    run, ceil = getattr(F, f"max_pool{ndim}d"), rng.random() < 0.5
    return lambda x: run(x, kernel, stride, padding, dilation, ceil)


def avg_pool(rng, ndim, channels):
    kernel = sizes(rng, 1, 4, ndim)
    stride = rng.choice([None, [1] * ndim, [2] * ndim])
    padding = [rng.randint(0, k // 2) for k in kernel]
    run, ceil = getattr(F, f"avg_pool{ndim}d"), rng.random() < 0.5
    return lambda x: run(x, kernel, stride, padding, ceil)


def adaptive_avg(rng, ndim, channels):
    size, run = sizes(rng, SMALLEST, 9, ndim), getattr(F, f"adaptive_avg_pool{ndim}d")
    return lambda x: run(x, size)


def adaptive_max(rng, ndim, channels):
    size, run = sizes(rng, SMALLEST, 9, ndim), getattr(F, f"adaptive_max_pool{ndim}d")
    return lambda x: run(x, size)


def _resize(rng, ndim, mode, **options):
    if rng.random() < 0.5:
        size = sizes(rng, SMALLEST, 14, ndim)
        return lambda x: F.interpolate(x, size=size, mode=mode, **options)
    factor = rng.choice([0.5, 1.5, 2.0, 3.0])
    return lambda x: F.interpolate(x, scale_factor=factor, mode=mode, **options)


def nearest(rng, ndim, channels):
    return _resize(rng, ndim, "nearest")


def nearest_exact(rng, ndim, channels):
    return _resize(rng, ndim, "nearest-exact")


def linear_resize(rng, ndim, channels):
    return _resize(rng, ndim, MODES[ndim], align_corners=rng.random() < 0.5)


def bicubic(rng, ndim, channels):
    return _resize(rng, ndim, "bicubic", align_corners=rng.random() < 0.5)


def pad(rng, ndim, channels):
    mode = rng.choice(["constant", "reflect", "replicate", "circular"])
    low = -1 if mode == "constant" else 0
    sides, narrow = sizes(rng, low, 2, 2 * ndim), sizes(rng, 0, 1, 2 * ndim)
    # What `pad` becomes when torch takes it apart.
    reflect, replicate = (getattr(torch.ops.aten, f"{one}_pad{ndim}d") for one in ("reflection", "replication"))
    return lambda x: replicate(reflect(F.pad(x, sides, mode=mode), narrow), narrow[::-1])


def piece(rng, ndim, channels):
    axis, start, step = rng.randint(2, ndim + 1), rng.randint(-6, 3), rng.randint(1, 2)
    return lambda x: x[(slice(None),) * axis + (slice(start, None, step),)]


def join(rng, ndim, channels):
    axis = rng.randint(2, ndim + 1)
    return lambda x: torch.cat([x.narrow(axis, 0, 2), x], axis)


def channels_joined(rng, ndim, channels):
    def run(x):
        parts = torch.cat([x, x.flip(2)], 1).cumsum(1).chunk(2, 1)
        return parts[0] + 2 * parts[1]

    return run


def stacked(rng, ndim, channels):
    return lambda x: torch.stack([x, 2 * x], 1).sum(1)


def flip(rng, ndim, channels):
    axis = rng.randint(2, ndim + 1)
    return lambda x: x.flip(axis) if ndim == 1 else x.rot90(1, (2, -1)).flip(axis).rot90(-1, (2, -1))


def roll(rng, ndim, channels):
    axis, shift = rng.randint(2, ndim + 1), rng.randint(-2, 2)
    half = rng.choice([torch.fft.fftshift, torch.fft.ifftshift])
    return lambda x: half(x.roll(shift, axis), axis)


def rows(rng, ndim, channels):
    axis, index = rng.randint(2, ndim + 1), rng.randint(0, SMALLEST - 1)
    return lambda x: x + (x.unbind(axis)[index] + 2 * x.select(axis, -1)).unsqueeze(axis)


def copies(rng, ndim, channels):
    axis, picked = rng.randint(2, ndim + 1), [rng.random() for _ in range(rng.randint(SMALLEST, 9))]

    def run(x):
        times = [2 if dim == axis else 1 for dim in range(x.ndim)]
        y = x.repeat(times).repeat_interleave(2, axis)
        return y.index_select(axis, torch.tensor([int(one * y.shape[axis]) for one in picked]))

    return run


def windows(rng, ndim, channels):
    axis, step = rng.randint(2, ndim + 1), rng.randint(1, 3)

    def run(x):
        pairs = torch.view_as_complex(x.unfold(axis, 2, step).contiguous())
        return torch.view_as_real(pairs).sum(-1)

    return run


def written(rng, ndim, channels):
    axis, places = rng.randint(2, ndim + 1), torch.tensor([2, 0])

    def run(x):
        y = x.clone()
        y[(slice(None),) * axis + (places,)] += 2 * x.narrow(axis, 1, 2)
        return y

    return run


def split(rng, ndim, channels):
    axis, size = rng.randint(2, ndim + 1), rng.randint(2, 4)
    return lambda x: x.split(size, axis)[0] + x.split(size, axis)[0].flip(axis)


def channels_last(rng, ndim, channels):
    w = weight(channels, channels)
    return lambda x: (x.movedim(1, -1) @ w).movedim(-1, 1)


def tokens(rng, ndim, channels):
    w = weight(channels, channels)
    return lambda x: torch.einsum("b...c,cd->bd...", F.linear(x.flatten(2).mT, w), w).reshape(x.shape)


def shuffle(rng, ndim, channels):
    return lambda x: F.pixel_shuffle(torch.cat([x, 2 * x, 3 * x, 4 * x], 1), 2)


def unshuffle(rng, ndim, channels):
    w = weight(channels, 4 * channels, 1, 1)
    return lambda x: F.conv2d(F.pixel_unshuffle(x, 2), w)


def shuffle_by_view(rng, ndim, channels):
    def run(x):
        b, c, h, w = x.shape
        blocks = torch.stack([x, 2 * x, 3 * x, 4 * x], 2).view(b, c, 2, 2, h, w)
        return blocks.permute(0, 1, 4, 2, 5, 3).reshape(b, c, 2 * h, 2 * w)

    return run


def batch_norm(rng, ndim, channels):
    mean, var = weight(channels), weight(channels)
    return lambda x: F.batch_norm(x, mean, var)


def pointwise(rng, ndim, channels):
    # None of them flat anywhere: a change must come through, up or down.
    return rng.choice([lambda x: F.relu(x) - F.softplus(-x), lambda x: F.leaky_relu(x, 0.5), lambda x: 3 * x + 1])


def residual(rng, ndim, channels):
    k, d = rng.choice([1, 3]), rng.randint(1, 3)
    w = weight(channels, channels, *[k] * ndim)
    run = getattr(F, f"conv{ndim}d")
    return lambda x: x + run(x, w, None, 1, "same", d)


LAYERS = {
    one.__name__: one
    for one in (
        conv, conv_transpose, tap_conv, max_pool, avg_pool, adaptive_avg, adaptive_max, nearest, nearest_exact,
        linear_resize, bicubic, pad, piece, join, channels_joined, stacked, flip, roll, rows, copies, windows, written,
        split, channels_last, tokens, shuffle, unshuffle, shuffle_by_view, batch_norm, pointwise, residual,
    )
}  # fmt: skip
PLANAR = ("bicubic", "shuffle", "unshuffle", "shuffle_by_view")


class Network(nn.Module):
    """A chain of layers, each of which may branch inside."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@st.composite
def networks(draw):
    """Draw (names of the layers, network, input shape)."""
    # Its own choices favour what is simple; every layer is to come often.
    rng = draw(st.randoms(use_true_random=True))
    torch.manual_seed(rng.randint(0, 2**31))
    ndim = rng.choice([1, 2, 2, 2, 3])
    channels = rng.randint(1, 2)
    shape = (1, channels, *sizes(rng, 6, {1: 20, 2: 14, 3: 8}[ndim], ndim))
    possible = [name for name in LAYERS if ndim == 2 or name not in PLANAR]
    names, layers = [], []
    x = torch.rand(shape, dtype=torch.float64)
    for _ in range(rng.randint(5, 9)):
        # More draws for the layers that fit one rank alone, or not every size.
        name = rng.choice([*possible, "conv_transpose", *(2 * PLANAR if ndim == 2 else ())])
        layer = LAYERS[name](rng, ndim, channels)
        try:
            y = layer(x)
        except (RuntimeError, ValueError):  # too small for it
            continue
        if all(SMALLEST <= size <= LARGEST for size in y.shape[2:]) and y.numel() < 20000:
            names.append(name)
            layers.append(layer)
            x = y
    return names, Network(layers), shape


def bits(number):
    return {index for index in range(number.bit_length()) if number >> index & 1}


class Does(nn.Module):
    """A network that runs a function."""

    def __init__(self, run):
        super().__init__()
        self.forward = run


def claims_and_truth(run, shape):
    """Return for each axis what each output is said to read, and what changes it; as one where no dim holds the axis.

    The function is for one image: it may take batch and pixels together.
    """
    fp = trace_footprint(Does(run), torch.rand(shape, dtype=torch.float64))
    found = []
    for axis in range(fp.ndim):
        held = (axis,) in fp.node.dims
        truth = truly_read(
            lambda images: torch.stack([run(image) for image in images.split(1)]).unsqueeze(-1),
            shape,
            axis,
            1 + fp.node.dims.index((axis,)) if held else 1,
        )
        claimed = [bits(one) for one in pixels_read(fp.node, axis)]
        found.append((claimed, truth if held else [set().union(*truth)]))
    return found


def truly_read(network, shape, axis, dim=None):
    """Return for each output index along an axis, which is some dim, the set of input indices that change it."""
    x = torch.rand(shape, dtype=torch.float64)
    size = shape[2 + axis]
    found = None
    for change in (1e6, -1e6, -0.5):
        changed = x.repeat(size, *[1] * (len(shape) - 1))
        for index in range(size):
            changed[index].select(1 + axis, index).add_(change)
        y, z = network(x), network(changed)
        moved = (z - y).abs() > 1e-7 * y.abs().max()
        moved = moved.movedim(2 + axis if dim is None else dim, 1).flatten(2).any(2)
        found = moved if found is None else found | moved
    return [set(column.nonzero().flatten().tolist()) for column in found.T]
