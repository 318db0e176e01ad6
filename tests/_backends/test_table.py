"""The table itself: rows that can be reached, backed by cells of the benchmarks that lie within them."""

import math
import sys
from pathlib import Path

import pytest

from atrous._backends import NAMES
from atrous._backends.table import TABLE, find

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cells(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import cells

    yield cells
    sys.modules.pop("benchmarks.cells", None)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.cell)
def test_a_row_decides_the_cell_that_it_names(row, cells):
    assert {row.forward, row.backward} <= set(NAMES["conv"])
    assert row.cell in {cell.name for cell in cells.ROUTES}
    cell = cells.Cell.parse(row.cell)
    pixels = math.prod(cell.output)
    found = find(cell.ndim, cell.inputs, cell.outputs, cell.taps, cell.dilation, cell.stride, pixels)
    assert found is row
