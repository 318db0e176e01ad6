"""What the table of receptive fields says is on the page, and agrees with published numbers."""

from pathlib import Path

import pytest
import torch
from torch import nn

from atrous import trace_footprint
from benchmarks.receptive_fields import HEADS, NETWORKS, UNet, compare, in_order_of_calls, markdown, probe

PAGE = Path(__file__).parents[2] / "docs" / "reading-a-receptive-field.md"


@pytest.mark.slow
def test_the_page_shows_the_table():
    found = markdown()
    assert len(found.splitlines()) == len(NETWORKS) + 2
    assert found.startswith("| " + " | ".join(HEADS))
    assert found in PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "field", "stride", "offset"),
    [
        ("VGG-16, convolutions and pools", 212, 32, -90),
        ("ResNet-50 v1.5", 427, 32, -213),
        ("front end of Yu and Koltun", 380, 8, 0),
        ("dilations 2, 2, 2", 13, 1, -6),
        ("WaveNet, one block", 1024, 1, -1023),
    ],
)
def test_published_fields(name, field, stride, offset):
    row = compare(name)
    assert (row.field, row.stride, row.offset, row.extent) == (field, stride, offset, field)


def test_count_and_extent_differ_where_there_are_holes():
    assert probe(nn.Sequential(*[nn.Conv2d(1, 1, 3, dilation=2) for _ in range(3)]), (64, 64)) == (7, 13)


def test_the_probe_leaves_the_network_alone():
    network = nn.Sequential(nn.Conv2d(1, 1, 3), nn.MaxPool2d(2))
    before = network[0].weight.clone()
    assert probe(network, (16, 16)) == (4, 4)
    assert torch.equal(network[0].weight, before)
    assert isinstance(network[1], nn.MaxPool2d)


def test_a_transposed_convolution_takes_away_in_order_of_calls():
    network = nn.Sequential(nn.MaxPool2d(2), nn.ConvTranspose2d(1, 1, 2, stride=2))
    assert in_order_of_calls(network, (16, 16)) == (-4, 1)


def test_every_output_of_the_unet_has_its_probe():
    footprint = trace_footprint(UNet(), torch.zeros(1, 1, 128, 128))
    (start, stop), _ = footprint.reads([(64, 65)] * 2)
    assert probe(UNet(), (128, 128)) == (len(footprint.taps(0, at=64)), stop - start)
