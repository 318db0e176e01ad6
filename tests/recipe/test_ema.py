import copy

import pytest
import torch

from atrous.nn import Dcls1d
from atrous.recipe import EMA, share_positions


def net():
    blocks = [Dcls1d(2, 2, 3, padding="same", dilated_kernel_size=5) for _ in range(2)]
    return torch.nn.Sequential(*blocks, torch.nn.BatchNorm1d(2))


def test_what_leaves_the_window_in_a_step_never_enters_the_mean():
    model = net()
    optimizer = torch.optim.SGD([model[0].P], lr=1.0)
    mean = EMA(model, decay=0.5)
    mean.update_parameters(model)
    start = model[0].P.detach().clone()
    for _ in range(3):
        model[0].P.grad = torch.full_like(model[0].P, -100.0)
        optimizer.step()
        mean.update_parameters(model)
    assert torch.equal(model[0].P, torch.full_like(start, 2.0))
    torch.testing.assert_close(mean.module[0].P, 2 + (start - 2) / 8)


def test_weights_and_buffers_are_averaged():
    model = net()
    mean = EMA(model, decay=0.75)
    mean.update_parameters(model)
    before = copy.deepcopy(model)
    model(torch.randn(4, 2, 9) + 3)
    with torch.no_grad():
        model[0].weight += 1
    mean.update_parameters(model)
    torch.testing.assert_close(mean.module[0].weight, before[0].weight + 0.25)
    moved = model[2].running_mean - before[2].running_mean
    assert moved.abs().min() > 0.01
    torch.testing.assert_close(mean.module[2].running_mean, before[2].running_mean + 0.25 * moved)


def test_shared_positions_stay_shared():
    model = net()
    share_positions(model)
    mean = EMA(model)
    mean.update_parameters(model)
    assert mean.module[1].P is mean.module[0].P
    assert mean.module[0].P is not model[0].P
    assert [name for name in mean.state_dict() if name.endswith("P")] == ["module.0.P"]


def test_a_model_without_positions():
    model = torch.nn.Linear(2, 2)
    mean = EMA(model)
    mean.update_parameters(model)
    assert torch.equal(mean(torch.eye(2)), model(torch.eye(2)))


def test_a_decay_that_cannot_be():
    with pytest.raises(ValueError, match=r"Invalid decay value 1\.5"):
        EMA(net(), decay=1.5)
