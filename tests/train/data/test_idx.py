import gzip

import numpy as np
import pytest
import torch

from atrous import DataError
from atrous.train.data import idx
from atrous.train.data.idx import FASHION_CLASSES, Idx, fashion_mnist, holds_idx, open_idx


def write(path, array):
    """Write bytes as an idx file."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_set(folder, train=24, test=4, end=""):
    images = np.arange((train + test) * 6).reshape(-1, 2, 3) % 251
    labels = np.arange(train + test) % 3
    for name, part in (("train", slice(train)), ("t10k", slice(train, None))):
        write(folder / f"{name}-images-idx3-ubyte{end}", images[part])
        write(folder / f"{name}-labels-idx1-ubyte{end}", labels[part])
    return images, labels


@pytest.mark.parametrize("end", ["", ".gz"])
def test_images_and_classes_come_back(tmp_path, end):
    images, labels = write_set(tmp_path, end=end)
    file = tmp_path / f"train-images-idx3-ubyte{end}"
    source = Idx(file, tmp_path / f"train-labels-idx1-ubyte{end}")
    assert (len(source), source.channels, source.classes) == (24, 1, ("0", "1", "2"))
    for index in (0, 23):
        image, label = source[index]
        assert image.shape == (1, 2, 3)
        pixels = images[index].astype(float)
        expected = torch.tensor((pixels - pixels.mean()) / pixels.std(), dtype=torch.float32)
        torch.testing.assert_close(image[0], expected)
        assert label.dtype == torch.int64
        assert label == labels[index]
    assert source.name(3) == f"{file}: image 3"


def test_the_last_twelfth_validates(tmp_path):
    write_set(tmp_path)
    splits = open_idx(tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (22, 2, 4)
    assert splits.train.name(21).endswith("train-images-idx3-ubyte: image 21")
    assert splits.val.name(0).endswith("train-images-idx3-ubyte: image 22")
    assert splits.test.name(0).endswith("t10k-images-idx3-ubyte: image 0")
    assert splits.train.classes == splits.val.classes == splits.test.classes == ("0", "1", "2")


@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_folder_is_known_by_its_first_file(tmp_path, end):
    assert not holds_idx(tmp_path)
    write_set(tmp_path, end=end)
    assert holds_idx(tmp_path)


def test_fashion_mnist_is_where_debian_has_it(tmp_path, monkeypatch):
    write_set(tmp_path, end=".gz")
    monkeypatch.setattr(idx, "FASHION_MNIST", tmp_path)
    assert fashion_mnist().test.classes == FASHION_CLASSES
    assert len(set(FASHION_CLASSES)) == 10


def test_without_it_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "FASHION_MNIST", tmp_path / "absent")
    with pytest.raises(DataError, match=r"absent: no such folder; .*: apt install dataset-fashion-mnist$"):
        fashion_mnist()


def test_a_file_that_is_absent(tmp_path):
    write_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r": has no t10k-labels-idx1-ubyte, nor that with .gz"):
        open_idx(tmp_path)


def test_a_link_that_leads_out(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    write_set(inside)
    file = inside / "train-images-idx3-ubyte"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: is a link that leads out of .*inside; copy what"):
        open_idx(inside)


def test_too_few_to_validate(tmp_path):
    write_set(tmp_path, train=11)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: got 11 images, expected at least 12"):
        open_idx(tmp_path)


def test_a_label_that_training_does_not_have(tmp_path):
    write_set(tmp_path)
    write(tmp_path / "t10k-labels-idx1-ubyte", np.array([0, 1, 7, 0]))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte: got class 7, expected 0 to 2"):
        open_idx(tmp_path)


def test_lengths_that_differ(tmp_path):
    write_set(tmp_path)
    write(tmp_path / "train-labels-idx1-ubyte", np.zeros(23))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte: got 23 labels beside 24 images of .*images"):
        open_idx(tmp_path)


def images_file(tmp_path, content):
    (tmp_path / "images").write_bytes(content)
    return tmp_path / "images"


@pytest.mark.parametrize("kept", [3, 4, 10, 16, 20, 21])
def test_a_truncated_file(tmp_path, kept):
    labels = write(tmp_path / "labels", np.zeros(1))
    whole = write(tmp_path / "whole", np.zeros((1, 2, 3))).read_bytes()
    with pytest.raises(DataError, match=rf"images: (holds {kept} bytes, expected \d+ for|starts with 00 00 08, exp)"):
        Idx(images_file(tmp_path, whole[:kept]), labels)


@pytest.mark.parametrize(
    ("start", "got"), [(b"", "nothing"), (b"\x89PNG..", "89 50 4e 47"), (bytes([0, 0, 8, 1]), "00 00 08 01")]
)
def test_another_format(tmp_path, start, got):
    labels = write(tmp_path / "labels", np.zeros(1))
    with pytest.raises(DataError, match=rf"images: starts with {got}, expected 00 00 08 03 of an idx3-ubyte file"):
        Idx(images_file(tmp_path, start), labels)


def test_bytes_too_many(tmp_path):
    labels = write(tmp_path / "labels", np.zeros(1))
    whole = write(tmp_path / "whole", np.zeros((1, 2, 3))).read_bytes()
    with pytest.raises(DataError, match=r"images: holds 23 bytes, expected 22 for \(1, 2, 3\) by its header; it is"):
        Idx(images_file(tmp_path, whole + b"."), labels)


def test_no_image(tmp_path):
    images, labels = write(tmp_path / "images", np.zeros((0, 2, 3))), write(tmp_path / "labels", np.zeros(0))
    with pytest.raises(DataError, match=r"images: got shape \(0, 2, 3\), expected at least one image"):
        Idx(images, labels)


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-5], lambda whole: b"no gzip", lambda whole: whole[:12] + b"\xff" * 20]
)
def test_gzip_that_is_truncated_or_none(tmp_path, damage):
    write_set(tmp_path, end=".gz")
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte.gz: cannot be read \(.+\); expected a whole idx file"
    ):
        open_idx(tmp_path)
