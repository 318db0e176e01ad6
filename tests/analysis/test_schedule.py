"""Schedules of dilations cover their fields in as few layers as can be; those of the papers are among them."""

import functools
import math
import operator

import pytest

from atrous import GeometryError
from atrous.analysis import hdc, hybrid_schedule

PUBLISHED = {
    (17, 3, None): (1, 2, 5),
    (35, 3, None): (1, 2, 5, 9),
    (63, 3, 5): (1, 2, 4, 8, 16),
    (81, 3, None): (1, 3, 9, 27),
}


def read(dilations, kernel):
    """Return the offsets that a chain reads, as the bits of an integer."""
    bits = 1
    for dilation in dilations:
        copies = [bits << tap * dilation for tap in range(kernel)]
        bits = functools.reduce(operator.or_, copies)
    return bits


@pytest.mark.parametrize("wanted", PUBLISHED, ids=str)
def test_schedules_of_the_papers(wanted):
    assert hybrid_schedule(*wanted) == PUBLISHED[wanted]


@pytest.mark.parametrize("kernel", [2, 3, 4, 5, 7])
def test_every_pixel_is_read(kernel):
    for field in range(kernel, 500):
        dilations = hybrid_schedule(field, kernel)
        reached = 1 + (kernel - 1) * sum(dilations)
        assert read(dilations, kernel) == 2**reached - 1
        assert field <= reached < field + kernel - 1
        assert dilations[0] == 1
        assert list(dilations) == sorted(dilations)


@pytest.mark.parametrize("kernel", [2, 3, 5])
def test_every_number_of_layers_that_can_be(kernel):
    for field in (1 + 6 * (kernel - 1), 1 + 40 * (kernel - 1), 230):
        total = math.ceil((field - 1) / (kernel - 1))
        fewest = len(hybrid_schedule(field, kernel))
        for layers in range(fewest, total + 1):
            dilations = hybrid_schedule(field, kernel, layers)
            assert (len(dilations), sum(dilations)) == (layers, total)
            assert read(dilations, kernel) == 2 ** (1 + (kernel - 1) * total) - 1
        assert dilations == (1,) * total


@pytest.mark.parametrize("kernel", [2, 3, 5])
def test_no_fewer_layers_could_read_so_many_pixels(kernel):
    for field in range(kernel, 300):
        layers = len(hybrid_schedule(field, kernel))
        assert kernel ** (layers - 1) < 1 + (kernel - 1) * math.ceil((field - 1) / (kernel - 1)) <= kernel**layers


def test_kernels_of_3_keep_the_rule_of_hybrid_dilated_convolution():
    """As the diagnostic has it, beside the coverage that it counts itself."""
    for field in range(5, 600, 2):
        found = hdc(hybrid_schedule(field))
        assert found.passes
        assert found.common_factor == 1
        assert (found.axis.read, found.axis.coverage) == (field, 1)


def test_a_large_field():
    dilations = hybrid_schedule(10**6 + 1)
    assert len(dilations) == 13
    assert 1 + 2 * sum(dilations) == 10**6 + 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((2, 3), r"hybrid_schedule: field: got \(2,\), expected integers of at least 3"),
        ((9, 1), r"hybrid_schedule: kernel: got \(1,\), expected integers of at least 2"),
        (
            (9, 3, 1),
            "hybrid_schedule: layers: got 1 for a field of 9, expected 2 to 4: fewer leave holes, and more reach",
        ),
        ((9, 3, 5), "hybrid_schedule: layers: got 5 for a field of 9, expected 2 to 4"),
        ((9, 3, 0), r"hybrid_schedule: layers: got \(0,\), expected integers of at least 1"),
        ((9.5, 3), "hybrid_schedule: field: got 9.5, expected integers"),
    ],
)
def test_messages(given, message):
    with pytest.raises(GeometryError, match=message):
        hybrid_schedule(*given)
