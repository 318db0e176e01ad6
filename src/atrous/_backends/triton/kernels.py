"""The two operations as Triton kernels: every program sums one tile of outputs, or of weights, tap by tap.

All images have three axes here; missing ones come first and have size 1. Where the channels of an input lie in memory
is in its strides, so no layout is copied. Nothing is added up by atomics: the same call has the same bits.

Legend: B batch, C channels in, D channels out, G groups, S input size, P output size, T taps, N axes of the offsets.
"""

import triton
import triton.language as tl

FARTHEST = tl.constexpr(2**30)
"""Where 32 bits count places, all of these are less; so farther offsets are as good as this one."""


@triton.jit
def _tiles(size, tile: tl.constexpr):
    """Return how many tiles cover a size above 0."""
    return (size - 1) // tile + 1  # `cdiv` would overflow next to the end of 32 bits


@triton.jit
def _offset(offsets, axis: tl.constexpr, WIDE: tl.constexpr):
    """Return what one axis of taps is away, or 0 for an axis that offsets do not have."""
    away = 0
    if axis >= 0:
        away = tl.load(offsets + axis)
        if not WIDE:
            away = tl.minimum(tl.maximum(away, -FARTHEST), FARTHEST)
    return away


@triton.jit
def _seen(place, size, upsample, UPSAMPLED: tl.constexpr):
    """Return the pixel at a place of the upsampled input, and whether there is one."""
    pixel = place
    inside = place >= 0
    if UPSAMPLED:
        pixel = place // upsample
        inside &= pixel * upsample == place
    return pixel, inside & (pixel < size)


