import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from atrous import GeometryError
from atrous.analysis.gridding import AxisGridding, Gridding, hdc
from atrous.plots.gridding import gridding


def result(dilations, ndim=2):
    return Gridding((hdc(dilations).axis,) * ndim)


def test_the_map_shows_paths_and_masks_holes():
    found = result((2, 2, 2))
    figure = gridding(found)
    ground, picture = figure.axes[0].images
    counts = np.multiply.outer(*(np.array(axis.paths, dtype=float) for axis in found.axes))
    shown = picture.get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), counts == 0)
    np.testing.assert_allclose(shown.compressed(), counts[counts > 0] / 49)
    # Below the holes lies orange and nothing else.
    assert {to_hex(colour) for colour in ground.cmap(np.array([0, 1]))} == {"#e0701a"}
    assert (picture.norm.vmin, picture.norm.vmax) == (1 / 49, 1)


@pytest.mark.parametrize(("ndim", "panels"), [(1, 1), (2, 4), (3, 5)])
def test_every_axis_has_its_bars_and_holes(ndim, panels):
    figure = gridding(result((2, 2), ndim))
    assert len(figure.axes) == panels
    bars = [axes for axes in figure.axes if axes.get_title(loc="left").startswith("Axis")]
    assert [axes.get_title(loc="left") for axes in bars] == [f"Axis {axis}: 5 of 9 pixels" for axis in range(ndim)]
    for axes in bars:
        np.testing.assert_allclose(axes.patches[0].get_data().values * 3, [1, 0, 2, 0, 3, 0, 2, 0, 1])
        assert list(axes.lines[0].get_xdata()) == [1, 3, 5, 7]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "3"]


def test_axes_of_different_length():
    figure = gridding(Gridding((AxisGridding((1, 0, 1)), AxisGridding((1, 2, 3, 2, 1)))))
    assert figure.axes[0].get_title(loc="left") == "Product: 10 of 15 pixels"
    assert figure.axes[0].images[1].get_array().shape == (3, 5)


def test_paths_over_all_axes_come_first():
    joint = np.zeros((2, 5, 3))
    joint[0, 0, 0], joint[1, 0, 0], joint[1, 4, 2] = 1, 3, 2
    figure = gridding(Gridding((AxisGridding((1, 1)), AxisGridding((1, 0, 0, 0, 1)), AxisGridding((1, 0, 1))), joint))
    assert figure.axes[0].get_title(loc="left") == "Window: 2 of 15 pixels"
    shown = figure.axes[0].images[1].get_array()
    assert (shown[0, 0], shown[4, 2], shown.count()) == (1, 0.5, 2)


def test_counts_beyond_floats_are_drawn():
    figure = gridding(Gridding((AxisGridding((1, 10**400, 0, 1)),) * 2))
    FigureCanvasAgg(figure).draw()
    picture = figure.axes[0].images[1]
    assert picture.norm.vmin == 1e-4
    assert not picture.get_array().mask[0, 0]
    assert figure.axes[-1].get_yticklabels()[1].get_text() == "1.0e+400"


def test_a_chain_without_holes_has_no_tick_below():
    figure = gridding(result((1, 1)))
    assert figure.axes[0].get_title(loc="left") == "Product: 25 of 25 pixels"
    assert not len(figure.axes[-1].lines[0].get_xdata())


def test_ink_and_paper_are_taken():
    figure = gridding(result((2, 2)), ink="#eeeeee", paper="#111111")
    assert to_hex(figure.get_facecolor()) == "#111111"
    for axes in (figure.axes[0], *figure.axes[2:]):
        assert to_hex(axes.get_facecolor()) == "#111111"
        assert {label.get_color() for label in axes.get_xticklabels()} == {"#eeeeee"}


def test_an_axis_of_nothing_is_named():
    with pytest.raises(GeometryError, match="gridding: got an axis along which nothing is read, expected a pixel"):
        gridding(Gridding((AxisGridding(()),)))
