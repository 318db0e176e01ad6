"""Coverage, holes and path counts; the rule of hybrid dilated convolution beside them, right and wrong."""

import itertools
import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from atrous import GeometryError
from atrous.analysis.gridding import AxisGridding, gridding, hdc
from atrous.footprint import trace_footprint

# Dilations of 3-tap convolutions: M_2, whether the rule passes, pixels read and spanned.
CHAINS = {
    (1, 1, 2, 4, 8, 16, 1): (1, True, 67, 67),
    (1, 2, 4, 8, 16): (2, True, 63, 63),
    (1, 3, 9, 27): (3, True, 81, 81),
    (1, 2, 5): (2, True, 17, 17),
    (1, 2, 5, 9): (2, True, 35, 35),
    (1, 2, 5, 1, 2, 5): (5, False, 33, 33),
    (2, 2, 2): (2, True, 7, 13),
    (2, 3, 5): (3, True, 19, 21),
    (2, 4, 8): (4, False, 15, 29),
    (1, 2, 9): (5, False, 21, 25),
    (3, 4, 5): (4, False, 21, 25),
    (5, 9, 17): (9, False, 27, 63),
}


def chain(dilations, ndim=2, kernel=3):
    convolution = getattr(nn, f"Conv{ndim}d")
    return nn.Sequential(*[convolution(1, 1, kernel, dilation=d, padding=d) for d in dilations])


@pytest.mark.parametrize("dilations", CHAINS, ids=str)
def test_the_rule_and_the_truth_of_known_chains(dilations):
    distance, passes, read, field = CHAINS[dilations]
    found = hdc(dilations)
    assert (found.distance, found.passes, found.axis.read, found.axis.receptive_field) == (
        distance,
        passes,
        read,
        field,
    )
    assert found.axis.coverage == Fraction(read, field)


@pytest.mark.parametrize("dilations", [(1, 1, 2, 4, 8, 16, 1), (2, 2, 2), (1, 2, 9), (5, 9, 17)], ids=str)
def test_a_traced_chain_covers_the_same(dilations):
    found = gridding(chain(dilations), torch.zeros(1, 1, 80, 90))
    assert found.axes == (hdc(dilations).axis,) * 2
    assert found.coverage == hdc(dilations).axis.coverage ** 2


@pytest.mark.parametrize("dilations", [(2, 2, 2), (2, 3, 5), (1, 2, 5, 1, 2, 5)], ids=str)
def test_holes_and_paths_are_those_of_every_sum_of_offsets(dilations):
    sums = [sum(taps) for taps in itertools.product(*((0, d, 2 * d) for d in dilations))]
    axis = hdc(dilations).axis
    assert axis.paths == tuple(sums.count(offset) for offset in range(max(sums) + 1))
    assert axis.holes == tuple(sorted(set(range(max(sums) + 1)) - set(sums)))


@pytest.mark.parametrize("dilations", [(1, a, b) for a in range(1, 7) for b in range(1, 7)], ids=str)
def test_a_chain_that_starts_dense_and_passes_has_no_hole(dilations):
    found = hdc(dilations)
    assert not found.passes or found.axis.coverage == 1


