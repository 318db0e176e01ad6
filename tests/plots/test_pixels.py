import numpy as np
import pytest

from atrous import ShapeError
from atrous.plots import grey, thin


def test_grey_uses_the_whole_range_and_is_not_dimmed_by_an_outlier():
    ramp = np.linspace(-3, 5, 1000).reshape(20, 50)
    ramp[0, 0] = 1e6
    levels = grey(ramp)
    assert levels.dtype == np.uint8
    assert (levels[0, 0], levels[0, 1], levels[-1, -1]) == (255, 0, 255)
    assert 120 < levels[10, 0] < 136


def test_grey_keeps_8_bit_pixels_and_a_flat_image():
    image = np.array([[3, 7]], np.uint8)
    assert grey(image) is image
    assert grey(np.full((2, 2), 0.5)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("shape", [(2, 2, 3), (0, 4)])
def test_grey_names_a_shape_that_is_no_image(shape):
    with pytest.raises(ShapeError, match=r"grey: image: got shape .*, expected \(H, W\) with at least 1 pixel"):
        grey(np.zeros(shape))


@pytest.mark.parametrize(("shape", "expected"), [((4, 6), (4, 6)), ((7, 6), (4, 3)), ((3, 19), (1, 5))])
def test_thin_keeps_every_nth_pixel(shape, expected):
    image = np.arange(np.prod(shape)).reshape(shape)
    small = thin(image, 6)
    assert small.shape == expected
    assert small[0, 0] == 0
    assert set(small.flat) <= set(image.flat)
