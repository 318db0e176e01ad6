import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm, to_hex
from torch import nn

from atrous.analysis.movement import movement as analyse
from atrous.analysis.movement import snapshot
from atrous.nn import Dcls1d, Dcls2d, Dcls3d
from atrous.plots.movement import movement


def trail(model, count=4):
    """Return snapshots of a model whose positions are drawn anew each time."""
    found = []
    for _ in range(count):
        for layer in model.modules():
            if hasattr(layer, "P"):
                nn.init.normal_(layer.P, 0, 2)
        found.append(snapshot(model))
    return found


def test_every_axis_is_a_map_over_time():
    torch.manual_seed(0)
    result = analyse(trail(Dcls2d(8, 8, 5, dilated_kernel_size=(6, 9), groups=8)))
    *maps, speed = movement(result).axes
    for axes, counts, low in zip(maps, result.layers[0].histograms, (-3, -4), strict=True):
        (picture,) = axes.images
        np.testing.assert_array_equal(picture.get_array(), counts.T)
        assert picture.get_extent() == [-0.5, 3.5, low + counts.shape[1] - 0.5, low - 0.5]
        assert isinstance(picture.norm, PowerNorm)
        assert (picture.norm.gamma, picture.norm.vmax) == (0.5, counts.max())
    assert [axes.get_ylabel() for axes in maps] == ["axis -2, pixels", "axis -1, pixels"]
    assert not speed.images
    assert speed.get_ylabel() == "speed, pixels per interval"


def test_a_speed_stands_in_the_middle_of_its_interval_beside_the_rate():
    torch.manual_seed(0)
    result = analyse(trail(Dcls1d(2, 2, 3, dilated_kernel_size=9)), [0.3, 0.2, 0.1])
    _, speed, rate = movement(result).axes
    for axes, values in ((speed, result.layers[0].speeds), (rate, (0.3, 0.2, 0.1))):
        (line,) = axes.lines
        assert line.get_xdata().tolist() == [0.5, 1.5, 2.5]
        assert tuple(line.get_ydata()) == values
        assert axes.get_ylim()[0] == 0
    assert rate.get_ylabel() == "learning rate"
    assert rate.yaxis.label.get_color() == rate.lines[0].get_color()
    assert speed.yaxis.label.get_color() == speed.lines[0].get_color() != rate.lines[0].get_color()


def test_a_layer_is_a_row_of_as_many_maps_as_it_has_axes():
    model = nn.ModuleDict(
        {"line": Dcls1d(1, 1, 2, dilated_kernel_size=5), "room": Dcls3d(1, 1, 2, dilated_kernel_size=(3, 5, 1))}
    )
    figure = movement(analyse(trail(model)))
    FigureCanvasAgg(figure).draw()
    places = [(axes.get_subplotspec().rowspan.start, axes.get_subplotspec().colspan) for axes in figure.axes]
    assert places == [(0, range(1)), (0, range(1, 3)), (1, range(1)), (1, range(1, 2)), (1, range(2, 3))]
    assert [axes._left_title.get_text() for axes in figure.axes] == ["line", "", "room", "", ""]
    assert [figure.axes[index].get_ylabel() for index in (2, 3)] == ["axis -3, pixels", "axis -2, pixels"]


def test_a_window_of_one_pixel_has_its_speed_alone():
    figure = movement(analyse(trail(Dcls1d(1, 1, 2, dilated_kernel_size=1))))
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    assert list(axes.lines[0].get_ydata()) == [0, 0, 0]


@pytest.mark.parametrize("rates", [None, [0.1]])
def test_ink_and_paper_are_taken(rates):
    result = analyse(trail(Dcls1d(1, 1, 3, dilated_kernel_size=5), 2), rates)
    figure = movement(result, ink="#eeeeee", paper="#111111")
    assert {to_hex(part.get_facecolor()) for part in (figure, *figure.axes)} == {"#111111"}
    ticks = [label for axes in figure.axes for label in axes.get_xticklabels() + axes.get_yticklabels()]
    assert {to_hex(label.get_color()) for label in (*ticks, figure.axes[0].xaxis.label)} == {"#eeeeee"}
