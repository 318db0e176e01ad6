import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm, to_hex

from atrous import ShapeError
from atrous.analysis.effective import EffectiveReceptiveField
from atrous.plots.effective import effective_receptive_field, effective_receptive_fields


def bell(*sizes):
    weights = np.ones(())
    for size in sizes:
        places = np.arange(size) - size // 2
        weights = np.multiply.outer(weights, np.exp(-(places**2) / 8))
    at = tuple(size // 2 for size in sizes)
    window = tuple((size // 2 - 6, size // 2 + 7) for size in sizes)
    return EffectiveReceptiveField(weights / weights.sum(), at, 1, window)


def test_the_square_and_the_ellipse_are_to_scale():
    result = bell(31, 41)
    axes = effective_receptive_field(result).axes[0]
    field, fit = axes.patches
    assert (*field.get_xy(), field.get_width(), field.get_height()) == (13.5, 8.5, 13, 13)
    np.testing.assert_allclose(fit.center, (20, 15))
    np.testing.assert_allclose((fit.width, fit.height), (result.extent[1], result.extent[0]))
    np.testing.assert_allclose((fit.width, fit.height), 8, rtol=1e-3)
    assert axes.get_aspect() == 1


def test_colours_follow_the_square_root_and_say_so():
    figure = effective_receptive_field(bell(31, 31))
    (picture,) = figure.axes[0].images
    assert isinstance(picture.norm, PowerNorm)
    assert picture.norm.gamma == 0.5
    assert picture.get_array().max() == 1
    assert figure.axes[-1].get_ylabel() == "gradient, of the largest (square-root scale)"


def test_the_theoretical_field_inside_of_the_image_is_shown():
    weights = np.full((20, 20), 1 / 400)
    axes = effective_receptive_field(EffectiveReceptiveField(weights, (10, 10), 1, ((-90, 111), (5, 9)))).axes[0]
    bottom, top = axes.get_ylim()
    assert -2.5 < top < -0.5
    assert 19.5 < bottom < 21.5
    assert axes.get_xlim()[0] < 4.5 < 8.5 < axes.get_xlim()[1] < 10


def test_a_volume_is_summed_onto_three_planes():
    result = bell(15, 17, 19)
    figure = effective_receptive_field(result)
    shapes = [axes.images[0].get_array().shape for axes in figure.axes[:3]]
    assert shapes == [(15, 17), (15, 19), (17, 19)]
    plane = result.map.sum(1)
    np.testing.assert_allclose(figure.axes[1].images[0].get_array(), plane / plane.max())
    assert [axes.get_xlabel() for axes in figure.axes[:3]] == [f"pixel of axis {axis}" for axis in (1, 2, 2)]


def test_a_signal_is_a_line_beside_its_gaussian():
    result = bell(41)
    (axes,) = effective_receptive_field(result).axes
    curve = axes.lines[0]
    assert curve.get_label() == "Gaussian of the same moments"
    np.testing.assert_allclose(np.interp(20, *curve.get_data()), result.map[20], rtol=1e-2)
    assert [line.get_xdata()[0] for line in axes.lines[1:]] == pytest.approx([16, 24], abs=0.01)


def test_a_single_pixel_has_no_gaussian():
    figure = effective_receptive_field(EffectiveReceptiveField(np.array([0.0, 1.0, 0.0]), (1,), 1, ((1, 2),)))
    FigureCanvasAgg(figure).draw()
    assert "Gaussian of the same moments" not in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("sizes", [(41,), (31, 41), (15, 17, 19)])
def test_the_legend_stays_inside(sizes):
    figure = effective_receptive_field(bell(*sizes))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.legends[0].get_window_extent(canvas.get_renderer())
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert figure.legends[0].get_texts()[0].get_text().startswith("theoretical: 13")


@pytest.mark.parametrize("sizes", [(21,), (21, 21)])
def test_ink_and_paper_are_taken(sizes):
    figure = effective_receptive_field(bell(*sizes), ink="#eeeeee", paper="#111111")
    assert to_hex(figure.get_facecolor()) == "#111111"
    axes = figure.axes[0]
    assert axes.xaxis.label.get_color() == axes.yaxis.label.get_color() == "#eeeeee"
    assert {label.get_color() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())} == {"#eeeeee"}
    assert {to_hex(text.get_color()) for text in figure.legends[0].get_texts()} == {"#eeeeee"}


def test_fields_side_by_side_have_one_scale():
    plain, wide = bell(31, 41), bell(31, 41)
    wide = EffectiveReceptiveField(wide.map, wide.at, 1, ((5, 26), (14, 35)))
    figure = effective_receptive_fields({"plain": plain, "wide": wide})
    left, right = figure.axes[:2]
    for axes, result in ((left, plain), (right, wide)):
        np.testing.assert_allclose(axes.images[0].get_array(), result.map / result.map.max())
        field, fit = axes.patches
        assert (field.get_width(), field.get_height()) == tuple(stop - start for start, stop in result.window[::-1])
        np.testing.assert_allclose((fit.width, fit.height), result.extent[::-1])
    assert np.ptp(left.get_xlim()) == np.ptp(right.get_xlim()) > 21
    assert np.ptp(left.get_ylim()) == np.ptp(right.get_ylim()) > 21
    # The outputs stand in the middle, and rows go downwards.
    assert (np.mean(left.get_xlim()), np.mean(right.get_xlim())) == pytest.approx((20, 24))
    assert left.get_ylim()[0] > left.get_ylim()[1]
    assert [axes.get_title(loc="left").splitlines()[:2] for axes in (left, right)] == [
        ["plain", "theoretical: 13 x 13 px"],
        ["wide", "theoretical: 21 x 21 px"],
    ]


@pytest.mark.parametrize(("sizes", "rows"), [((41,), 1), ((31, 41), 1), ((15, 17, 19), 3)])
def test_fields_side_by_side_are_columns(sizes, rows):
    figure = effective_receptive_fields({"one": bell(*sizes), "two": bell(*sizes)}, ink="#eeeeee", paper="#111111")
    FigureCanvasAgg(figure).draw()
    panels = figure.axes[: 2 * rows]
    assert [axes.get_subplotspec().rowspan.start for axes in panels] == [row for row in range(rows) for _ in "ab"]
    assert [bool(axes._left_title.get_text()) for axes in panels] == [True, True] + [False] * (2 * rows - 2)
    assert {to_hex(axes.get_facecolor()) for axes in panels} == {"#111111"}
    assert {axes.xaxis.label.get_color() for axes in panels} == {"#eeeeee"}


@pytest.mark.parametrize(("results", "got"), [({}, "{}"), ({"a": bell(5), "b": bell(5, 5)}, "{'a': 1, 'b': 2}")])
def test_fields_of_other_axes_do_not_compare(results, got):
    message = f"effective_receptive_fields: results: got axes {got}, expected one number of axes for all"
    with pytest.raises(ShapeError, match=message):
        effective_receptive_fields(results)
