import numpy as np
import pytest
import torch

from atrous import DataError
from atrous.train.data.patches import TexturePatches
from atrous.train.data.textures import texture


def test_a_patch_is_cut_from_its_photograph():
    patch, label = TexturePatches("val", 8, (20, 24), noise=0)[6]
    assert TexturePatches.classes[label] == "immunohistochemistry"
    piece = texture("immunohistochemistry", "val")
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(piece, ((0, 19), (0, 23)), "wrap"), (20, 24))
    rows, columns = np.nonzero(windows[..., 0, 0] == patch[0, 0, 0].item())
    assert any(np.array_equal(windows[row, column], patch[0]) for row, column in zip(rows, columns, strict=True))


def test_patches_are_a_function_of_split_seed_and_index():
    def make(split="train", seed=0):
        return torch.stack([TexturePatches(split, 4, seed=seed)[index][0] for index in range(4)])

    assert torch.equal(make(), make())
    assert not torch.equal(make(), make(seed=1))
    assert not torch.equal(make(), make("test"))


def test_noise_keeps_the_deviation():
    data = TexturePatches("train", 64, noise=1.5)
    assert torch.cat([patch for patch, _ in data]).std().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("all", 4), r"TexturePatches: split: got 'all', expected one of \('train', 'val', 'test'\)"),
        (("val", -1), r"got length=-1, .* expected length, noise and seed of at least 0 and two sides of at least 1"),
        (("val", 1, (0, 4)), r"size=\(0, 4\)"),
    ],
)
def test_what_cannot_be(arguments, message):
    with pytest.raises(DataError, match=message):
        TexturePatches(*arguments)


def test_an_index_out_of_range():
    with pytest.raises(IndexError, match="got index 4, expected 0 to 3"):
        TexturePatches("val", 4)[4]
