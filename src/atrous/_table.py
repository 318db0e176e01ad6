"""Tables of text, for results that print."""

from __future__ import annotations

import re
from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[object]]) -> str:
    """Return rows as lines whose columns stand below one another; numbers to the right, words to the left.

    Example:
        >>> print(aligned([("layer", "field"), ("conv1", 3), ("conv10", 15)]))
        layer   field
        conv1       3
        conv10     15
    """
    cells = [[str(cell) for cell in row] for row in rows]
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    # A column of words has a word below its head.
    words = [not any(_numeric(cell) for cell in (column[1:] or column)) for column in columns]
    lines = (
        (cell.ljust(width) if word else cell.rjust(width) for cell, width, word in zip(row, widths, words, strict=True))
        for row in cells
    )
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _numeric(cell: str) -> bool:
    return re.fullmatch(r"[+-]?[\d.]+([/x%e]?[+-]?\d*)?", cell) is not None
