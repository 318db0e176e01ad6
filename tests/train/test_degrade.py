import pytest
import torch
import torch.nn.functional as F

from atrous import DataError
from atrous.train.config import RestoreRecipe
from atrous.train.degrade import crop_to_fit, degrade, interpolated

NOISE = RestoreRecipe(sigma=25)
SMALL = RestoreRecipe(degradation="small", factor=2)
SMALLER = RestoreRecipe(degradation="small", factor=4)
MOSAIC = RestoreRecipe(degradation="mosaic")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def image(*shape):
    return torch.rand(shape, generator=seeded())


def test_noise_has_the_deviation_of_the_recipe():
    clean = image(2, 3, 64, 64)
    noise = degrade(clean, NOISE, seeded()) - clean
    assert noise.std().item() == pytest.approx(25 / 255, rel=0.02)
    assert abs(noise.mean()) < 0.002


def test_noise_is_a_function_of_the_generator():
    clean = image(1, 1, 8, 8)
    first, again, other = (degrade(clean, NOISE, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(1)
    assert torch.equal(degrade(clean, NOISE), first)


@pytest.mark.parametrize("recipe", [SMALL, SMALLER])
def test_a_small_image_shows_the_same(recipe):
    """A ramp stays the ramp, each pixel on the middle of those that it stands for."""
    ramp = torch.arange(64.0).expand(1, 1, 64, 64)
    small = degrade(ramp, recipe)
    assert small.shape == (1, 1, 64 // recipe.factor, 64 // recipe.factor)
    middles = ramp[0, 0, 0].view(-1, recipe.factor).mean(1)
    inside = slice(4, -4)
    torch.testing.assert_close(small[0, 0, 5, inside], middles[inside])
    back = F.avg_pool2d(interpolated(small, recipe), recipe.factor)
    torch.testing.assert_close(back[..., inside], small[..., inside])


def test_small_is_antialiased():
    stripes = torch.tensor([0.0, 1.0]).repeat(32).expand(1, 1, 64, 64)
    assert degrade(stripes, SMALLER).std() < 0.02
    assert stripes[..., ::4, ::4].unique().tolist() == [0.0]


def test_a_mosaic_keeps_red_green_green_blue():
    clean = image(1, 3, 4, 6)
    mosaic = degrade(clean, MOSAIC)
    assert mosaic.shape == (1, 1, 4, 6)
    for row, column, colour in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        assert torch.equal(mosaic[:, 0, row::2, column::2], clean[:, colour, row::2, column::2])


@pytest.mark.parametrize(("recipe", "size"), [(NOISE, (9, 11)), (SMALL, (8, 10)), (SMALLER, (8, 8)), (MOSAIC, (8, 10))])
def test_what_is_cropped_comes_back_in_its_size(recipe, size):
    clean = image(2, 3, 9, 11)
    cropped = crop_to_fit(clean, recipe)
    assert torch.equal(cropped, clean[..., : size[0], : size[1]])
    assert interpolated(degrade(cropped, recipe), recipe).shape == cropped.shape


def test_an_image_with_no_place_is_named():
    message = r"restore: got an image of 9 x 3 pixels for degradation 'small', expected sides of at least 4"
    with pytest.raises(DataError, match=message):
        crop_to_fit(torch.zeros(3, 3, 9), SMALLER)


def test_a_mosaic_of_grey_is_named():
    with pytest.raises(DataError, match=r"restore: mosaic: got images of 1 channels, expected 3 \(RGB\)"):
        degrade(torch.zeros(1, 1, 4, 4), MOSAIC)
