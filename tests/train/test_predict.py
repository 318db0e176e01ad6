from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from atrous import CheckpointError, DataError
from atrous.plots import palette
from atrous.train import NetworkConfig, predict_files, read_image, save_network, standardise


@pytest.fixture(params=[1, 3])
def trained(request, tmp_path):
    """A network on disk and an image that it takes."""
    arguments = {"num_classes": 4, "in_channels": request.param, "width": 1 / 16}
    config = NetworkConfig("dilation_small", arguments, tuple("abcd"))
    network = config.build().eval()
    # Class 3 where the last features are strong, class 1 elsewhere.
    with torch.no_grad():
        network.front_end.final.weight[3].fill_(1.0)
        network.front_end.final.bias[1] = 5.0
    save_network(network, config, tmp_path / "net.safetensors")
    pixels = np.full((45, 62, 3), 128, np.uint8)
    pixels[:, 31:] = np.random.default_rng(0).integers(0, 255, (45, 31, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return network, tmp_path


def test_masks_are_indexed_and_overlays_have_the_images_size(trained):
    network, folder = trained
    paths = predict_files([folder / "photo.png"], folder / "net.safetensors", folder / "out")
    assert paths == [folder / "out" / "photo.png"]
    image = read_image(folder / "photo.png", network.front_end.in_channels)
    with torch.inference_mode():
        expected = network(standardise(image)[None]).argmax(1)[0].numpy()
    assert len(np.unique(expected)) > 1
    with Image.open(paths[0]) as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), expected)
        np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), palette(4)[expected])
    with Image.open(folder / "out" / "photo_overlay.png") as overlay:
        assert (overlay.mode, overlay.size) == ("RGB", (62, 45))


def test_a_bad_image_leaves_nothing_of_its_own(trained):
    _, folder = trained
    whole = (folder / "photo.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"half.png: cannot be read"):
        predict_files([folder / "photo.png", folder / "half.png"], folder / "net.safetensors", folder / "out")
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["photo.png", "photo_overlay.png"]


def test_messages(trained):
    _, folder = trained
    photo, weights, out = folder / "photo.png", folder / "net.safetensors", folder / "out"
    with pytest.raises(DataError, match=r"absent.png: no such image file"):
        predict_files([folder / "absent.png"], weights, out)
    with pytest.raises(DataError, match=r"photo.png: lies in the output folder"):
        predict_files([photo], weights, folder)
    (folder / "twin").mkdir()
    (folder / "twin" / "photo.png").write_bytes(photo.read_bytes())
    with pytest.raises(DataError, match=r"photo.png: two images would share this output"):
        predict_files([photo, folder / "twin" / "photo.png"], weights, out)
    (folder / "photo_overlay.png").write_bytes(photo.read_bytes())
    with pytest.raises(DataError, match=r"photo_overlay.png: two images would share this output"):
        predict_files([photo, folder / "photo_overlay.png"], weights, out)
    with pytest.raises(CheckpointError, match=r"no such weights file"):
        predict_files([photo], folder / "none.safetensors", out)
    with pytest.raises(DataError, match=r"photo.png: cannot be written .* writable"):
        predict_files([photo], weights, photo)
    assert not out.exists()


def test_an_image_too_thin_is_named(trained):
    _, folder = trained
    Image.new("RGB", (1, 40)).save(folder / "thin.png")
    with pytest.raises(DataError, match=r"thin.png: reflect_pad: got shape .* at least 2 pixels"):
        predict_files([folder / "thin.png"], folder / "net.safetensors", folder / "out")
    assert list((folder / "out").iterdir()) == []


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "L", "1", "F"])
def test_images_of_every_mode(trained, mode):
    """Float images in 0..1 are stretched for the overlay, not cut to black."""
    _, folder = trained
    with Image.open(folder / "photo.png") as photo:
        image = photo.convert(mode)
    if mode == "F":
        image = image.point(lambda value: value * (1 / 255) + 0)
    image.save(folder / "other.tiff")
    predict_files([folder / "other.tiff"], folder / "net.safetensors", folder / "out")
    with Image.open(folder / "out" / "other_overlay.png") as overlay:
        assert np.asarray(overlay).std() > 10


