import itertools

import pytest
import torch

from atrous import UnsupportedModule
from atrous.nn import Dcls1d, Dcls2_1d, Dcls2d, Dcls3_2d, Dcls3d
from atrous.recipe import repulsive_loss, reset_positions, share_positions

LAYERS = [
    lambda: Dcls1d(2, 3, 4, dilated_kernel_size=5),
    lambda: Dcls2d(2, 4, 3, dilated_kernel_size=(3, 5), groups=2),
    lambda: Dcls3d(1, 2, 3, dilated_kernel_size=3),
    lambda: Dcls2_1d(1, 2, 3, dense_kernel_size=2, dilated_kernel_size=7),
    lambda: Dcls3_2d(1, 2, 3, dense_kernel_size=2, dilated_kernel_size=5),
]


def by_the_formula(positions):
    """Return the mean over the kernels of 2 / (m (m - 1)) times the sum over the pairs of elements."""
    kernels = positions.detach().flatten(1, -2).permute(1, 2, 0)
    total = sum(
        max(0.0, 1 - torch.dist(one, other).item())
        for kernel in kernels
        for one, other in itertools.combinations(kernel, 2)
    )
    count = positions.shape[-1]
    return 2 * total / (count * (count - 1) * len(kernels))


@pytest.mark.parametrize("make", LAYERS)
def test_against_the_formula(make):
    layer = make()
    loss = repulsive_loss(layer)
    assert loss.shape == ()
    assert 0 < loss < 1
    assert loss.item() == pytest.approx(by_the_formula(layer.P), rel=1e-5)


@pytest.mark.parametrize("make", LAYERS)
def test_on_one_spot_it_is_one_and_the_gradient_is_finite(make):
    layer = make()
    torch.nn.init.constant_(layer.P, 0.3)
    loss = repulsive_loss(layer)
    assert loss == 1
    loss.backward()
    assert torch.equal(layer.P.grad, torch.zeros_like(layer.P))


@pytest.mark.parametrize("apart", [1e-30, 1e-5, 0.5])
def test_neighbours_part(apart):
    layer = Dcls1d(1, 1, 3, dilated_kernel_size=5)
    layer.P.data = torch.tensor([[[[0.0, apart, 2.0]]]])
    repulsive_loss(layer).backward()
    assert layer.P.grad.isfinite().all()
    left, right, alone = layer.P.grad.flatten().tolist()
    assert left > 0 > right
    assert left == -right
    assert alone == 0


def test_far_apart_it_is_nothing():
    layer = Dcls1d(1, 1, 3, dilated_kernel_size=5)
    layer.P.data = torch.tensor([[[[-1.0, 0.0, 1.0]]]])
    assert repulsive_loss(layer) == 0


def test_the_mean_over_distinct_positions():
    layers = [Dcls1d(1, 1, 2, dilated_kernel_size=9) for _ in range(5)]
    model = torch.nn.Sequential(*layers, Dcls1d(1, 1, 1, dilated_kernel_size=9), torch.nn.Linear(2, 2))
    for layer, apart in zip(layers, (0.0, 0.5, 3.0, 3.0, 3.0), strict=True):
        layer.P.data = torch.tensor([[[[0.0, apart]]]])
    share_positions(model, lambda name: "shared" if name in "234" else None)
    assert repulsive_loss(model).item() == pytest.approx((1 + 0.5 + 0 + 0) / 4)


def test_single_elements_have_nothing_to_repel():
    layer = Dcls2d(4, 4, 1, dilated_kernel_size=5)
    loss = repulsive_loss(layer)
    loss.backward()
    assert loss == 0
    assert torch.equal(layer.P.grad, torch.zeros_like(layer.P))


def test_new_positions_part_what_coincides():
    layer = Dcls2d(2, 2, 3, dilated_kernel_size=9)
    torch.nn.init.zeros_(layer.P)
    reset_positions(layer)
    repulsive_loss(layer).backward()
    assert layer.P.grad.count_nonzero() > 0


def test_memory_is_that_of_the_pairs():
    layer = Dcls2d(768, 768, 34, dilated_kernel_size=17, groups=768)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.nbytes) or tensor, lambda it: it):
        repulsive_loss(layer)
    pairs = 768 * 34 * 33 // 2
    assert 0 < sum(kept) <= 5 * 4 * pairs  # two differences, a distance, an overlap, indices


def test_a_model_without_positions():
    with pytest.raises(UnsupportedModule, match=r"repulsive_loss: got Linear without a layer of learned spacings, exp"):
        repulsive_loss(torch.nn.Linear(2, 2))
