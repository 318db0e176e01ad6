"""The two operations as Triton kernels: every program sums one tile of outputs, or of weights, tap by tap.

All images have three axes here; missing ones come first and have size 1. Where the channels of an input lie in memory
is in its strides, so no layout is copied. Nothing is added up by atomics: the same call has the same bits.

Legend: B batch, C channels in, D channels out, G groups, S input size, P output size, T taps, N axes of the offsets.
"""

import triton
import triton.language as tl


@triton.jit
def _tiles(size, tile: tl.constexpr):
    """Return how many tiles cover a size above 0."""
    return (size - 1) // tile + 1  # `cdiv` would overflow next to the end of 32 bits


@triton.jit
def _program(WIDE: tl.constexpr):
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    return program


@triton.jit
def _away(offset, WIDE: tl.constexpr):
    """Return how far a tap is away on one axis, in the integers that places are counted in."""
    away = tl.load(offset)
    if WIDE:
        away = away.to(tl.int64)
    return away


@triton.jit
def _axis(place, away, size, upsample, UPSAMPLED: tl.constexpr, WIDE: tl.constexpr):
    """Return the pixel of one axis that a tap sees from a place, and whether there is one."""
    seen = place + away
    pixel = seen
    if UPSAMPLED:
        pixel = seen // upsample
    # What lies before the image, or wraps around, is beyond every size for who knows no sign: one comparison for two.
    inside = pixel.to(tl.uint64 if WIDE else tl.uint32) < size
    if UPSAMPLED:
        inside &= (seen >= 0) & (pixel * upsample == seen)
    return pixel, inside


