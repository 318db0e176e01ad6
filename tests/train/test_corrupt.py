import pytest
import torch
from torch.testing import assert_close

from atrous import DataError
from atrous.train.corrupt import CORRUPTIONS, Corrupted
from atrous.train.data.source import Source


class Images(Source):
    channels, classes = 2, ("one", "two")

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], torch.tensor(index % 2)

    def name(self, index):
        return f"image {index}"


STEP = torch.zeros(2, 16, 16)
STEP[:, :, 8:] = 3.0  # from 0 to 255 in its 8 bits
UNIT = 3 / 255


def corrupted(kind, image=STEP):
    return Corrupted(Images([image]), kind)[0][0]


def test_noise_has_its_deviation_where_nothing_is_clipped():
    image = torch.full((1, 64, 64), 1.5)
    image[0, 0, 0], image[0, 0, 1] = 0.0, 3.0
    noise = corrupted("noise", image) - image
    assert noise.std().item() / UNIT == pytest.approx(25, rel=0.05)
    assert_close(corrupted("noise", image), corrupted("noise", image), rtol=0, atol=0)


def test_blur_mixes_neighbours_with_gaussian_weights():
    weights = torch.exp(-0.5 * torch.arange(-4, 5).double() ** 2)
    share = weights[4:].sum() / weights.sum()  # of the right side at column 8
    assert corrupted("blur")[0, 8, 8].item() == pytest.approx(3 * share.item(), abs=UNIT)
    assert corrupted("blur")[0, :, 0].abs().max() == 0


def test_contrast_is_two_fifths_around_the_mean():
    assert_close(corrupted("contrast"), 1.5 + 0.4 * (STEP - 1.5), rtol=0, atol=UNIT)


def test_jpeg_rings_beside_an_edge_and_keeps_flat_blocks():
    image = torch.zeros(1, 16, 16)
    image[0, :4, :4] = 3.0
    out = corrupted("jpeg", image)
    assert (out[0, :8, :8] - image[0, :8, :8]).abs().max() > 5 * UNIT
    assert (out[0, 8:] - image[0, 8:]).abs().max() < 5 * UNIT


@pytest.mark.parametrize("kind", [*CORRUPTIONS])
def test_what_stays(kind):
    source = Images([STEP, 2 * STEP])
    data = Corrupted(source, kind)
    image, target = data[1]
    assert (len(data), data.name(1), data.channels, data.classes) == (2, "image 1", 2, ("one", "two"))
    assert image.shape == STEP.shape
    assert image.dtype == STEP.dtype
    assert target == 1
    assert image.min() >= 0
    assert image.max() <= 6.01
    assert torch.equal(STEP[:, :, 8:].unique(), torch.tensor([3.0]))


def test_a_flat_image_stays_flat():
    flat = torch.full((1, 16, 16), 2.0)
    assert_close(corrupted("blur", flat), flat)


def test_an_unknown_kind():
    with pytest.raises(DataError, match=r"kind: got 'rain', expected one of \('noise', 'blur', 'contrast', 'jpeg'\)"):
        Corrupted(Images([]), "rain")
