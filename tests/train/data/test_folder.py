import json
import shutil

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from atrous import DataError
from atrous.train import open_data, open_folder


def picture(path, size=(8, 10), value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (value, 20, 30)).save(path)


def test_pairs(pairs):
    splits = open_folder(pairs, "segment")
    assert [len(one) for one in (splits.train, splits.val, splits.test)] == [6, 3, 3]
    assert (splits.train.channels, splits.train.classes) == (3, ("left", "right"))
    assert splits.train.colours == ((10, 20, 30), (200, 0, 0))
    image, labels = splits.train[2]
    assert (image.shape, labels.shape, labels.dtype) == ((3, 40, 48), (40, 48), torch.int64)
    assert image.mean().abs() < 1e-5
    assert labels.unique().tolist() == [0, 1, 255]
    assert splits.train.name(2) == str(pairs / "train" / "images" / "002.png")


def test_a_list_of_names_is_a_table_too_and_masks_may_have_palettes(pairs):
    (pairs / "classes.json").write_text(json.dumps(["a", "b"]))
    for path in (pairs / "train" / "masks").iterdir():
        Image.open(path).convert("P").save(path)
    splits = open_folder(pairs, "segment")
    assert (splits.train.classes, splits.train.colours) == (("a", "b"), ())


def test_maps(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / split / "images" / "a.jpg")
        (tmp_path / split / "targets").mkdir()
    values = np.arange(80, dtype=np.float32).reshape(8, 10)
    tifffile.imwrite(tmp_path / "train" / "targets" / "a.tif", values)
    Image.fromarray(np.full((8, 10), 65535, np.uint16)).save(tmp_path / "val" / "targets" / "a.png")
    splits = open_folder(tmp_path, "regress")
    assert torch.equal(splits.train[0][1], torch.from_numpy(values)[None])
    assert torch.equal(splits.val[0][1], torch.ones(1, 8, 10))
    assert splits.test is None
    picture(tmp_path / "train" / "images" / "b.png")
    picture(tmp_path / "train" / "targets" / "b.png")
    with pytest.raises(DataError, match=r"targets.b.png: got 3 channels, expected 1 as in the first target"):
        open_data(tmp_path, "regress")
    tifffile.imwrite(tmp_path / "train" / "targets" / "a.tif", values * np.nan)
    with pytest.raises(DataError, match=r"a.tif: holds values that are no finite number"):
        splits.train[0]


@pytest.mark.parametrize("below", ["images", "."])
def test_pictures(tmp_path, below):
    for split in ("train", "val"):
        picture(tmp_path / split / below / "a.png", value=255)
    image, target = open_folder(tmp_path, "restore").train[0]
    assert image is target
    assert (255 * image[:, 0, 0]).round().tolist() == [255.0, 20.0, 30.0]


def test_class_folders(tmp_path):
    for split, names in (("train", ("dog", "cat")), ("val", ("dog", "cat"))):
        for name in names:
            picture(tmp_path / split / name / "x.png")
    source = open_folder(tmp_path, "classify").train
    assert source.classes == ("cat", "dog")
    assert [source[index][1].item() for index in range(2)] == [0, 1]
    picture(tmp_path / "val" / "cow" / "x.png")
    with pytest.raises(DataError, match=r"cow: is no class of train, expected one of cat, dog"):
        open_folder(tmp_path, "classify")


def test_pairs_are_no_classes(pairs):
    with pytest.raises(DataError, match=r"train.images: is no class, expected a folder for each class"):
        open_folder(pairs, "classify")


def without_mask(root):
    (root / "train" / "masks" / "001.png").unlink()


def without_table(root):
    (root / "classes.json").unlink()


def strange_table(root):
    (root / "classes.json").write_text('{"classes": {"1": {"name": "a"}}}')


def one_class(root):
    (root / "classes.json").write_text('["a"]')