def test_all_broken_is_an_error(trained, capsys):
    _, folder = trained
    (folder / "broken.png").write_text("hello")
    with pytest.raises(DataError, match=r"broken.png: got no image that can be used"):
        predict_files([folder / "broken.png"], folder / "net.safetensors", folder / "out", skip_bad=True)
    written = predict_files(
        [folder / "broken.png", folder / "photo.png"], folder / "net.safetensors", folder / "out", skip_bad=True
    )
    assert [path.name for path in written] == ["photo.png"]
    assert "left out: " in capsys.readouterr().err


def test_probabilities(trained):
    _, folder = trained
    [mask] = predict_files([folder / "photo.png"], folder / "net.safetensors", folder / "out", probabilities=True)
    shares = tifffile.imread(folder / "out" / "photo_probabilities.tif")
    assert (shares.shape, shares.dtype) == ((4, 45, 62), np.float32)
    np.testing.assert_allclose(shares.sum(0), 1, rtol=1e-5)
    with Image.open(mask) as found:
        np.testing.assert_array_equal(np.asarray(found), shares.argmax(0))


OTHERS = {
    "one map": ("dense_map", {"outputs": 1, "width": 1 / 16}, "regress", {"loss": "binary"}, (45, 62)),
    "two maps": ("dense_map", {"outputs": 2, "width": 1 / 16}, "regress", {"loss": "l2"}, (2, 45, 62)),
    "colours": ("ircnn", {"channels": 3, "width": 1 / 16}, "restore", {}, None),
    "grey": ("ircnn", {"channels": 1, "width": 1 / 16}, "restore", {}, None),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_tasks(tmp_path, case):
    name, arguments, task, settings, shape = OTHERS[case]
    config = NetworkConfig(name, arguments, task=task, settings=settings)
    save_network(config.build(), config, tmp_path / "net.safetensors")
    Image.effect_noise((62, 45), 40).convert("RGB").save(tmp_path / "photo.png")
    [written] = predict_files([tmp_path / "photo.png"], tmp_path / "net.safetensors", tmp_path / "out")
    with Image.open(written) as picture:
        assert (picture.size, picture.mode) == ((62, 45), "RGB" if case == "colours" else "L")
    if shape is not None:
        values = tifffile.imread(written.with_suffix(".tif"))
        assert (values.shape, values.dtype) == (shape, np.float32)
        assert (settings["loss"] == "binary") <= bool(((values >= 0) & (values <= 1)).all())


def test_channels_beyond_colours_are_restored_into_a_tiff(tmp_path):
    config = NetworkConfig("ircnn", {"channels": 5, "width": 1 / 16}, task="restore")
    save_network(config.build(), config, tmp_path / "net.safetensors")
    bands = np.random.default_rng(0).integers(0, 65535, (20, 30, 5), np.uint16)
    tifffile.imwrite(tmp_path / "bands.tif", bands, photometric="minisblack", planarconfig="contig")
    predict_files([tmp_path / "bands.tif"], tmp_path / "net.safetensors", tmp_path / "out")
    assert tifffile.imread(tmp_path / "out" / "bands.tif").shape == (5, 20, 30)


def test_classes(tmp_path):
    config = NetworkConfig("convnext_pico", {"num_classes": 2, "width": 1 / 8}, ("cat", "dog"), task="classify")
    save_network(config.build(), config, tmp_path / "net.safetensors")
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.effect_noise((40, 40), 40).save(tmp_path / "photos" / f"{name}.png")
    [table] = predict_files([tmp_path / "photos"], tmp_path / "net.safetensors", tmp_path / "out")
    lines = [line.split(",") for line in table.read_text().splitlines()]
    assert lines[0] == ["file", "class", "cat", "dog"]
    assert [Path(line[0]).name for line in lines[1:]] == ["a.png", "b.png"]
    for _, name, cat, dog in lines[1:]:
        assert float(cat) + float(dog) == pytest.approx(1)
        assert name == ("cat" if float(cat) > float(dog) else "dog")
    with pytest.raises(DataError, match="probabilities: got weights for classify, expected segment"):
        predict_files([tmp_path / "photos"], tmp_path / "net.safetensors", tmp_path / "out", probabilities=True)
