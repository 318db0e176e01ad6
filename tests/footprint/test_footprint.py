"""What a footprint answers."""

import json
from fractions import Fraction

import pytest
import torch
from torch import nn

from atrous import GeometryError, trace_footprint


@pytest.fixture(scope="module")
def causal():
    stack = nn.Sequential(
        nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(1, 1, 2, dilation=2), nn.ConstantPad1d((1, 0), 0.0), nn.Conv1d(1, 1, 2)
    )
    return trace_footprint(stack, torch.zeros(1, 1, 12))


@pytest.fixture(scope="module")
def upsampled():
    return trace_footprint(nn.ConvTranspose2d(1, 1, (4, 3), (2, 3), padding=(1, 0)), torch.zeros(1, 1, 8, 6))


@pytest.fixture(scope="module")
def pooled():
    class Squeeze(nn.Module):
        def forward(self, x):
            return x * x.mean(-1, keepdim=True)

    return trace_footprint(Squeeze(), torch.zeros(1, 1, 7, 9))


def test_causal_chain(causal):
    assert causal.is_causal()
    assert (causal.delay, causal.offset, causal.receptive_field) == ((0,), (-3,), (4,))
    assert causal.taps() == {0: 1, 1: 1, 2: 1, 3: 1}
    assert causal.reads([(0, 1)], clip=True) == ((0, 1),)


def test_up_sampling_has_phases(upsampled):
    assert upsampled.stride == (Fraction(1, 2), Fraction(1, 3))
    assert upsampled.receptive_field == (2, 1)
    assert [upsampled.taps(0, at) for at in (4, 5)] == [{0: 1, 1: 1}] * 2
    assert upsampled.reads([(4, 5), (4, 5)]) == ((1, 3), (1, 2))
    assert upsampled.reads([(5, 6), (5, 6)]) == ((2, 4), (1, 2))
    assert upsampled.delay == (1, 0)


def test_an_axis_that_is_read_as_a_whole_says_so(pooled):
    assert pooled.globals == (False, True)
    assert not pooled.is_local
    assert pooled.stride == (Fraction(1), None)
    assert pooled.receptive_field == (1, 9)
    assert pooled.reads([(2, 3), (4, 5)]) == ((2, 3), (0, 9))
    with pytest.raises(GeometryError, match=r"taps: axis 1 is read as a whole by mul; ask a layer before it"):
        pooled.taps(1)


def test_layers_are_footprints(causal):
    assert [layer.name for layer in causal.layers] == ["input", "0.pad", "1.conv1d", "2.pad", "3.conv1d"]
    assert [layer.receptive_field for layer in causal.layers] == [(1,), (1,), (3,), (3,), (4,)]


def test_several_outputs():
    class Two(nn.Module):
        def forward(self, x):
            return x, nn.functional.max_pool1d(x, 3)

    fp = trace_footprint(Two(), torch.zeros(1, 1, 9))
    assert fp.receptive_field == (1,)
    assert fp.output(1).receptive_field == (3,)


def test_reads_of_the_whole_output(causal):
    assert causal.reads() == ((-3, 12),)
    assert causal.reads(clip=True) == ((0, 12),)


@pytest.mark.parametrize("ranges", [[(0, 1), (0, 1)], [(2, 2)], [(3, 1)]])
def test_ranges_that_are_none(causal, ranges):
    with pytest.raises(GeometryError, match=r"reads: got .*, expected 1 ranges \(start, stop\) with start below stop"):
        causal.reads(ranges)


def test_clipped_ranges_lie_inside_the_output(causal):
    assert causal.reads([(-1, 1)]) == ((-4, 1),)
    with pytest.raises(GeometryError, match=r"expected ranges inside the output of \(12,\)"):
        causal.reads([(-1, 1)], clip=True)


def test_an_axis_that_is_not_there(causal):
    assert causal.taps(-1) == causal.taps(0)
    with pytest.raises(GeometryError, match=r"footprint: got axis 1, expected one of 1"):
        causal.taps(1)


def test_prints_as_a_table_and_becomes_json(pooled):
    assert str(pooled).splitlines() == [
        "axis  input  output  receptive field  stride  offset  delay",
        "   0      7       7                1       1       0      0",
        "   1      9       9              all       -       0      -",
    ]
    assert json.loads(json.dumps(pooled.to_dict()))["stride"] == ["1", None]


def test_branches_that_drift_apart_count_at_their_farthest():
    class Turned(nn.Module):
        def forward(self, x):
            return x + x.flip(2)

    fp = trace_footprint(Turned(), torch.zeros(1, 1, 9))
    assert fp.receptive_field == (9,)
    assert fp.stride == (None,)


def test_a_cast_that_export_guards():
    class Casts(nn.Module):
        def forward(self, x):
            return nn.functional.avg_pool1d(x, 3).float() * 2

    assert trace_footprint(Casts(), torch.zeros(1, 1, 9, dtype=torch.float64)).receptive_field == (3,)
