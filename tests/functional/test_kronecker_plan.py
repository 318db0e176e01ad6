import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous import GeometryError
from atrous._geometry import Geometry
from atrous.functional.kronecker_plan import choose_order, stages

DEPTHWISE = ((1, 1, 3, 3),) * 3


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_stages_read_what_the_one_window_reads(data):
    """The taps of the stages, added up, are those of the product, whatever the order."""
    count = data.draw(st.integers(2, 3))
    kernels = [(data.draw(st.integers(1, 4)),) for _ in range(count)]
    stride, dilation, before, after = (data.draw(st.integers(low, 6)) for low in (1, 1, 0, 0))
    total = 1
    for (size,) in kernels:
        total *= size
    whole = Geometry.resolve(total, stride, ((before, after),), dilation, ndim=1)
    for order in itertools.permutations(range(count)):
        windows = stages(kernels, whole, order)
        taps, jump = [0], 1
        for window in windows:
            taps = [
                at + jump * (index * window.dilation[0] - window.padding[0][0])
                for at in taps
                for index in range(window.kernel[0])
            ]
            jump *= window.stride[0]
        assert jump == stride
        assert sorted(taps) == [index * dilation - before for index in range(total)]
        for size in (whole.extent[0], whole.extent[0] + 7):
            left = (size,)
            for window in windows:
                left = window.output_size(left)
            assert left == whole.output_size((size,))


def test_a_stride_comes_as_early_as_it_can():
    pairs = [(4,), (2,), (2,)]
    whole = Geometry.resolve(16, stride=4, ndim=1)
    assert [window.stride for window in stages(pairs, whole, (2, 1, 0))] == [(2,), (2,), (1,)]
    assert [window.dilation for window in stages(pairs, whole, (2, 1, 0))] == [(1,), (1,), (1,)]
    assert [window.stride for window in stages(pairs, whole, (0, 1, 2))] == [(1,), (1,), (4,)]


def test_a_single_tap_lets_a_stride_pass():
    windows = stages([(1,), (3,)], Geometry.resolve(3, stride=2, ndim=1), (1, 0))
    assert [window.stride for window in windows] == [(2,), (1,)]


def test_large_depthwise_kernels_run_as_a_cascade_of_shrinking_maps():
    window = Geometry.resolve(27, padding=13, ndim=2)
    assert choose_order("", DEPTHWISE, 1, window, (8, 56, 56), None) == (0, 1, 2)


@pytest.mark.parametrize(
    ("shapes", "rank", "kernel", "size"),
    [
        (((1, 1, 2, 1), (1, 1, 1, 2)), 1, 2, (8, 56, 56)),
        (((2, 2, 1, 1), (2, 2, 3, 3)), 1, 3, (8, 56, 56)),
        (((1, 1, 3, 3), (1, 1, 3, 3)), 9, 9, (8, 56, 56)),
        (((1, 1, 3, 3),), 1, 3, (8, 56, 56)),
    ],
    ids=["few taps", "few channels", "full rank", "one factor"],
)
def test_small_weights_run_dense(shapes, rank, kernel, size):
    window = Geometry.resolve(kernel, padding="same", ndim=2)
    assert choose_order("", shapes, rank, window, size, None) == ()


def test_methods_by_name():
    window = Geometry.resolve(27, padding=13, ndim=2)
    assert choose_order("", DEPTHWISE, 1, window, (8, 56, 56), "dense") == ()
    one = Geometry.resolve(1, ndim=2)
    assert len(choose_order("", ((1, 1, 1, 1),) * 2, 1, one, (8, 56, 56), "cascade")) == 2
    with pytest.raises(GeometryError, match=re.escape("f: method: got 'fast', expected one of (None, 'cascade', '")):
        choose_order("f", DEPTHWISE, 1, window, (8, 56, 56), "fast")


def test_a_large_weight_for_few_pixels_is_not_made():
    """Of a batch of many, making the weight costs little; of one it is all that there is to do."""
    point, shapes = Geometry((), (), (), ()), ((8, 8), (8, 8))
    assert choose_order("", shapes, 1, point, (1,), None)
    assert choose_order("", shapes, 4, point, (1000,), None) == ()