def table_out(root):
    (root / "classes.json").rename(root.parent / "classes.json")
    (root / "classes.json").symlink_to(root.parent / "classes.json")


def strange_colour(root):
    names = [{"name": name, "color": [300, 0, 1]} for name in "ab"]
    (root / "classes.json").write_text(json.dumps({"classes": names}))


def empty_split(root):
    for path in (root / "val" / "images").iterdir():
        path.unlink()


def no_split(root):
    shutil.rmtree(root / "val")


def grey_split(root):
    for path in (root / "test" / "images").iterdir():
        Image.open(path).convert("L").save(path)


def link_out(root):
    outside = root.parent / "outside.png"
    (root / "train" / "images" / "000.png").rename(outside)
    (root / "train" / "images" / "000.png").symlink_to(outside)


def folder_out(root):
    (root / "val").rename(root.parent / "val")
    (root / "val").symlink_to(root.parent / "val")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_mask, r"001.png: has no file of the same name in .*masks$"),
        (without_table, r"classes.json: cannot be read as the table of classes \(No such file"),
        (strange_table, r"classes.json: cannot be read as the table of classes \(KeyError"),
        (table_out, r"classes.json: is a link that leads out of"),
        (strange_colour, r"classes.json: got colours beyond 0 to 255"),
        (one_class, r"classes.json: got 1 classes, expected 2 to 254"),
        (empty_split, r"val.images: got no image, expected files that end in \.bmp"),
        (no_split, r"val.images: no such folder"),
        (grey_split, r"test: the first image has 1 channels, expected 3 as in train"),
        (link_out, r"000.png: is a link that leads out of .*pairs; copy what it leads to"),
        (folder_out, r"val.images: is a link that leads out of .*pairs"),
    ],
)
def test_folders_that_cannot_be_used(pairs, spoil, message):
    spoil(pairs)
    with pytest.raises(DataError, match=message):
        open_folder(pairs, "segment")


def other_size(root):
    Image.new("L", (20, 20)).save(root / "train" / "masks" / "004.png")


def other_class(root):
    Image.new("L", (48, 40), 7).save(root / "train" / "masks" / "004.png")


def coloured(root):
    Image.new("RGB", (48, 40)).save(root / "train" / "masks" / "004.png")


def truncated(root):
    path = root / "train" / "images" / "004.png"
    path.write_bytes(path.read_bytes()[:300])


def thin(root):
    for part, mode in (("images", "RGB"), ("masks", "L")):
        Image.new(mode, (1, 40)).save(root / "train" / part / "004.png")


def no_image(root):
    (root / "train" / "images" / "004.png").write_text("hello")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_size, r"masks.004.png: got 20 x 20 pixels beside 48 x 40 of .*images.004.png, expected the same"),
        (other_class, r"masks.004.png: got class 7, expected 0 to 1, or 255 to ignore"),
        (coloured, r"masks.004.png: got a mask in colours, expected one number of a class for every pixel"),
        (truncated, r"images.004.png: cannot be read as an image"),
        (thin, r"images.004.png: got 1 x 40 pixels, expected sides of at least 2"),
        (no_image, r"images.004.png: cannot be read as an image \(no such format\)"),
    ],
)
def test_files_that_cannot_be_used(pairs, spoil, message, capsys):
    """They are found before training, and may be left out."""
    spoil(pairs)
    with pytest.raises(DataError, match=message):
        open_data(pairs, "segment")
    splits = open_data(pairs, "segment", skip_bad=True)
    assert [splits.train.name(index)[-7:] for index in range(5)] == [f"00{n}.png" for n in (0, 1, 2, 3, 5)]
    assert "left out: " in capsys.readouterr().err


def test_nothing_left(pairs):
    for path in (pairs / "val" / "images").iterdir():
        path.write_text("hello")
    with pytest.raises(DataError, match=r"val: got no image that can be used, expected at least one"):
        open_data(pairs, "segment", skip_bad=True)