@triton.jit
def _look(
    place0, place1, place2, away, wanted,
    size0, size1, size2, up0, up1, up2, input0, input1, input2,
    AXES: tl.constexpr, UPSAMPLED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Return where in a plane of the input a tap sees its pixels, and which of them there are and are `wanted`."""
    away2 = _away(away + (AXES - 1), WIDE)
    pixel, inside = _axis(place2, away2, size2, up2, UPSAMPLED, WIDE)
    inside &= wanted
    # The sums that no tap changes stay outside of the loop over taps.
    at = pixel * input2 if UPSAMPLED else place2 * input2
    shift = away2 * input2
    if AXES > 1:
        away1 = _away(away + (AXES - 2), WIDE)
        pixel, there = _axis(place1, away1, size1, up1, UPSAMPLED, WIDE)
        inside &= there
        at += pixel * input1 if UPSAMPLED else place1 * input1
        shift += away1 * input1
    if AXES > 2:
        away0 = _away(away, WIDE)
        pixel, there = _axis(place0, away0, size0, up0, UPSAMPLED, WIDE)
        inside &= there
        at += pixel * input0 if UPSAMPLED else place0 * input0
        shift += away0 * input0
    return at if UPSAMPLED else at + shift, inside


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
    weight_pair, weight_tap,
    PER_GROUP: tl.constexpr, TAPS: tl.constexpr, AXES: tl.constexpr,
    PER_PAIR: tl.constexpr, DEPTHWISE: tl.constexpr, BIAS: tl.constexpr, UPSAMPLED: tl.constexpr, WIDE: tl.constexpr,
    SUM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sum the taps of a tile of ROWS x COLUMNS outputs in CHANNELS channels of one sample.

    `rows` are those of the first two axes of the output, `rows1` those of the second.
    """
    program = _program(WIDE)
    tiles = _tiles(columns, COLUMNS)
    column = program % tiles * COLUMNS + tl.arange(0, COLUMNS)[None, :, None]
    program = program // tiles
    tiles = _tiles(rows, ROWS)
    row = program % tiles * ROWS + tl.arange(0, ROWS)[:, None, None]
    program = program // tiles
    tiles = _tiles(outputs, CHANNELS)
    channel = program % tiles * CHANNELS + tl.arange(0, CHANNELS)[None, None, :]
    sample = (program // tiles).to(tl.int64)

    row0, row1 = row * 0, row
    if AXES > 2:
        row0, row1 = row // rows1, row % rows1
    place0, place1, place2 = row0 * step0, row1 * step1, column * step2
    total = tl.zeros([ROWS, COLUMNS, CHANNELS], SUM)
    for other in range(PER_GROUP):
        source = channel
        if not DEPTHWISE:
            source = channel // outputs_per_group * PER_GROUP + other
        plane = input + sample * input_b + source.to(tl.int64) * input_c
        pair = channel * PER_GROUP + other
        for tap in range(TAPS):
            kernel = tl.load(weight + pair * weight_pair + tap * weight_tap, mask=channel < outputs, other=0).to(SUM)
            if PER_PAIR:
                away = offsets + tl.minimum(pair * TAPS + tap, outputs * PER_GROUP * TAPS - 1) * AXES
            else:
                away = offsets + tap * AXES
            at, inside = _look(
                place0, place1, place2, away, channel < outputs,
                size0, size1, size2, up0, up1, up2, input0, input1, input2, AXES, UPSAMPLED, WIDE,
            )  # fmt: skip
            pixel = tl.load(plane + at, mask=inside, other=0).to(SUM)
            # What is outside is left out: 0 times an infinite weight is no number.
            total += pixel * tl.where(inside, kernel, 0.0)
    if BIAS:
        total += tl.load(bias + channel, mask=channel < outputs, other=0).to(SUM)
    written = output + sample * output_b + channel.to(tl.int64) * output_c
    written += row0.to(tl.int64) * output0 + row1.to(tl.int64) * output1 + column.to(tl.int64) * output2
    wanted = (row < rows) & (column < columns) & (channel < outputs)
    tl.store(written, total.to(output.dtype.element_ty), mask=wanted)


@triton.jit
def grid_conv(
    output, input, weight, offsets, bias,
    outputs, gap,
    size1, size2, rows, columns,
    input_b, input_c, input1, input2,
    output_b, output_c, output1, output2,
    weight_pair, weight_tap,
    DOWN: tl.constexpr, ACROSS: tl.constexpr, BIAS: tl.constexpr, SUM: tl.constexpr,
    SHARED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Run `tap_conv` of depthwise images by a grid of DOWN x ACROSS taps whose rows lie `gap` apart, in either order.

    A thread sums SHARED outputs below one another that lie `gap` apart too, so that each pixel serves several taps. A
    tile holds the first of them: ROWS x COLUMNS.
    """
    program = tl.program_id(0)
    tiles = _tiles(columns, COLUMNS)
    column = program % tiles * COLUMNS + tl.arange(0, COLUMNS)[None, :, None]
    program = program // tiles
    tiles = _tiles(((rows - 1) // gap // SHARED + 1) * gap, ROWS)
    number = program % tiles * ROWS + tl.arange(0, ROWS)[:, None, None]
    row = number // gap * (SHARED * gap) + number % gap
    program = program // tiles
    tiles = _tiles(outputs, CHANNELS)
    channel = program % tiles * CHANNELS + tl.arange(0, CHANNELS)[None, None, :]
    sample = (program // tiles).to(tl.int64)
    known = channel < outputs

    away1, away2 = tl.load(offsets), tl.load(offsets + 1)
    last1, last2 = tl.load(offsets + (DOWN * ACROSS - 1) * 2), tl.load(offsets + (DOWN * ACROSS - 1) * 2 + 1)
    place1 = row + tl.minimum(away1, last1)
    step2 = (last2 - away2) // max(ACROSS - 1, 1)
    plane = input + sample * input_b + channel.to(tl.int64) * input_c
    totals = (tl.zeros([ROWS, COLUMNS, CHANNELS], SUM),) * SHARED
    for across in range(ACROSS):
        seen2 = column + (away2 + across * step2)
        inside2 = known & (seen2.to(tl.uint32) < size2)
        for line in tl.static_range(SHARED + DOWN - 1):
            seen1 = place1 + line * gap
            inside = inside2 & (seen1.to(tl.uint32) < size1)
            pixel = tl.load(plane + (seen1 * input1 + seen2 * input2), mask=inside, other=0).to(SUM)
            for down in tl.static_range(DOWN):
                if line - down >= 0 and line - down < SHARED:
                    tap = tl.where(last1 < away1, DOWN - 1 - down, down) * ACROSS + across
                    kernel = tl.load(weight + channel * weight_pair + tap * weight_tap, mask=known, other=0).to(SUM)
                    total = totals[line - down] + pixel * tl.where(inside, kernel, 0.0)
                    # Triton adds tuples and does not unpack them.
                    totals = totals[: line - down] + (total,) + totals[line - down + 1 :]  # noqa: RUF005
    for shared in tl.static_range(SHARED):
        total = totals[shared]
        if BIAS:
            total += tl.load(bias + channel, mask=known, other=0).to(SUM)
        place = row + shared * gap
        written = output + sample * output_b + channel.to(tl.int64) * output_c
        written += place.to(tl.int64) * output1 + column.to(tl.int64) * output2
        tl.store(written, total.to(output.dtype.element_ty), mask=known & (place < rows) & (column < columns))


@triton.jit
def tap_conv_weight(
    parts, grad, input, offsets,
    outputs, outputs_per_group, taps, batch, pixels, samples, chunks,
    size0, size1, size2,
    rows1, columns,
    step0, step1, step2,
    up0, up1, up2,
    input_b, input_c, input0, input1, input2,
    grad_b, grad_c, grad0, grad1, grad2,
    PER_GROUP: tl.constexpr, AXES: tl.constexpr,
    PER_PAIR: tl.constexpr, DEPTHWISE: tl.constexpr, UPSAMPLED: tl.constexpr, WIDE: tl.constexpr, SUM: tl.constexpr,
    TAPS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sum a tile of TAPS x CHANNELS weights over some `samples` and some `chunks` of PIXELS outputs, into `parts`.

    `pixels` are those of one plane of the output.
    """
    program = _program(WIDE)
    tiles = _tiles(taps, TAPS)
    tap = program % tiles * TAPS + tl.arange(0, TAPS)[:, None, None]
    program = program // tiles
    tiles = _tiles(outputs, CHANNELS)
    channel = program % tiles * CHANNELS + tl.arange(0, CHANNELS)[None, None, :]
    program = program // tiles
    other = program % PER_GROUP
    part = program // PER_GROUP
    divisions = (batch - 1) // samples + 1
    first = part % divisions * samples
    last = tl.minimum(first + samples, batch)
    chunk = part // divisions * chunks
    end = tl.minimum(chunk + chunks, _tiles(pixels, PIXELS))

    source = channel
    if not DEPTHWISE:
        source = channel // outputs_per_group * PER_GROUP + other
    slopes, planes = grad + channel.to(tl.int64) * grad_c, input + source.to(tl.int64) * input_c
    entry = (channel * PER_GROUP + other) * taps + tap
    wanted = (tap < taps) & (channel < outputs)
    if PER_PAIR:
        away = offsets + tl.where(wanted, entry, 0) * AXES
    else:
        away = offsets + tl.minimum(tap, taps - 1) * AXES
    total = tl.zeros([TAPS, PIXELS, CHANNELS], SUM)
    while chunk < end:  # Triton's interpreter has no `range` of what is known at run time
        place = chunk * PIXELS + tl.arange(0, PIXELS)[None, :, None]
        there = (place < pixels) & (channel < outputs)
        column, row = place % columns, place // columns
        row0, row1 = row * 0, row
        if AXES > 2:
            row0, row1 = row // rows1, row % rows1
        read = row0 * grad0 + row1 * grad1 + column * grad2
        at, inside = _look(
            row0 * step0, row1 * step1, column * step2, away, wanted & (place < pixels),
            size0, size1, size2, up0, up1, up2, input0, input1, input2, AXES, UPSAMPLED, WIDE,
        )  # fmt: skip
        sample = first.to(tl.int64)
        while sample < last:
            slope = tl.load(slopes + sample * grad_b + read, mask=there, other=0).to(SUM)
            pixel = tl.load(planes + sample * input_b + at, mask=inside, other=0).to(SUM)
            total += pixel * tl.where(inside, slope, 0.0)
            sample += 1
        chunk += 1
    written = parts + part.to(tl.int64) * outputs * PER_GROUP * taps + entry
    tl.store(written, tl.sum(total, 1)[:, None, :], mask=wanted)
