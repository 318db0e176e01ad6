from dataclasses import replace
from io import BytesIO

import numpy as np
from matplotlib.colors import to_hex

from atrous.analysis.borders import MODES, Borders
from atrous.plots.borders import border_errors

BORDERS = Borders((0, 2, 4), {mode: (3.0 - index / 2, 1.0, 0.0) for index, mode in enumerate(MODES)}, 2.0, 4)


def test_one_curve_for_each_mode_and_a_line_where_padding_ends():
    (axes,) = border_errors(BORDERS).axes
    *curves, end = axes.lines
    assert [line.get_label() for line in curves] == list(MODES)
    for line, errors in zip(curves, BORDERS.errors.values(), strict=True):
        assert np.array_equal(line.get_xydata(), np.stack([BORDERS.distances, errors], 1))
    assert set(end.get_xdata()) == {4}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [*MODES, "no padding read"]


def test_without_such_a_place_there_is_no_line():
    (axes,) = border_errors(replace(BORDERS, clear=None)).axes
    assert len(axes.lines) == len(MODES)


def test_modes_have_colours_of_their_own():
    (axes,) = border_errors(BORDERS).axes
    assert len({line.get_color() for line in axes.lines[:-1]}) == len(MODES)


def test_ink_and_paper_are_taken():
    figure = border_errors(BORDERS, ink="#eeeeee", paper="#111111")
    (axes,) = figure.axes
    assert (to_hex(figure.get_facecolor()), to_hex(axes.get_facecolor())) == ("#111111", "#111111")
    assert axes.xaxis.label.get_color() == "#eeeeee"
    figure.savefig(BytesIO(), format="png")