@triton.jit
def tap_conv(
    output, input, weight, offsets, bias,
    outputs, outputs_per_group,
    size0, size1, size2,
    rows, rows1, columns,
    step0, step1, step2,
    up0, up1, up2,
    input_b, input_c, input0, input1, input2,
    output_b, output_c, output0, output1, output2,
    PER_GROUP: tl.constexpr, TAPS: tl.constexpr, AXES: tl.constexpr,
    PER_PAIR: tl.constexpr, DEPTHWISE: tl.constexpr, BIAS: tl.constexpr, UPSAMPLED: tl.constexpr, WIDE: tl.constexpr,
    SUM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sum the taps of a tile of ROWS x COLUMNS outputs in CHANNELS channels of one sample.

    `rows` are those of the first two axes of the output, `rows1` those of the second.
    """
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    tiles = _tiles(columns, COLUMNS)
    column = program % tiles * COLUMNS + tl.arange(0, COLUMNS)[None, :, None]
    program = program // tiles
    tiles = _tiles(rows, ROWS)
    row = program % tiles * ROWS + tl.arange(0, ROWS)[:, None, None]
    program = program // tiles
    tiles = _tiles(outputs, CHANNELS)
    channel = program % tiles * CHANNELS + tl.arange(0, CHANNELS)[None, None, :]
    sample = (program // tiles).to(tl.int64)

    row0, row1 = row // rows1, row % rows1
    place0, place1, place2 = row0 * step0, row1 * step1, column * step2
    wanted = (row < rows) & (column < columns) & (channel < outputs)
    total = tl.zeros([ROWS, COLUMNS, CHANNELS], SUM)
    for other in range(PER_GROUP):
        source = channel
        if not DEPTHWISE:
            source = channel // outputs_per_group * PER_GROUP + other
        plane = input + sample * input_b + source.to(tl.int64) * input_c
        pair = (channel * PER_GROUP + other) * TAPS
        for tap in range(TAPS):
            kernel = tl.load(weight + pair + tap, mask=channel < outputs, other=0).to(SUM)
            if PER_PAIR:
                away = offsets + tl.minimum(pair + tap, outputs * PER_GROUP * TAPS - 1) * AXES
            else:
                away = offsets + tap * AXES
            pixel0, inside0 = _seen(place0 + _offset(away, AXES - 3, WIDE), size0, up0, UPSAMPLED)
            pixel1, inside1 = _seen(place1 + _offset(away, AXES - 2, WIDE), size1, up1, UPSAMPLED)
            pixel2, inside2 = _seen(place2 + _offset(away, AXES - 1, WIDE), size2, up2, UPSAMPLED)
            inside = inside0 & inside1 & inside2 & wanted
            pixel = tl.load(plane + (pixel0 * input0 + pixel1 * input1 + pixel2 * input2), mask=inside, other=0)
            # What is outside is left out: 0 times an infinite weight is no number.
            total += tl.where(inside, pixel.to(SUM) * kernel, 0.0)
    if BIAS:
        total += tl.load(bias + channel, mask=channel < outputs, other=0).to(SUM)
    written = output + sample * output_b + channel.to(tl.int64) * output_c
    written += row0.to(tl.int64) * output0 + row1.to(tl.int64) * output1 + column.to(tl.int64) * output2
    tl.store(written, total.to(output.dtype.element_ty), mask=wanted)


@triton.jit
def tap_conv_weight(
    parts, grad, input, offsets,
    outputs, outputs_per_group, taps, pixels,
    size0, size1, size2,
    rows0, rows1, columns,
    step0, step1, step2,
    up0, up1, up2,
    input_b, input_c, input0, input1, input2,
    grad_b, grad_c, grad0, grad1, grad2,
    PER_GROUP: tl.constexpr, AXES: tl.constexpr,
    PER_PAIR: tl.constexpr, DEPTHWISE: tl.constexpr, UPSAMPLED: tl.constexpr, WIDE: tl.constexpr, SUM: tl.constexpr,
    TAPS: tl.constexpr, STEPS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sum a tile of TAPS x CHANNELS weights over STEPS x PIXELS of the `pixels` of all samples, into `parts`."""
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    tiles = _tiles(taps, TAPS)
    tap = program % tiles * TAPS + tl.arange(0, TAPS)[:, None, None]
    program = program // tiles
    tiles = _tiles(outputs, CHANNELS)
    channel = program % tiles * CHANNELS + tl.arange(0, CHANNELS)[None, None, :]
    program = program // tiles
    other = program % PER_GROUP
    part = program // PER_GROUP

    source = channel
    if not DEPTHWISE:
        source = channel // outputs_per_group * PER_GROUP + other
    entry = (channel * PER_GROUP + other) * taps + tap
    wanted = (tap < taps) & (channel < outputs)
    if PER_PAIR:
        away = offsets + tl.where(wanted, entry, 0) * AXES
    else:
        away = offsets + tl.minimum(tap, taps - 1) * AXES
    away0, away1, away2 = _offset(away, AXES - 3, WIDE), _offset(away, AXES - 2, WIDE), _offset(away, AXES - 1, WIDE)
    total = tl.zeros([TAPS, PIXELS, CHANNELS], SUM)
    for step in range(STEPS):
        place = (part * STEPS + step) * PIXELS + tl.arange(0, PIXELS)[None, :, None]
        there = place < pixels
        column, rest = place % columns, place // columns
        row1, rest = rest % rows1, rest // rows1
        row0, sample = rest % rows0, (rest // rows0).to(tl.int64)
        read = grad + sample * grad_b + channel.to(tl.int64) * grad_c
        read += row0.to(tl.int64) * grad0 + row1.to(tl.int64) * grad1 + column.to(tl.int64) * grad2
        slope = tl.load(read, mask=there & (channel < outputs), other=0).to(SUM)
        pixel0, inside0 = _seen(row0 * step0 + away0, size0, up0, UPSAMPLED)
        pixel1, inside1 = _seen(row1 * step1 + away1, size1, up1, UPSAMPLED)
        pixel2, inside2 = _seen(column * step2 + away2, size2, up2, UPSAMPLED)
        inside = inside0 & inside1 & inside2 & wanted & there
        plane = input + sample * input_b + source.to(tl.int64) * input_c
        pixel = tl.load(plane + (pixel0 * input0 + pixel1 * input1 + pixel2 * input2), mask=inside, other=0)
        total += tl.where(inside, pixel.to(SUM) * slope, 0.0)
    written = parts + part.to(tl.int64) * outputs * PER_GROUP * taps + entry
    tl.store(written, tl.sum(total, 1)[:, None, :], mask=wanted)
