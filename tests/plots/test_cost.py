from fractions import Fraction
from io import BytesIO

from matplotlib.colors import to_hex

from atrous.analysis.cost import Cost, LayerCost
from atrous.plots.cost import cost_bars

COST = Cost(
    (
        LayerCost("stem", "conv2d", (1, 8, 4, 4), 1000, 80, 100, Fraction(1, 4)),
        LayerCost("stem", "relu", (1, 8, 4, 4), 0, 0, 64, None),
        LayerCost("head", "linear", (1, 2), 60, 6, 30, None),
    )
)


def test_a_bar_for_each_layer_that_multiplies():
    macs, intensity = cost_bars(COST).axes
    assert [bar.get_width() for bar in macs.containers[0]] == [1000, 60]
    assert [bar.get_width() for bar in macs.containers[1]] == [250, 0]
    assert [bar.get_width() for bar in intensity.containers[0]] == [10, 2]
    assert [label.get_text() for label in macs.get_yticklabels()] == ["stem.conv2d", "head.linear"]


def test_large_numbers_have_a_prefix():
    layers = (LayerCost("stem", "conv2d", (1, 8, 4, 4), 20_000_000, 80, 100, None),)
    macs, _ = cost_bars(Cost(layers)).axes
    assert macs.xaxis.get_major_formatter()(20_000_000) == "20 M"


def test_the_first_layer_is_on_top():
    low, high = cost_bars(COST).axes[0].get_ylim()
    assert low > high


def test_ink_and_paper_are_taken():
    figure = cost_bars(COST, ink="#eeeeee", paper="#111111")
    assert {to_hex(axes.get_facecolor()) for axes in figure.axes} == {"#111111"}
    assert figure.axes[0].title.get_text() == ""
    assert to_hex(figure.axes[0]._left_title.get_color()) == "#eeeeee"


def test_nothing_to_multiply_is_an_empty_picture():
    figure = cost_bars(Cost(COST.layers[1:2]))
    assert not [bar for axes in figure.axes for bar in axes.patches]
    figure.savefig(BytesIO(), format="png")
