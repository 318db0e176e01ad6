"""Paths over all axes at once: what ones as weights count."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atrous import GeometryError, trace_footprint
from atrous.footprint.paths import paths_of


class Does(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.forward = run


def ones(*kernel):
    return torch.ones(1, 1, *kernel, dtype=torch.float64)


def aspp(x):
    return sum(F.conv2d(x, ones(3, 3), padding="same", dilation=d) for d in (1, 2, 4))


def cross(x):
    return F.conv2d(x, ones(1, 5), padding="same") + F.conv2d(x, ones(3, 1), padding="same") + x


def up(x):
    y = F.conv2d(x, ones(3, 3), stride=2, padding=1)
    return F.conv2d(F.conv_transpose2d(y, ones(4, 4), stride=2, padding=1), ones(3, 3), padding="same") + x


NETWORKS = {
    "chain": lambda x: F.conv2d(F.conv2d(x, ones(3, 3), dilation=2), ones(2, 3), stride=(2, 1)),
    "branches": aspp,
    "cross": cross,
    "up and down": up,
    "volume": lambda x: F.conv3d(F.conv3d(x, ones(3, 1, 2)), ones(1, 3, 1)) + x[:, :, 1:-1, 1:-1, :-1],
    "turned": lambda x: F.conv2d(x, ones(2, 3)).flip(2),
}


@pytest.mark.parametrize(("name", "run"), NETWORKS.items(), ids=NETWORKS)
def test_ones_as_weights_count_the_paths(name, run):
    shape = (1, 1, *[11] * 3) if name == "volume" else (1, 1, 24, 24)
    fp = trace_footprint(Does(run), torch.zeros(shape, dtype=torch.float64))
    at = tuple(size // 2 for size in fp.output_size)
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(run(x)[(0, 0, *at)], x)
    start, count = paths_of(fp.node, at)
    wanted = np.zeros_like(grad[0, 0].numpy())
    wanted[tuple(slice(low, low + size) for low, size in zip(start, count.shape, strict=True))] = count
    assert np.array_equal(wanted, grad[0, 0].numpy())
    assert count.shape == fp.receptive_field


def test_what_reads_a_whole_axis_has_no_paths():
    fp = trace_footprint(nn.AdaptiveAvgPool2d(1), torch.zeros(1, 1, 5, 5))
    with pytest.raises(GeometryError, match="paths: axis 0 is read as a whole by adaptive_avg_pool2d; ask a layer"):
        paths_of(fp.node, (0, 0))


def test_an_output_that_reads_nothing():
    fp = trace_footprint(nn.ConvTranspose1d(1, 1, 1, stride=2), torch.zeros(1, 1, 5))
    assert paths_of(fp.node, (3,))[1].size == 0
    assert paths_of(fp.node, (4,))[0] == (2,)