def test_the_path_map_counts_the_paths_of_a_chain():
    stack = chain((2, 2, 2)).double()
    for convolution in stack:
        nn.init.ones_(convolution.weight)
    image = torch.zeros(1, 1, 31, 31, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(stack(image)[0, 0, 15, 15], image)
    joint = gridding(stack, image.detach()).joint
    np.testing.assert_array_equal(joint, gradient[0, 0, 9:22, 9:22])
    assert (joint > 0).sum() == 49


def test_branches_are_counted_as_they_are():
    class Branches(nn.Module):
        def forward(self, x):
            kernel = torch.ones(1, 1, 3, 3)
            return sum(nn.functional.conv2d(x, kernel, padding="same", dilation=d) for d in (1, 6))

    found = gridding(Branches(), torch.zeros(1, 1, 40, 40))
    assert found.coverage == Fraction(17, 13 * 13)
    assert [axis.read for axis in found.axes] == [5, 5]


def test_paths_along_an_axis_are_exact_beyond_64_bits():
    found = gridding(chain((1,) * 50), torch.zeros(1, 1, 120, 120))
    assert sum(found.axes[0].paths) == 3**50
    assert found.joint.sum() == pytest.approx(9**50)
    most = max(found.axes[0].paths)
    assert str(found).splitlines()[-1].split() == ["all", "101x101", "10201/10201", "0", f"{most**2:.2e}"]


def test_axes_are_apart():
    found = gridding(nn.Conv2d(1, 1, (3, 2), dilation=(4, 1)), torch.zeros(1, 1, 20, 20))
    assert [axis.paths for axis in found.axes] == [(1, 0, 0, 0, 1, 0, 0, 0, 1), (1, 1)]
    assert found.joint.shape == (9, 2)


@pytest.mark.parametrize("ndim", [1, 3])
def test_other_ranks(ndim):
    found = gridding(chain((2, 2), ndim), torch.zeros(1, 1, *(12,) * ndim))
    assert [axis.paths for axis in found.axes] == [(1, 0, 2, 0, 3, 0, 2, 0, 1)] * ndim
    assert found.coverage == Fraction(5, 9) ** ndim
    assert found.joint.shape == (9,) * ndim


def test_of_the_outputs_of_up_sampling_the_worst_counts():
    # Even outputs read two pixels that are 3 apart, odd ones one.
    network = nn.ConvTranspose1d(1, 1, 3, stride=2, padding=1, dilation=3)
    footprint = trace_footprint(network, torch.zeros(1, 1, 16))
    assert {tuple(footprint.taps(0, at=p)) for p in range(10, 12)} == {(0, 3), (0,)}
    assert gridding(footprint).axes[0].paths == (1, 0, 0, 1)


def test_of_rates_without_a_common_factor_no_more_outputs_are_asked_than_there_are():
    class Resized(nn.Module):
        def forward(self, x):
            sizes = (107, 109, 113, 127)
            return sum(nn.functional.interpolate(x, size, mode="linear")[..., :16] for size in sizes)

    footprint = trace_footprint(Resized(), torch.zeros(1, 1, 101))
    patterns = [footprint.taps(0, at=p) for p in range(16)]
    coverage, extent = min((Fraction(len(taps), max(taps) + 1), -max(taps) - 1) for taps in patterns)
    found = gridding(footprint).axes[0]
    assert (found.coverage, found.receptive_field) == (coverage, -extent)


def test_an_output_that_reads_nothing_is_never_the_worst():
    found = gridding(nn.ConvTranspose1d(1, 1, 1, stride=2), torch.zeros(1, 1, 8))
    assert found.axes[0].paths == (1,)
    assert AxisGridding(()).coverage == 1


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3), keepdim=True)


def test_a_global_axis_has_no_hole():
    network = nn.Sequential(nn.Conv2d(1, 1, 3, dilation=2), Mean())
    found = gridding(network, torch.zeros(1, 1, 9, 12))
    assert found.coverage == 1
    assert [(axis.is_global, axis.receptive_field) for axis in found.axes] == [(True, 9), (True, 12)]
    assert str(found).splitlines()[1].split() == ["0", "all", "9/9", "0", "-"]


def test_a_layer_is_asked_by_its_footprint():
    footprint = trace_footprint(chain((2, 2, 2)), torch.zeros(1, 1, 32, 32))
    assert gridding(footprint.layers[1]).axes[0].paths == (1, 0, 1, 0, 1)


def test_it_prints_and_turns_into_json():
    found = gridding(chain((2, 2)), torch.zeros(1, 1, 20, 20))
    assert str(found).splitlines() == [
        "axis  receptive field  coverage  holes  most paths",
        "   0                9       5/9      4           3",
        "   1                9       5/9      4           3",
        " all              9x9     25/81     56           9",
    ]
    assert len(str(gridding(chain((2, 2), 1), torch.zeros(1, 1, 20))).splitlines()) == 2
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["coverage"] == "25/81"
    assert plain["axes"][0] == {
        "receptive_field": 9,
        "read": 5,
        "coverage": "5/9",
        "holes": [1, 3, 5, 7],
        "paths": [1, 0, 2, 0, 3, 0, 2, 0, 1],
        "is_global": False,
    }


def test_the_diagnostic_prints_and_turns_into_json():
    assert str(hdc((1, 2, 9))).splitlines()[1].split() == ["1,", "2,", "9", "3", "5", "fails", "1", "21/25"]
    assert json.loads(json.dumps(hdc((2, 2, 2)).to_dict())) == {
        "dilations": [2, 2, 2],
        "kernel": 3,
        "distance": 2,
        "passes": True,
        "common_factor": 2,
        "receptive_field": 13,
        "read": 7,
        "coverage": "7/13",
    }


def test_a_larger_kernel_is_taken():
    assert hdc((1, 5), kernel=5).passes
    assert hdc((1, 5), kernel=5).axis.coverage == 1
    assert hdc((1, 5), kernel=3).axis.coverage == Fraction(9, 13)


@pytest.mark.parametrize(("dilations", "kernel"), [((), 3), ((4,), 3), ((1, 0), 3), ((1, 2), 1)])
def test_a_chain_that_cannot_be_is_named(dilations, kernel):
    with pytest.raises(GeometryError, match=r"hdc: got dilations=.*, expected two or more dilations of at least 1"):
        hdc(dilations, kernel)
