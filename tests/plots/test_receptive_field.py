import itertools
from fractions import Fraction

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from atrous import GeometryError, ShapeError
from atrous.analysis.receptive_field import LayerField
from atrous.plots import receptive_field_growth

IMAGE = np.zeros((386, 386), np.uint8)


def layer(*field):
    ndim = len(field)
    return LayerField("conv", "conv2d", field, (Fraction(4),) * ndim, (0,) * ndim, (9,) * ndim, (False,) * ndim, True)


def growth(*sides):
    words = ["front end alone", *(f"{features} features, dilation 16" for features in range(3, 99))]
    return [(what, layer(side, side)) for what, side in zip(words, sides, strict=False)]


SIDES = [58, 66, 74, 90, 122, 186, 314, 322]
GROWTH = growth(*SIDES)


def test_squares_are_centred_and_to_scale():
    (axes,) = receptive_field_growth(IMAGE, GROWTH).axes
    squares = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [square.get_width() for square in squares] == SIDES[::-1]
    assert [square.get_height() for square in squares] == SIDES[::-1]
    assert all(square.get_xy() == (-square.get_width() / 2,) * 2 for square in squares)
    assert [square.get_linestyle() for square in squares] == ["-"] * 7 + ["--"]
    assert axes.images[0].get_extent() == [-193, 193, 193, -193]
    assert axes.get_aspect() == 1


def test_a_field_is_as_high_and_wide_as_its_axes_say():
    (axes,) = receptive_field_growth(IMAGE, [("tall", layer(41, 7))]).axes
    (patch,) = axes.patches
    assert (patch.get_height(), patch.get_width(), patch.get_xy()) == (41, 7, (-3.5, -20.5))
    assert [text.get_text() for text in axes.texts] == ["41 x 7 px, tall"]


def test_labels_name_pixels_and_layer_largest_first():
    (axes,) = receptive_field_growth(IMAGE, GROWTH).axes
    labels = [text.get_text() for text in axes.texts]
    assert labels[0] == "322 px, 9 features, dilation 16"
    assert labels[-1] == "58 px, front end alone"
    assert len(labels) == len(SIDES)


@pytest.mark.parametrize("growth", [GROWTH, growth(*SIDES[:-1], 570, 1082, 1090), GROWTH[:2], GROWTH[:1]])
@pytest.mark.parametrize("shape", [(386, 386), (40, 700)])
def test_labels_do_not_overlap_and_stay_inside(growth, shape):
    figure = receptive_field_growth(np.zeros(shape, np.uint8), growth)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    assert all(box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_the_largest_square_fits_a_smaller_image():
    (axes,) = receptive_field_growth(np.zeros((50, 60), np.uint8), GROWTH).axes
    assert axes.get_xlim()[1] > 161


def test_ink_and_paper_are_taken():
    figure = receptive_field_growth(IMAGE, GROWTH, ink="#eeeeee", paper="#111111")
    assert to_hex(figure.get_facecolor()) == "#111111"
    assert {text.get_color() for text in figure.axes[0].texts} == {"#eeeeee"}


@pytest.mark.parametrize("image", [np.zeros((3, 3)), np.zeros((3, 3, 3), np.uint8)])
def test_an_image_that_is_not_grey_is_named(image):
    with pytest.raises(ShapeError, match=r"receptive_field_growth: image: got .*, expected uint8 \(H, W\)"):
        receptive_field_growth(image, GROWTH)


@pytest.mark.parametrize("growth", [[], [("signal", layer(7))], [*GROWTH, ("volume", layer(7, 7, 7))]])
def test_layers_that_are_no_rectangles_are_named(growth):
    with pytest.raises(
        GeometryError, match=r"got \d layers with \[.*\] axes, expected at least one layer, and two axes"
    ):
        receptive_field_growth(IMAGE, growth)
