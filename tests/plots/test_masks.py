import itertools

import numpy as np
import pytest
from PIL import Image

from atrous import DataError, ShapeError
from atrous.plots import colourise, indexed, mistakes, overlay, palette, save_indexed, save_picture
from atrous.plots.masks import MISTAKE_COLOURS, _difference, _perceived

LABELS = np.array([[0, 1, 2], [2, 255, 0]])


@pytest.mark.parametrize("classes", [1, 8, 21, 255])
def test_a_palette_has_distinct_colours_none_of_them_white(classes):
    colours = palette(classes)
    assert colours.shape == (classes, 3)
    assert colours.dtype == np.uint8
    assert len({*map(tuple, colours.tolist()), (255, 255, 255)}) == classes + 1


def test_a_palette_is_the_beginning_of_every_larger_one():
    assert np.array_equal(palette(40), palette(255)[:40])


def test_a_palette_cannot_be_changed_for_others():
    palette(3)[:] = 0
    assert palette(3).any()


@pytest.mark.parametrize(("classes", "least"), [(8, 0.07), (24, 0.04)])
def test_every_eye_tells_the_colours_of_a_palette_apart(classes, least):
    colours = palette(classes)
    nearest = min(_difference(_perceived(a[None]), b)[0] for a, b in itertools.combinations(colours, 2))
    assert nearest > least


@pytest.mark.parametrize("classes", [0, 256])
def test_a_palette_beyond_the_range_says_so(classes):
    with pytest.raises(ShapeError, match=f"palette: classes: got {classes}, expected 1 to 255; merge classes"):
        palette(classes)


def test_colourise_paints_classes_and_leaves_ignored_pixels_white():
    colours = palette(3)
    picture = colourise(LABELS, colours)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture[0], colours)
    assert picture[1, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("channels", [(), (3,)])
def test_overlay_mixes_by_opacity_and_keeps_ignored_pixels(channels):
    image = np.full((2, 3, *channels), 100, np.uint8)
    colours = palette(3)
    mixed = overlay(image, LABELS, colours, opacity=0.25)
    assert np.array_equal(mixed[0], np.rint(75 + 0.25 * colours).astype(np.uint8))
    assert mixed[1, 1].tolist() == [100, 100, 100]
    assert (overlay(image, LABELS, colours, opacity=0) == 100).all()
    assert np.array_equal(overlay(image, LABELS, colours, opacity=1)[0], colours)


def test_overlay_names_what_does_not_fit():
    with pytest.raises(ShapeError, match=r"overlay: image: got float64 \(2, 3\), expected uint8 \(2, 3\) or"):
        overlay(np.zeros((2, 3)), LABELS, palette(3))
    with pytest.raises(ShapeError, match=r"overlay: image: got uint8 \(3, 2\), .* crop it to the labels"):
        overlay(np.zeros((3, 2), np.uint8), LABELS, palette(3))
    with pytest.raises(ShapeError, match=r"overlay: opacity: got 1\.5, expected 0 to 1"):
        overlay(np.zeros((2, 3), np.uint8), LABELS, palette(3), opacity=1.5)


def test_mistakes_are_marked_where_the_truth_counts():
    labels = np.array([[0, 1, 1], [0, 0, 0]])
    assert mistakes(labels, LABELS).tolist() == [[0, 0, 1], [1, 255, 0]]
    assert indexed(mistakes(labels, LABELS), MISTAKE_COLOURS).mode == "P"


def test_mistakes_need_one_shape():
    with pytest.raises(ShapeError, match=r"mistakes: labels: got shape \(3, 2\), expected \(2, 3\) as the truth"):
        mistakes(LABELS.T, LABELS)


@pytest.mark.parametrize("function", [colourise, indexed])
def test_labels_and_colours_that_do_not_fit_are_named(function):
    name = function.__name__
    with pytest.raises(ShapeError, match=rf"{name}: labels: got int64 \(1, 2, 3\), expected integers \(H, W\)"):
        function(LABELS[None], palette(3))
    with pytest.raises(ShapeError, match=rf"{name}: labels: got float64 \(2, 3\), .* take the argmax of scores"):
        function(LABELS / 2, palette(3))
    with pytest.raises(ShapeError, match=rf"{name}: labels: got class 2, expected 0 to 1, or 255 for ignored"):
        function(LABELS, palette(2))
    with pytest.raises(ShapeError, match=rf"{name}: labels: got class -1, expected 0 to 2"):
        function(np.array([[0, -1]]), palette(3))
    with pytest.raises(ShapeError, match=rf"{name}: colours: got float64 \(3, 3\), expected uint8 \(K, 3\)"):
        function(LABELS, palette(3) / 255)


@pytest.mark.parametrize("classes", [3, 200])
def test_an_indexed_file_holds_the_labels_and_the_palette(tmp_path, classes):
    labels = np.random.default_rng(0).integers(0, classes, (20, 30))
    labels[0, 0] = 255
    path = tmp_path / "new" / "mask.png"
    save_indexed(labels, palette(classes), path)
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "P")
        assert np.array_equal(np.asarray(image), labels)
        assert np.array_equal(np.asarray(image.convert("RGB")), colourise(labels, palette(classes)))
    # Byte 24 of a PNG is its bit depth, byte 25 its colour type.
    assert tuple(path.read_bytes()[24:26]) == (8, 3)
    assert [file.name for file in path.parent.iterdir()] == ["mask.png"]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "mask.png").mkdir()
    with pytest.raises(DataError, match=r"mask\.png: cannot be written"):
        save_indexed(LABELS, palette(3), tmp_path / "mask.png")
    assert [file.name for file in tmp_path.iterdir()] == ["mask.png"]


def test_save_picture_is_whole_or_absent(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    save_picture(pixels, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), pixels)
    with pytest.raises(DataError, match=r"a.png: cannot be written"):
        save_picture(pixels, tmp_path / "a.png" / "a.png")
