from io import BytesIO

import numpy as np
from matplotlib.colors import to_hex

from atrous.analysis.equivariance import Equivariance, ShiftError
from atrous.plots.equivariance import shift_errors

POOLED = Equivariance(
    (2, 2),
    ((0, 9), (0, 9)),
    tuple(
        ShiftError((t * down, t * right), 0.5 * (t % 2), 0.25 * (t % 2))
        for down, right in ((1, 0), (0, 1), (1, 1))
        for t in (1, 2, 3)
    ),
)
STRIDED = Equivariance((2,), ((0, 9),), (ShiftError((2,), 1e-15, 1e-16), ShiftError((4,), 0.0, 0.0)))


def rows(figure):
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_one_row_for_each_network_and_direction():
    figure = shift_errors({"pooled": POOLED, "strided": STRIDED})
    assert rows(figure) == ["pooled down", "pooled right", "pooled diagonally", "strided"]
    table = figure.axes[0].images[0].get_array()
    assert table.shape == (4, 4)
    assert np.array_equal(table[0, [0, 2]], [0.25, 0.25])
    assert table.mask[0].tolist() == [False, False, False, True]
    assert table.mask[3].tolist() == [True, False, True, False]


def test_exact_shifts_are_marked():
    marks = [text.get_position() for text in shift_errors({"a": POOLED, "b": STRIDED}).axes[0].texts]
    assert marks == [(2, 0), (2, 1), (2, 2), (2, 3), (4, 3)]


def test_columns_are_shifts_in_pixels():
    assert shift_errors({"a": STRIDED}).axes[0].images[0].get_extent() == [0.5, 4.5, 0.5, -0.5]


def test_ink_and_paper_are_taken():
    figure = shift_errors({"pooled": POOLED}, ink="#eeeeee", paper="#111111")
    assert to_hex(figure.get_facecolor()) == "#111111"
    assert {axes.yaxis.get_ticklabels()[0].get_color() for axes in figure.axes} == {"#eeeeee"}
    figure.savefig(BytesIO(), format="png")
