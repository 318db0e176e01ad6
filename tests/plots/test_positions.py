import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from torch import nn

from atrous.analysis.positions import positions as analyse
from atrous.nn import Dcls1d, Dcls2_1d, Dcls2d, Dcls3d
from atrous.plots.positions import positions


def crowded(layer):
    with torch.no_grad():
        layer.P.fill_(100)
    return layer


def test_two_axes_are_a_map_with_its_limits():
    result = analyse(Dcls2d(8, 8, 5, dilated_kernel_size=(6, 9), groups=8))
    (axes,) = positions(result).axes
    (picture,) = axes.images
    np.testing.assert_array_equal(picture.get_array(), result.layers[0].counts)
    # The pixel 0 lies at -3 along the first axis of 6 pixels, and at -4 along the second one of 9.
    assert picture.get_extent() == [-4.5, 4.5, 2.5, -3.5]
    (limits,) = axes.patches
    assert limits.get_bbox().extents.tolist() == [-4, -3, 4, 2]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("axis -1, pixels", "axis -2, pixels")


@pytest.mark.parametrize(
    "layer", [Dcls1d(2, 2, 3, dilated_kernel_size=8), Dcls2_1d(1, 1, 3, dilated_kernel_size=8)], ids=type
)
def test_one_axis_is_bars_with_its_limits(layer):
    result = analyse(layer)
    (axes,) = positions(result).axes
    bars = axes.patches[0].get_data()
    assert tuple(bars.values) == result.layers[0].histograms[0]
    assert list(bars.edges) == [-4.5 + step for step in range(9)]
    assert [line.get_xdata() for line in axes.lines] == [[-4, -4], [3, 3]]


def test_three_axes_are_three_maps_in_a_row_of_their_own():
    result = analyse(
        nn.Sequential(Dcls1d(1, 1, 2, dilated_kernel_size=5), Dcls3d(2, 2, 4, dilated_kernel_size=(3, 5, 7)))
    )
    _, *maps = positions(result).axes
    counts = result.layers[1].counts
    for axes, hidden in zip(maps, (2, 1, 0), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), counts.sum(hidden))
    assert [axes.get_subplotspec().rowspan.start for axes in maps] == [1, 1, 1]
    assert [axes.get_ylabel() for axes in maps] == ["axis -3, pixels", "axis -3, pixels", "axis -2, pixels"]


@pytest.mark.parametrize(("window", "name"), [((1, 7), "axis -1, pixels"), ((7, 1), "axis -2, pixels")])
def test_an_axis_of_one_pixel_is_left_out(window, name):
    result = analyse(Dcls2d(1, 1, 3, dilated_kernel_size=window))
    (axes,) = positions(result).axes
    assert not axes.images
    assert axes.patches[0].get_data().values.sum() == 3
    assert axes.get_xlabel() == name


def test_a_window_of_one_pixel_is_drawn():
    figure = positions(analyse(Dcls2d(1, 1, 3, dilated_kernel_size=1)))
    FigureCanvasAgg(figure).draw()
    assert list(figure.axes[0].patches[0].get_data().values) == [3]


def test_pixels_are_square_unless_the_window_is_a_strip():
    sides = [(5, 15), (5, 16)]
    figure = positions(analyse(nn.Sequential(*[Dcls2d(1, 1, 3, dilated_kernel_size=side) for side in sides])))
    assert [axes.get_aspect() for axes in figure.axes] == [1, "auto"]


def test_many_layers_fill_rows_of_four():
    figure = positions(analyse(nn.Sequential(*[Dcls2d(1, 1, 2, dilated_kernel_size=5) for _ in range(6)])))
    FigureCanvasAgg(figure).draw()
    assert [axes.get_subplotspec().colspan.start for axes in figure.axes] == [0, 1, 2, 3, 0, 1]


def test_what_lies_at_the_limits_is_said_in_orange():
    model = nn.Sequential(Dcls2d(1, 1, 2, dilated_kernel_size=17), crowded(Dcls2d(1, 1, 2, dilated_kernel_size=17)))
    titles = [axes._left_title for axes in positions(analyse(model)).axes]
    assert [title.get_text() for title in titles] == ["0\n0% at the limits", "1\n100% at the limits"]
    assert [to_hex(title.get_color()) for title in titles] == ["#000000", "#e0701a"]


def test_ink_and_paper_are_taken():
    figure = positions(analyse(Dcls1d(1, 1, 3, dilated_kernel_size=5)), ink="#eeeeee", paper="#111111")
    (axes,) = figure.axes
    assert {to_hex(part.get_facecolor()) for part in (figure, axes)} == {"#111111"}
    assert {to_hex(label.get_color()) for label in (*axes.get_xticklabels(), axes.xaxis.label)} == {"#eeeeee"}
