"""The tables of `wide`: a line for each of its rows, what falls short, every cell, and what a second thread gives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from benchmarks.cells import WIDE, Row
from benchmarks.results import FLAT, PASSES, SLOWER, WAYS, Measured, ascending, mean, ratio, text

OVER_FLOAT32 = 1.1
"""Most that a time in 16 bits may be over that in float32."""
TWICE = 1.7
"""Wanted of one thread over two, where an input channel has so many pixels:"""
PIXELS = 56 * 56


def tables(cells: Sequence[Measured]) -> Iterator[str]:
    """Return the tables of one run."""
    rows = list(_rows(cells))
    yield from _summary(rows)
    yield from _short(rows)
    for row, found in rows:
        yield from _cells(row, found)


def scaling(one: Sequence[Measured], two: Sequence[Measured]) -> Iterator[str]:
    """Return the table of the forced operations with one thread over two threads."""
    yield "### 2 threads over 1"
    yield ""
    yield f"Forced, where an input channel has at least {PIXELS} pixels: time with 1 thread / time with 2 threads, at"
    yield f"least {TWICE} wanted."
    yield ""
    yield "| row | cells | forward mean | least | backward mean | least |"
    yield "|---" * 6 + "|"
    twice = {cell.cell: cell for cell in two}
    for row, found in _rows(one):
        large = [cell for cell in found if math.prod(cell.cell.sizes) >= PIXELS and cell.cell in twice]
        line = [row.title, str(len(large))]
        for pass_ in PASSES:
            gains = [(ratio(cell.ms(pass_, "forced"), twice[cell.cell].ms(pass_, "forced")), cell) for cell in large]
            line += [text(mean(gain for gain, _ in gains)), _worst(ascending(gains)[:1])]
        if large:
            yield "| " + " | ".join(line) + " |"
    yield ""


def _rows(cells: Sequence[Measured]) -> Iterator[tuple[Row, list[Measured]]]:
    for row in WIDE:
        if found := [cell for cell in cells if cell.cell in row.cells]:
            yield row, found


def _summary(rows: Sequence[tuple[Row, list[Measured]]]) -> Iterator[str]:
    yield "Geometric means of stock / ours in the same layout and data type, as forced and as routed; in brackets, of"
    yield f"how many cells, where not all have both sides. *Slower*: cells below {SLOWER}, forced and routed. *Flat*:"
    yield f"the most that the forced time is over that at d = 1; {FLAT} wanted. *Over float32*: the forced time over"
    yield f"that in float32, mean and most; {OVER_FLOAT32} wanted."
    yield ""
    yield (
        "| row | cells | forward wanted | forced | routed | slower | flat | over float32 "
        "| backward wanted | forced | routed | slower | flat | over float32 |"
    )
    yield "|---" * 14 + "|"
    for row, found in rows:
        line = [row.title, str(len(found))]
        for pass_, wanted in zip(PASSES, (row.forward, row.backward), strict=True):
            gains = [[gain for cell in found if (gain := cell.speedup(pass_, way))] for way in ("forced", "routed")]
            counts = ["" if len(gain) in (0, len(found)) else f" ({len(gain)})" for gain in gains]
            line += ["-" if wanted is None else f"{wanted:g}"]
            line += [text(mean(gain)) + count for gain, count in zip(gains, counts, strict=True)]
            line += [", ".join(str(sum(round(v, 2) < SLOWER for v in gain)) if gain else "-" for gain in gains)]
            line += [_worst(ascending((cell.flat(pass_), cell) for cell in found if cell.cell.dilation > 1)[-1:])]
            widened = [value for cell in found if (value := cell.widened(pass_))]
            line += [f"{text(mean(widened))}, {text(max(widened))}" if widened else "-"]
        yield "| " + " | ".join(line) + " |"
    yield ""


def _worst(found: Sequence[tuple[float, str]]) -> str:
    return text(found[0][0]) if found else "-"


def _short(rows: Sequence[tuple[Row, list[Measured]]]) -> Iterator[str]:
    """List the cells that miss what is wanted of every cell, the worst first."""
    lines = []
    for row, found in rows:
        for pass_ in PASSES:
            for way in WAYS:
                gains = ascending((cell.speedup(pass_, way), cell) for cell in found)
                slow = [pair for pair in gains if round(pair[0], 2) < SLOWER]
                lines.append((f"{row.title}, {pass_}, {way}, below {SLOWER}", slow))
            flat = ascending((cell.flat(pass_), cell) for cell in found)[::-1]
            lines.append((f"{row.title}, {pass_}, flat above {FLAT}", [p for p in flat if round(p[0], 2) > FLAT]))
            wide = ascending((cell.widened(pass_), cell) for cell in found)[::-1]
            over = [pair for pair in wide if round(pair[0], 2) > OVER_FLOAT32]
            lines.append((f"{row.title}, {pass_}, over float32 above {OVER_FLOAT32}", over))
    listed = [(what, ", ".join(f"{name} {value:.2f}" for value, name in missed)) for what, missed in lines if missed]
    if listed:
        yield from (*(f"- {what}: {missed}" for what, missed in listed), "")


def _cells(row: Row, found: Sequence[Measured]) -> Iterator[str]:
    narrow = any(cell.cell.narrow for cell in found)
    head = ["ms", "forced", "routed", "flat", *["over float32"] * narrow]
    yield f"<details><summary>{row.title}</summary>"
    yield ""
    yield "| cell | " + " | ".join(f"{pass_} {' | '.join(head)}" for pass_ in PASSES) + " |"
    yield "|---" * (1 + 2 * len(head)) + "|"
    for cell in found:
        line = [cell.cell.name + (" ~" if cell.noisy() else "")]
        for pass_ in PASSES:
            line.append(cell.fault(pass_, "forced") or text(cell.ms(pass_, "forced"), ".3f"))
            line += [_gain(cell, pass_, way) for way in ("forced", "routed")]
            line.append(text(cell.flat(pass_)))
            line += [text(cell.widened(pass_))] * narrow
        yield "| " + " | ".join(line) + " |"
    yield from ("", "</details>", "")


def _gain(cell: Measured, pass_: str, way: str) -> str:
    """Return stock / ours, or who has no time and why."""
    stock, own = cell.fault(pass_, "stock"), cell.fault(pass_, way)
    return (f"torch {stock}" if stock else own) or text(cell.speedup(pass_, way))
