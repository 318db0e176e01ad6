"""Taps along one axis, in integers."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous.footprint.axis import EVERYTHING, IDENTITY, Reach, Taps

offsets = st.dictionaries(st.integers(-9, 9), st.integers(1, 3), max_size=4)
taps = st.builds(Taps, st.integers(-4, 4), st.lists(offsets, min_size=1, max_size=4).map(tuple))


@given(taps, taps, st.integers(-30, 30))
def test_composed_paths_are_those_of_one_after_the_other(outer, inner, p):
    wanted = {}
    for middle, paths in outer.at(p).items():
        for place, more in inner.at(middle).items():
            wanted[place] = wanted.get(place, 0) + paths * more
    assert outer.of(inner).at(p) == wanted


@given(taps, st.integers(-30, 30), st.integers(1, 12))
def test_span_is_tight(one, start, length):
    places = [place for p in range(start, start + length) for place in one.at(p)]
    assert one.span(start, start + length) == ((min(places), max(places) + 1) if places else None)


@given(offsets, offsets, st.integers(1, 3), st.integers(-20, 20))
def test_branches_of_one_rate_add_their_paths(a, b, step, p):
    # The second is written with two phases.
    left = Taps(step, (a,))
    right = Taps(2 * step, (b, {place + step: n for place, n in b.items()}))
    both = Reach((left,)) | Reach((right,))
    assert len(both.terms) == 1
    assert both.at(p) == dict(Counter(left.at(p)) + Counter(right.at(p)))


def test_branches_of_two_rates_stay_apart():
    both = Reach((IDENTITY,)) | Reach((Taps.window(1, stride=2),))
    assert both.rate is None
    assert both.at(5) == {5: 1, 10: 1}
    assert both.span(5, 6) == (5, 11)


def test_everything_swallows_and_nothing_stays_nothing():
    assert Reach((IDENTITY,)).through(None) == EVERYTHING
    assert not Reach().through(None)
    assert (Reach((IDENTITY,)) | EVERYTHING).rate is None


@pytest.mark.parametrize(
    ("stride", "upsample", "offset", "reads"),
    [
        (1, 2, 0, {0: [0], 1: [], 2: [1], 3: []}),
        (3, 2, 1, {0: [], 1: [2], 2: [], 3: [5]}),
        (2, 2, 1, {0: [], 1: [], 2: []}),
        (4, 2, 2, {0: [1], 1: [3], 2: [5]}),
    ],
)
def test_spread_reads_where_the_place_is_whole(stride, upsample, offset, reads):
    one = Taps.spread([offset], stride, upsample)
    assert {p: list(one.at(p)) for p in reads} == reads


@pytest.mark.parametrize(
    ("scale", "start"), [(Fraction(1, 3), Fraction(-1, 3)), (Fraction(5, 2), Fraction(3, 4))], ids=str
)
def test_sampled_reads_from_the_floor_of_its_place(scale, start):
    one = Taps.sampled(scale, start, (0, 1), (0,))
    for p in range(-7, 8):
        place = p * scale + start
        floor = place.numerator // place.denominator
        assert list(one.at(p)) == ([floor] if place.denominator == 1 else [floor, floor + 1])
