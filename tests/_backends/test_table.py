"""The table itself: rows that can be reached, backed by cells of the benchmarks that lie within them."""

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch

from atrous import Geometry, explain, functional
from atrous._backends import NAMES, prospect, prospect_transpose, table
from atrous._backends.table import SPREADS, TABLES, TRANSPOSED, find, find_spread

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cells(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import cells

    yield cells
    sys.modules.pop("benchmarks.cells", None)


@pytest.mark.parametrize(
    "row",
    [row for tables in (TABLES, TRANSPOSED) for rows in dict.fromkeys(tables.values()) for row in rows],
    ids=lambda row: row.cell,
)
def test_a_row_decides_the_cell_that_it_names(row, cells):
    assert {row.forward, row.backward} <= set(NAMES["conv"])
    assert row.cell in {cell.name for cell in cells.ROUTES}
    cell = cells.Cell.parse(row.cell)
    pixels = math.prod(cell.output)
    dtype = getattr(torch, cell.dtype)
    assert row in (TRANSPOSED if cell.transposed else TABLES)[dtype]
    columns = cell.inputs, cell.outputs, cell.taps, cell.dilation, cell.stride, pixels, cell.last, cell.transposed
    assert find(dtype, cell.ndim, *columns) is row


def test_a_transposed_convolution_has_one_backend_of_any_size():
    for row in (row for rows in TRANSPOSED.values() for row in rows):
        assert row.forward == row.backward
        assert (row.pixels, row.last) == (table.ANY, None)


@pytest.mark.parametrize("pixels", [(0, 99), (100, None), (50, 99)])
def test_a_row_for_some_sizes_alone_is_a_prospect(pixels, monkeypatch):
    window = Geometry.resolve(3, ndim=2)
    row = table.Row("cpu", "cpu", "taps are faster", "here", ndim=2, pixels=pixels)
    monkeypatch.setitem(TABLES, torch.float32, (row,))
    assert prospect(torch.float32, window, 1, 1) == (True, "taps are faster (here)")
    first = table.Row("aten", "aten", "torch is faster", "there", ndim=2)
    monkeypatch.setitem(TABLES, torch.float32, (first, row))
    assert prospect(torch.float32, window, 1, 1) == (False, "torch is faster (there)")


@pytest.mark.parametrize("find", [prospect, prospect_transpose])
def test_what_torch_cannot_do_in_bfloat16_is_a_prospect(find):
    plain, strided = Geometry.resolve(3, ndim=2), Geometry.resolve(3, 2, ndim=2)
    assert not find(torch.bfloat16, plain, 64, 64).better
    assert find(torch.bfloat16, strided, 64, 64) == (True, "torch is wrong in bfloat16, and it runs in float32")
    assert not find(torch.float32, strided, 64, 64).better


def test_a_volume_with_channels_last_takes_two_backends():
    x = torch.randn(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d).requires_grad_()
    w = torch.randn(3, 1, 3, 3, 3, requires_grad=True)
    said = explain(functional.conv3d, x, w, padding=1, groups=3)
    assert "on 'aten' forward and 'cpu' backward, because torch is faster forward" in said
    found = torch.autograd.grad(functional.conv3d(x, w, padding=1, groups=3).sum(), (x, w))
    expected = torch.autograd.grad(torch.nn.functional.conv3d(x, w, None, 1, 1, 1, 3).sum(), (x, w))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("row", SPREADS, ids=lambda row: f"{row.ndim}-{row.strided}-{row.last}-{row.recorded}")
def test_every_row_of_the_spreads_is_reached(row):
    free = [(False, True) if column is None else (column,) for column in (row.strided, row.last, row.recorded)]
    assert row in [find_spread(row.ndim, *columns) for columns in itertools.product(*free)]


def _runs(x, extent, count, **options):
    weight, positions = torch.zeros(4, 1, count), torch.zeros(2, 4, 1, count)
    options = {"dilated_kernel_size": extent, "groups": 4, **options}
    return explain(functional.dcls_conv2d, x, weight, positions, **options).split(" of ")[0]


@pytest.mark.parametrize(
    ("layout", "recorded", "count", "stride", "dense", "taps"),
    [
        # An element makes four taps, and a window of so many pixels a side is the last to be dense, the first not to.
        (torch.contiguous_format, False, 5, 1, 7, 8),
        (torch.contiguous_format, True, 5, 1, 7, 8),
        (torch.contiguous_format, False, 10, 1, 8, 9),
        (torch.contiguous_format, False, 5, 2, 10, 11),
        (torch.channels_last, False, 5, 1, 14, 15),
        (torch.channels_last, True, 5, 1, 10, 11),
        (torch.channels_last, True, 5, 2, 12, 13),
    ],
)
def test_elements_that_fill_their_window_run_as_a_kernel(layout, recorded, count, stride, dense, taps):
    x = torch.zeros(1, 4, 40, 40).to(memory_format=layout).requires_grad_(recorded)
    assert [_runs(x, extent, count, stride=stride) for extent in (dense, taps)] == ["conv2d", "tap_conv"]


def test_a_window_counts_no_more_than_the_image_has():
    """Of a window of 31 pixels, an image of 4 has seven to read."""
    assert [_runs(torch.zeros(1, 4, size, size), 31, 5, padding="same") for size in (4, 5)] == ["conv2d", "tap_conv"]
