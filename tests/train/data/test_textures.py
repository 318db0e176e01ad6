import numpy as np
import pytest
import torch

from atrous import DataError
from atrous.train import Textures
from atrous.train.data.textures import texture


def test_an_item_is_a_function_of_seed_split_and_index():
    first, again = Textures("train", 5, (80, 90), seed=3), Textures("train", 9, (80, 90), seed=3)
    for a, b in zip(first[4], again[4], strict=True):
        assert torch.equal(a, b)
    others = [first[3], Textures("val", 5, (80, 90), seed=3)[4], Textures("train", 5, (80, 90), seed=4)[4]]
    assert not any(torch.equal(first[4][0], other[0]) for other in others)


def test_shapes_types_and_scale():
    image, labels = Textures("test", 1, (256, 320))[0]
    assert (image.shape, image.dtype, labels.shape, labels.dtype) == (
        (1, 256, 320),
        torch.float32,
        (256, 320),
        torch.int64,
    )
    assert abs(image.mean()) < 0.2
    assert 0.8 < image.std() < 1.2
    assert set(labels.unique().tolist()) <= set(range(8))


def test_large_mosaics_show_every_class_in_regions_of_the_asked_size():
    _, labels = Textures("train", 1, (640, 640), region=160)[0]
    assert labels.unique().tolist() == list(range(8))
    # Region borders are rare: neighbouring pixels nearly always agree.
    assert (labels[1:] == labels[:-1]).float().mean() > 0.97
    counts = torch.bincount(labels.flatten())
    assert counts.max() < 6 * 160**2


@pytest.mark.parametrize("name", Textures.classes)
def test_splits_share_no_pixels(name):
    """Pieces are unlike one another everywhere, and each is standardised and mirrored."""
    pieces = {split: texture(name, split) for split in ("train", "val", "test")}
    for piece in pieces.values():
        assert abs(piece.mean()) < 1e-3
        assert abs(piece.std() - 1) < 1e-3
        np.testing.assert_array_equal(piece, piece[::-1, ::-1])
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        rows, columns = (min(pieces[a].shape[i], pieces[b].shape[i]) // 2 for i in (0, 1))
        assert np.abs(pieces[a][:rows, :columns] - pieces[b][:rows, :columns]).mean() > 0.1


def test_noise_is_the_only_difference_between_two_noise_levels():
    clean, noisy = (Textures("train", 1, (200, 200), noise=noise)[0][0] for noise in (0, 2))
    added = noisy * np.hypot(1, 2) - clean
    assert added.std() == pytest.approx(2, rel=0.05)
    assert torch.equal(Textures("train", 1, (200, 200), noise=0)[0][1], Textures("train", 1, (200, 200), noise=2)[0][1])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("dev", 1), {}, "split: got 'dev', expected one of"),
        (("val", -1), {}, "length=-1"),
        (("val", 1, (8,)), {}, r"size=\(8,\).*two sides"),
        (("val", 1, (0, 8)), {}, r"size=\(0, 8\)"),
        (("val", 1), {"noise": -1}, "noise=-1"),
        (("val", 1), {"region": 1}, "region=1"),
        (("val", 1), {"seed": -1}, "seed=-1"),
    ],
)
def test_messages(arguments, options, message):
    with pytest.raises(DataError, match=message):
        Textures(*arguments, **options)


def test_an_index_too_far():
    with pytest.raises(IndexError, match="got index 2, expected 0 to 1"):
        Textures("val", 2)[2]
