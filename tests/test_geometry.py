import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from atrous import Geometry, GeometryError


def chain(*layers):
    return Geometry.compose(Geometry.resolve(k, s, p, d, ndim=1) for k, s, p, d in layers)


def test_resolve_spells_out_every_axis():
    g = Geometry.resolve(3, (2, 1), ("causal", (1, 0)), [4, 1], ndim=2)
    assert g == Geometry((3, 3), (2, 1), (4, 1), ((8, 0), (1, 0)))
    assert (g.ndim, g.extent, g.symmetric) == (2, (9, 3), False)


@pytest.mark.parametrize(
    ("kernel", "dilation", "word", "expected"),
    [
        (3, 4, "same", (4, 4)),
        (2, 3, "same", (1, 2)),
        (4, 1, "same", (1, 2)),
        (3, 4, "causal", (8, 0)),
        (9, 2, "valid", (0, 0)),
    ],
)
def test_words(kernel, dilation, word, expected):
    assert Geometry.resolve(kernel, padding=word, dilation=dilation, ndim=1).padding == (expected,)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.sampled_from(["same", "causal"]))
def test_same_and_causal_give_ceil(size, kernel, stride, dilation, word):
    assert Geometry.resolve(kernel, stride, word, dilation, ndim=1).output_size((size,)) == (-(-size // stride),)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.integers(1, 4))
def test_a_transposed_window_undoes_the_size(size, kernel, stride, padding, dilation):
    window = Geometry.resolve(kernel, stride, padding, dilation, ndim=1)
    for more in range(stride):
        transposed = window.transposed_size((size,), (more,))
        assume(transposed[0] > 0)
        assert window.output_size(transposed) == (size,)


layers = st.tuples(st.integers(1, 4), st.integers(1, 3), st.tuples(st.integers(0, 2)), st.integers(1, 3))


@settings(max_examples=100, deadline=None)
@given(st.lists(layers, min_size=1, max_size=4), st.integers(40, 70))
def test_compose_predicts_sizes_and_fields(chain_layers, size):
    """Sizes by nesting, receptive field and offset by the gradient of ones-kernels (no cancellation)."""
    whole = chain(*chain_layers)
    assume(whole.output_size((size,)) != (0,))
    x = torch.ones(1, 1, size, dtype=torch.float64, requires_grad=True)
    y, nested = x, (size,)
    for k, s, (p,), d in chain_layers:
        nested = Geometry.resolve(k, s, p, d, ndim=1).output_size(nested)
        assume(nested != (0,))  # torch has no empty signal to go on from, whatever a later layer pads
        y = F.conv1d(y, torch.ones(1, 1, k, dtype=torch.float64), None, s, p, d)
    assert whole.output_size((size,)) == nested == tuple(y.shape[2:])
    middle = y.shape[2] // 2
    y[0, 0, middle].backward()
    read = x.grad[0, 0].nonzero().flatten()
    first = middle * whole.stride[0] - whole.padding[0][0]
    last = first + whole.kernel[0] - 1
    # The window is the extent of what is read; at the border it is cut to the image.
    if first >= 0 and last < size:
        assert (read.min().item(), read.max().item()) == (first, last)


@given(
    st.integers(1, 9), st.integers(1, 12), st.integers(1, 3), st.integers(1, 4), st.tuples(*[st.integers(0, 14)] * 2)
)
def test_a_trimmed_window_has_the_same_outputs(size, kernel, stride, dilation, padding):
    window = Geometry.resolve(kernel, stride, (padding,), dilation, ndim=1)
    assume(window.output_size((size,))[0])
    trimmed, [(start, stop)] = window.trimmed((size,))
    x, weight = torch.randn(1, 1, size).double(), torch.randn(1, 1, kernel).double()

    def run(window, weight):
        return F.conv1d(F.pad(x, window.padding[0]), weight, stride=stride, dilation=dilation)

    assert trimmed.kernel == (stop - start,)
    torch.testing.assert_close(run(trimmed, weight[..., start:stop]), run(window, weight))


def test_a_window_wider_than_the_image_sees_all_of_it_and_no_more():
    window = Geometry.resolve((17, 17, 4), padding=(8, "causal", 0), ndim=3)
    trimmed, left = window.trimmed((7, 5, 6))
    assert left == ((2, 15), (12, 17), (0, 4))
    assert trimmed.padding == ((6, 6), (4, 0), (0, 0))


def test_published_receptive_fields():
    dilations = {67: (1, 1, 2, 4, 8, 16, 1), 35: (1, 1, 2, 4, 8, 1), 259: (1, 1, 2, 4, 8, 16, 32, 64, 1)}
    for field, sequence in dilations.items():
        assert chain(*[(3, 1, 0, d) for d in sequence]).kernel == (field,)
    growth = [chain(*[(3, 1, 0, d) for d in dilations[67][: n + 1]]).kernel[0] for n in range(7)]
    assert growth == [3, 5, 9, 17, 33, 65, 67]
    assert [chain(*[(3, 1, 0, 2**i) for i in range(n)]).kernel[0] for n in (1, 2, 3)] == [3, 7, 15]


def test_a_pool_that_rounds_up_is_padded_after():
    pool = Geometry.resolve(2, 2, ((0, 1),), ndim=1)
    for size in range(1, 20):
        expected = F.max_pool1d(torch.zeros(1, 1, size), 2, 2, ceil_mode=True).shape[2]
        assert pool.output_size((size,)) == (expected,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Geometry((3,), (1, 1), (1,), ((0, 0),)), "the same number of axes in every field"),
        (lambda: Geometry((0,), (1,), (1,), ((0, 0),)), r"kernel size: got \(0,\), expected integers of at least 1"),
        (lambda: Geometry.resolve(3, ndim=1).output_size((3, 3)), "output_size: got 2 sizes"),
        (lambda: Geometry.compose([]), "at least one window"),
        (lambda: Geometry.compose([Geometry.resolve(1, ndim=1), Geometry.resolve(1, ndim=2)]), "all of the same ndim"),
    ],
)
def test_messages(call, message):
    with pytest.raises(GeometryError, match=message):
        call()
