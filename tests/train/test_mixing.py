import numpy as np
import pytest
import torch

from atrous.train.mixing import mix


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def batch(size=6):
    """Return images of one value each, which is their class, and the classes."""
    labels = torch.arange(size)
    return labels.float().view(-1, 1, 1, 1).expand(-1, 2, 16, 12).contiguous(), labels


def test_without_mixtures_images_stay_and_nothing_is_drawn():
    images, labels = batch()
    generator = seeded(0)
    before = generator.get_state()
    mixed, soft = mix(images, labels, 6, smoothing=0.3, generator=generator)
    assert mixed is images
    assert torch.equal(generator.get_state(), before)
    torch.testing.assert_close(soft, 0.7 * torch.eye(6) + 0.05)


@pytest.mark.parametrize("options", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
@pytest.mark.parametrize("seed", range(8))
def test_labels_are_the_shares_of_the_images(options, seed):
    images, labels = batch()
    mixed, soft = mix(images, labels, 6, **options, generator=seeded(seed))
    torch.testing.assert_close(soft.sum(1), torch.ones(6))
    # Images of class c have the value c all over: so the mean of a mixture is that of its labels.
    torch.testing.assert_close(mixed.mean((1, 2, 3)), soft @ torch.arange(6.0))
    assert torch.equal(images, batch()[0])


def test_mixup_adds_whole_images():
    mixed, _ = mix(*batch(), 6, mixup=1.0, generator=seeded(1))
    assert torch.equal(mixed, mixed[:, :1, :1, :1].expand_as(mixed))
    assert not torch.equal(mixed, batch()[0])


def test_cutmix_pastes_one_rectangle_at_the_same_place_of_every_image():
    for seed in range(20):
        images, labels = batch()
        mixed, _ = mix(images, labels, 6, cutmix=1.0, generator=seeded(seed))
        changed = (mixed != images).any(1)
        some = changed.any(0)
        rows, columns = np.flatnonzero(some.any(1)), np.flatnonzero(some.any(0))
        assert (rows.size == 0) == (columns.size == 0)
        if rows.size:
            assert some[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert some.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        for one in changed[changed.any((1, 2))]:
            assert torch.equal(one, some)


def test_with_both_about_half_of_the_batches_take_each():
    pasted = 0
    for seed in range(200):
        mixed, _ = mix(*batch(), 6, mixup=1.0, cutmix=1.0, generator=seeded(seed))
        pasted += torch.equal(mixed, mixed.round())  # only mixup has values between classes
    assert 70 < pasted < 130  # four standard deviations


def test_shares_follow_beta():
    """The mean square of a share of Beta(a, a) is (a + 1) / (4 a + 2)."""
    images, labels = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), torch.tensor([0, 1])
    shares = torch.cat([mix(images, labels, 2, mixup=0.2, generator=seeded(seed))[1][0, :1] for seed in range(1500)])
    swapped = shares[(shares != 0) & (shares != 1)]  # half of the batches mix each image with itself
    assert swapped.square().mean().item() == pytest.approx(1.2 / 2.8, abs=0.06)
    assert swapped.mean().item() == pytest.approx(0.5, abs=0.06)


def test_the_seed_of_torch_decides():
    torch.manual_seed(4)
    first = mix(*batch(), 6, mixup=1.0, cutmix=1.0)
    torch.manual_seed(4)
    second = mix(*batch(), 6, mixup=1.0, cutmix=1.0)
    third = mix(*batch(), 6, mixup=1.0, cutmix=1.0)
    assert torch.equal(first[1], second[1])
    assert not torch.equal(second[1], third[1])


def test_keeps_the_type_of_the_images():
    images, labels = batch()
    for options in ({"mixup": 1.0}, {"cutmix": 1.0}, {}):
        mixed, soft = mix(images.bfloat16(), labels, 6, **options, generator=seeded(0))
        assert mixed.dtype == soft.dtype == torch.bfloat16
