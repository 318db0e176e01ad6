import numpy as np
import pytest
import torch
from PIL import Image

from atrous import DataError, ShapeError
from atrous.train import read_image, standardise

PIXELS = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".bmp"])
def test_rgb_round_trip(tmp_path, suffix):
    Image.fromarray(PIXELS).save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}", 3).numpy(), PIXELS.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_the_asked_channels(tmp_path, mode, channels):
    Image.fromarray(PIXELS).convert(mode).save(tmp_path / "a.tiff")
    assert read_image(tmp_path / "a.tiff", channels).shape == (channels, 5, 7)


def test_sixteen_bits_stay(tmp_path):
    values = np.array([[0, 300, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 1).tolist() == [[[0.0, 300.0, 65535.0]]]


def test_sixteen_bits_are_not_clipped_in_rgb(tmp_path):
    values = np.array([[0, 300, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 3)[1].tolist() == [[0.0, 300.0, 65535.0]]


def test_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg", 3).shape == (3, 7, 5)


def test_bad_files(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, reason in (("half", "truncated"), ("text", "no such format"), ("empty", "no such format")):
        with pytest.raises(
            DataError, match=rf"{name}.png: cannot be read as an image \(.*{reason}.*\); expected a whole"
        ):
            read_image(tmp_path / f"{name}.png", 3)
    with pytest.raises(DataError, match=r"absent.png: .*No such file"):
        read_image(tmp_path / "absent.png", 3)
    with pytest.raises(DataError, match=r"whole.png: got 3 channels, expected 2"):
        read_image(tmp_path / "whole.png", 2)
    with pytest.raises(ShapeError, match="channels: got 0, expected 1"):
        read_image(tmp_path / "whole.png", 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(tmp_path, value):
    Image.fromarray(np.array([[1.0, value]], np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match=r"a.tiff: holds pixels that are no finite number"):
        read_image(tmp_path / "a.tiff", 1)


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read as an image \(Is a directory\)"):
        read_image(tmp_path, 1)


def test_standardise():
    image = torch.rand(3, 20, 20) * 7 + 100
    result = standardise(image)
    assert result.mean().abs() < 1e-4
    assert result.std() == pytest.approx(1, abs=1e-3)
    assert torch.equal(standardise(torch.full((1, 2, 2), 5.0)), torch.zeros(1, 2, 2))
