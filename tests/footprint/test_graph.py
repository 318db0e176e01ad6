"""Nodes, and which pixels they truly read."""

import pytest

from atrous.footprint.axis import IDENTITY, Taps
from atrous.footprint.graph import Edge, Node, ancestors, pixels_read, span_of


def node(size, *edges):
    return Node("one", "made" if edges else "input", "", (1, 1, size), ((), (), (0,)), (size,), edges)


def sets(table):
    return [{index for index in range(9) if pixels >> index & 1} for pixels in table]


@pytest.mark.parametrize(
    ("border", "first", "last"),
    [("zeros", set(), {3}), ("replicate", {0}, {3}), ("circular", {1}, {3}), ("reflect", {3}, {3})],
)
def test_borders(border, first, last):
    image = node(4)
    shifted = node(7, Edge(image, (Taps.window(1, before=3),), (border,)))
    table = sets(pixels_read(shifted, 0))
    assert table[0] == first
    assert table[6] == last


def test_branches_add_up_and_sources_come_first():
    image = node(5)
    left = node(5, Edge(image, (IDENTITY,)))
    both = node(5, Edge(left, (Taps.window(1, before=1),)), Edge(image, (Taps.window(1, before=-1),)))
    assert ancestors(both)[0] is image
    assert ancestors(both)[-1] is both
    assert sets(pixels_read(both, 0)) == [{1}, {0, 2}, {1, 3}, {2, 4}, {3}]
    assert both.reaches[0].at(2) == {1: 1, 3: 1}


def test_everything_is_all_that_the_source_reads():
    image = node(6)
    half = node(3, Edge(image, (Taps.window(1, stride=2),)))
    pooled = node(2, Edge(half, (None,)))
    assert sets(pixels_read(pooled, 0)) == [{0, 2, 4}] * 2
    assert pooled.reaches[0].everything


def test_span():
    assert span_of([0b1000, 0b10]) == (1, 4)
    assert span_of([0, 0]) is None
