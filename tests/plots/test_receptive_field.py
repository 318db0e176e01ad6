import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from atrous import GeometryError, ShapeError
from atrous.plots import receptive_field_growth

GROWTH = ((1, 3), (1, 5), (2, 9), (4, 17), (8, 33), (16, 65), (1, 67))
SIDES = [322, 314, 186, 122, 90, 74, 66, 58]
IMAGE = np.zeros((386, 386), np.uint8)


def test_squares_are_centred_and_to_scale():
    (axes,) = receptive_field_growth(IMAGE, GROWTH, 4, 58).axes
    squares = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [square.get_width() for square in squares] == SIDES
    assert [square.get_height() for square in squares] == SIDES
    assert all(square.get_xy() == (-square.get_width() / 2,) * 2 for square in squares)
    assert axes.images[0].get_extent() == [-193, 193, 193, -193]
    assert axes.get_aspect() == 1


def test_labels_name_field_pixels_and_dilation():
    (axes,) = receptive_field_growth(IMAGE, GROWTH, 4, 58).axes
    labels = [text.get_text() for text in axes.texts]
    assert labels[0] == "67 features, 322 px, dilation 1"
    assert labels[1] == "65 features, 314 px, dilation 16"
    assert labels[-1] == "1 feature, 58 px, front end alone"
    assert len(labels) == len(SIDES)


@pytest.mark.parametrize("growth", [GROWTH, (*GROWTH[:-1], (32, 129), (64, 257), (1, 259)), GROWTH[:1]])
@pytest.mark.parametrize("shape", [(386, 386), (40, 700)])
def test_labels_do_not_overlap_and_stay_inside(growth, shape):
    figure = receptive_field_growth(np.zeros(shape, np.uint8), growth, 4, 58)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    assert all(box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_the_largest_square_fits_a_smaller_image():
    (axes,) = receptive_field_growth(np.zeros((50, 60), np.uint8), GROWTH, 4, 58).axes
    assert axes.get_xlim()[1] > 161


def test_ink_and_paper_are_taken():
    figure = receptive_field_growth(IMAGE, GROWTH, 4, 58, ink="#eeeeee", paper="#111111")
    assert to_hex(figure.get_facecolor()) == "#111111"
    assert {text.get_color() for text in figure.axes[0].texts} == {"#eeeeee"}


@pytest.mark.parametrize("image", [np.zeros((3, 3)), np.zeros((3, 3, 3), np.uint8)])
def test_an_image_that_is_not_grey_is_named(image):
    with pytest.raises(ShapeError, match=r"receptive_field_growth: image: got .*, expected uint8 \(H, W\)"):
        receptive_field_growth(image, GROWTH, 4, 58)


@pytest.mark.parametrize(
    ("growth", "stride", "front_end"), [((), 4, 58), (GROWTH, 0, 58), (GROWTH, 4, 0), ([(0, 3)], 4, 58)]
)
def test_a_growth_that_cannot_be_is_named(growth, stride, front_end):
    with pytest.raises(GeometryError, match="expected at least one layer and numbers of at least 1"):
        receptive_field_growth(IMAGE, growth, stride, front_end)
