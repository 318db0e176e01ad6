import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm, to_hex

from atrous.analysis.effective import EffectiveReceptiveField
from atrous.plots.effective import effective_receptive_field


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
