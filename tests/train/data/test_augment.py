import pytest
import torch

from atrous.train import SegmentRecipe, Textures
from atrous.train.data.augment import Epoch, augment, mixed

SOURCE = Textures("train", 3, (40, 52))
BUSY = SegmentRecipe(crop=32, scale=1.5, colour=0.3, seed=4)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_pair_is_a_function_of_seed_epoch_and_index():
    first, again = Epoch(SOURCE, BUSY, 2)[1], Epoch(SOURCE, BUSY, 2)[1]
    assert torch.equal(first.input, again.input)
    assert torch.equal(first.target, again.target)
    others = [Epoch(SOURCE, BUSY, 3)[1], Epoch(SOURCE, BUSY.model_copy(update={"seed": 5}), 2)[1]]
    assert not any(torch.equal(first.input, other.input) for other in others)


def test_without_a_recipe_nothing_is_left_to_chance():
    image, labels, number = Epoch(SOURCE)[2]
    assert torch.equal(image, SOURCE[2][0])
    assert torch.equal(labels, SOURCE[2][1])
    assert number == 2


@pytest.mark.parametrize("seed", range(8))
def test_labels_move_with_the_image(seed):
    """An image that shows its own labels still does."""
    labels = torch.randint(5, (9, 7)).repeat_interleave(6, 0).repeat_interleave(6, 1)
    image, found = augment((labels[None].float(), labels), SegmentRecipe(crop=30), draw(seed))
    assert (image.shape, found.shape) == ((1, 30, 30), (30, 30))
    assert torch.equal(image[0].long(), found)
    larger, found = augment((labels[None].float(), labels), SegmentRecipe(scale=2.0), draw(seed))
    assert larger.shape[1:] == found.shape
    assert ((larger[0] - found).abs() < 0.5).float().mean() > 0.8


def test_a_crop_larger_than_the_image_has_its_reflection_and_no_labels():
    image, labels = augment((torch.arange(4.0).view(1, 2, 2), torch.ones(2, 2).long()), SegmentRecipe(crop=5), draw(3))
    assert (image.shape, labels.shape) == ((1, 5, 5), (5, 5))
    assert image.unique().tolist() == [0.0, 1.0, 2.0, 3.0]
    assert ((labels == 255).sum(), (labels == 1).sum()) == (21, 4)


def test_classes_maps_and_pictures():
    recipe = SegmentRecipe(crop=4, scale=1.2)
    picture = torch.rand(3, 8, 8)
    image, label = augment((picture, torch.tensor(7)), recipe, draw())
    assert (image.shape, label.item()) == ((3, 4, 4), 7)
    image, values = augment((picture, picture[:2].clone()), recipe, draw())
    assert torch.equal(values, image[:2])
    image, target = augment((picture, picture), SegmentRecipe(colour=0.5), draw())
    assert torch.equal(image, target)


def test_half_of_the_images_are_mirrored():
    picture = torch.arange(4.0).view(1, 1, 4)
    found = [augment((picture, torch.tensor(0)), SegmentRecipe(), draw(seed))[0][0, 0, 0].item() for seed in range(200)]
    assert set(found) == {0.0, 3.0}
    assert 70 < found.count(0.0) < 130


def test_seeds_of_neighbours_differ():
    assert len({mixed(a, b, c) for a in range(6) for b in range(6) for c in range(6)}) == 216
