"""Chains of small kernels equal one dense kernel, borders included, and the nearest ones are the nearest."""

import itertools
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous import BackendError, GeometryError, ShapeError
from atrous.functional import (
    conv2d,
    cp_conv2d,
    cp_kernel,
    nearest_cp,
    nearest_separable,
    separable_conv2d,
    separable_kernel,
)
from atrous.functional.low_rank import separable_errors


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def separable(outputs=6, channels=4, rank=3, kernel=(3, 5), groups=1, dtype=torch.float64):
    vertical = draw(groups * rank, channels // groups, kernel[0], 1, seed=1, dtype=dtype)
    return vertical, draw(outputs, rank, 1, kernel[1], seed=2, dtype=dtype)


def cp(outputs=6, channels=4, rank=3, kernel=(3, 5), dtype=torch.float64):
    return [draw(size, rank, seed=seed, dtype=dtype) for seed, size in enumerate((outputs, channels, *kernel))]


def slow_separable(vertical, horizontal, groups):
    """The definition, entry by entry."""
    (_, channels, height, _), (outputs, rank, _, width) = vertical.shape, horizontal.shape
    kernel = np.zeros((outputs, channels, height, width))
    for o, c, r in itertools.product(range(outputs), range(channels), range(rank)):
        group = o * groups // outputs
        kernel[o, c] += np.outer(vertical[group * rank + r, c, :, 0].numpy(), horizontal[o, r, 0].numpy())
    return torch.from_numpy(kernel)


def slow_cp(factors):
    """The definition, component by component."""
    kernel = np.zeros([len(factor) for factor in factors])
    for columns in zip(*(factor.numpy().T for factor in factors), strict=True):
        term = columns[0]
        for column in columns[1:]:
            term = np.multiply.outer(term, column)
        kernel += term
    return torch.from_numpy(kernel)


def assert_near(result, expected):
    assert result.shape == expected.shape
    scale = expected.abs().max().item()
    assert (result - expected).abs().max().item() <= 1e-12 * scale


WINDOWS = {
    "stride": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    "padding": st.tuples(*[st.sampled_from([0, 1, 2, (0, 2), (3, 1), "same", "causal"])] * 2),
    "dilation": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    "padding_mode": st.sampled_from(["zeros", "zeros", "replicate", "reflect", "circular"]),
}
SIZES = st.tuples(st.integers(13, 17), st.integers(13, 17))
KERNELS = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(deadline=None, max_examples=60)
@given(
    st.fixed_dictionaries(WINDOWS), SIZES, KERNELS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.data()
)
def test_a_separable_kernel_is_its_dense_one(options, size, kernel, groups, each_in, each_out, data):
    rank = data.draw(st.integers(1, 4))
    vertical, horizontal = separable(groups * each_out, groups * each_in, rank, kernel, groups)
    x, bias = draw(2, groups * each_in, *size), draw(groups * each_out, seed=3)
    dense = slow_separable(vertical, horizontal, groups)
    assert_near(separable_kernel(vertical, horizontal, groups), dense)
    result = separable_conv2d(x, vertical, horizontal, bias, groups=groups, **options)
    assert_near(result, conv2d(x, dense, bias, groups=groups, **options))


@settings(deadline=None, max_examples=60)
@given(st.fixed_dictionaries(WINDOWS), SIZES, KERNELS, *[st.integers(1, 4)] * 3)
def test_a_kernel_in_cp_form_is_its_dense_one(options, size, kernel, channels, outputs, rank):
    factors = cp(outputs, channels, rank, kernel)
    x, bias = draw(2, channels, *size), draw(outputs, seed=9)
    dense = slow_cp(factors)
    assert_near(cp_kernel(factors), dense)
    assert_near(cp_conv2d(x, factors, bias, **options), conv2d(x, dense, bias, **options))


def test_against_torch_with_plain_options():
    x, bias = draw(2, 4, 9, 11), draw(6, seed=3)
    options = {"stride": (2, 1), "padding": (1, 4), "dilation": (1, 2)}
    vertical, horizontal = separable(groups=2)
    dense = slow_separable(vertical, horizontal, 2)
    result = separable_conv2d(x, vertical, horizontal, bias, **options, groups=2)
    assert_near(result, F.conv2d(x, dense, bias, **options, groups=2))
    assert_near(cp_conv2d(x, cp(), bias, **options), F.conv2d(x, slow_cp(cp()), bias, **options))


@pytest.mark.parametrize("sizes", [(3, 4), (2, 3, 4), (2, 3, 2, 3, 2)], ids=len)
def test_factors_of_any_number_of_axes(sizes):
    factors = [draw(size, 3, seed=seed) for seed, size in enumerate(sizes)]
    assert_near(cp_kernel(factors), slow_cp(factors))


def separable_call(x, vertical, horizontal, bias):
    return separable_conv2d(x, vertical, horizontal, bias, stride=(1, 2), padding=(1, 2), groups=2)


def cp_call(x, *leaves):
    return cp_conv2d(x, leaves[:-1], leaves[-1], stride=(1, 2), padding=(1, 2))


CALLS = [
    pytest.param(separable_call, lambda dtype: separable(groups=2, dtype=dtype), id="separable"),
    pytest.param(cp_call, lambda dtype: cp(dtype=dtype), id="cp"),
]
every_call = pytest.mark.parametrize(("call", "make"), CALLS)


def leaves(make, dtype=torch.float64, size=(6, 7)):
    made = [draw(2, 4, *size, seed=5, dtype=dtype), *make(dtype), draw(6, seed=6, dtype=dtype)]
    return [leaf.requires_grad_() for leaf in made]


@every_call
def test_gradients(call, make):
    assert torch.autograd.gradcheck(call, leaves(make, size=(3, 4)))
    assert torch.autograd.gradgradcheck(call, leaves(make, size=(2, 3)))


@every_call
def test_compile_and_export(call, make):
    torch.compiler.reset()
    given_ = leaves(make)
    expected = call(*given_)
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)(*given_)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(
        torch.autograd.grad(compiled.square().sum(), given_), torch.autograd.grad(expected.square().sum(), given_)
    )

    class Net(torch.nn.Module):
        def forward(self, *tensors):
            return call(*tensors)

    fixed = tuple(leaf.detach() for leaf in given_)
    torch.testing.assert_close(torch.export.export(Net(), fixed).module()(*fixed), expected)


@every_call
def test_maps(call, make):
    x, *rest = (leaf.detach() for leaf in leaves(make))
    xs = torch.stack([x, 2 * x, -x])
    torch.testing.assert_close(torch.vmap(lambda one: call(one, *rest))(xs), torch.stack([call(x, *rest) for x in xs]))


@every_call
def test_layouts_and_batches(call, make):
    x, *rest = (leaf.detach() for leaf in leaves(make))
    expected = call(x, *rest)
    assert_near(call(x[0], *rest), expected[0])
    assert call(x[:0], *rest).shape == (0, *expected.shape[1:])
    assert_near(call(x.mT.contiguous().mT, *rest), expected)
    last = call(x.to(memory_format=torch.channels_last), *rest)
    assert_near(last, expected)


@every_call
def test_autocast_and_16_bits(call, make):
    given_ = [leaf.detach() for leaf in leaves(make, torch.float32)]
    expected = call(*given_)
    with torch.autocast("cpu", torch.bfloat16):
        cast = call(*given_)
    half = call(*(leaf.bfloat16() for leaf in given_))
    assert cast.dtype == half.dtype == torch.bfloat16
    room = 0.03 * expected.abs().max().item()
    torch.testing.assert_close([cast.float(), half.float()], [expected] * 2, rtol=0, atol=room)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), KERNELS, st.data())
def test_the_nearest_separable_kernel(groups, each_in, each_out, kernel, data):
    weight = draw(groups * each_out, each_in, *kernel)
    most = min(each_in * kernel[0], each_out * kernel[1])
    rank = data.draw(st.integers(1, most))
    vertical, horizontal, error = nearest_separable(weight, rank, groups)
    rest = weight - slow_separable(vertical, horizontal, groups)
    assert error == pytest.approx(rest.norm().item(), rel=1e-9, abs=1e-12)
    # Eckart and Young, by numpy, with the matrix filled entry by entry.
    squares = 0.0
    for group in range(groups):
        matrix = np.zeros((each_in, kernel[0], each_out, kernel[1]))
        for o, c in itertools.product(range(each_out), range(each_in)):
            matrix[c, :, o] = weight[group * each_out + o, c].numpy()
        values = np.linalg.svd(matrix.reshape(each_in * kernel[0], -1), compute_uv=False)
        squares += (values[rank:] ** 2).sum()
    assert error == pytest.approx(squares**0.5, rel=1e-9, abs=1e-12)
    errors = separable_errors(weight, groups)
    assert len(errors) == most
    assert errors[rank - 1] == pytest.approx(error, rel=1e-9, abs=1e-12)


def test_a_depthwise_kernel_by_channels():
    weight = draw(8, 1, 5, 7)
    vertical, horizontal, error = nearest_separable(weight, 2, groups=8)
    assert (vertical.shape, horizontal.shape) == ((16, 1, 5, 1), (8, 2, 1, 7))
    alone = [nearest_separable(one[None], 2)[2] for one in weight]
    assert error == pytest.approx(np.linalg.norm(alone))


def test_full_rank_is_exact():
    weight = draw(6, 4, 3, 5)
    vertical, horizontal, error = nearest_separable(weight, 12)
    assert error == 0
    assert_near(separable_kernel(vertical, horizontal), weight)


@pytest.mark.parametrize("sizes", [(8, 6, 3, 3), (5, 4, 3), (6, 5, 3, 2, 3)], ids=len)
def test_cp_of_what_has_the_rank_is_exact(sizes):
    weight = slow_cp([draw(size, 3, seed=seed) for seed, size in enumerate(sizes)])
    factors, error = nearest_cp(weight, 3)
    assert error <= 1e-8 * weight.norm().item()
    assert (slow_cp(factors) - weight).norm().item() == pytest.approx(error, abs=1e-12)


@pytest.mark.parametrize("rank", [1, 3, 6, 9])
def test_of_a_matrix_it_is_the_truncated_svd(rank):
    matrix = draw(9, 6)
    error = nearest_cp(matrix, rank)[1]
    assert error == pytest.approx(np.linalg.norm(np.linalg.svd(matrix.numpy())[1][rank:]), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("rank", [1, 4, 20])
def test_what_cp_ends_in(rank):
    """The error is that of the factors, no unfolding allows for less, and no factor alone could do better."""
    weight = draw(10, 8, 3, 3)
    factors, error = nearest_cp(weight, rank)
    assert (weight - slow_cp(factors)).norm().item() == pytest.approx(error, rel=1e-9)
    norms = torch.stack([factor.norm(dim=0) for factor in factors])
    torch.testing.assert_close(norms, norms[:1].expand_as(norms))
    for axis, size in enumerate(weight.shape):
        unfolded = weight.movedim(axis, 0).reshape(size, -1).numpy()
        assert error >= np.linalg.norm(np.linalg.svd(unfolded, compute_uv=False)[rank:])
        # Least squares for one factor, all others as they are.
        others = [factor for other, factor in enumerate(factors) if other != axis]
        basis = np.stack([slow_cp([one[:, r : r + 1] for one in others]).numpy().ravel() for r in range(rank)], 1)
        best = np.linalg.lstsq(basis, unfolded.T)[0]
        assert np.linalg.norm(unfolded.T - basis @ best) >= 0.999 * error


def test_more_components_leave_less():
    weight = draw(10, 8, 3, 3)
    errors = [nearest_cp(weight, rank)[1] for rank in (1, 2, 4, 8, 16, 32, 64)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < weight.norm()


def test_components_beyond_those_needed_leave_nothing():
    """Many nearly parallel components: without the inertia the last digits of a solve are lost, 1e-7 of the norm."""
    weight = draw(8, 6, 3, 3)
    factors, error = nearest_cp(weight, 300)
    assert error <= 1e-11 * weight.norm()
    assert max(factor.abs().max() for factor in factors) < 5


def test_cp_is_the_same_every_time_and_draws_nothing():
    weight = draw(6, 5, 3, 3, dtype=torch.float32)
    state = torch.get_rng_state()
    first, second = nearest_cp(weight, 8), nearest_cp(weight.clone(), 8)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert {factor.dtype for factor in first[0]} == {torch.float32}


@pytest.mark.parametrize("weight", [torch.zeros(4, 3, 3, 3), torch.ones(4, 3, 3, 3)], ids=["zeros", "ones"])
def test_degenerate_kernels(weight):
    factors, error = nearest_cp(weight, 5)
    assert error <= 1e-9
    torch.testing.assert_close(cp_kernel(factors), weight)
    vertical, horizontal, error = nearest_separable(weight, 5)
    assert error <= 1e-9
    torch.testing.assert_close(separable_kernel(vertical, horizontal), weight)


def test_16_bits_are_factored_in_64():
    weight = draw(6, 4, 3, 3).bfloat16()
    assert nearest_separable(weight, 4)[2] == nearest_separable(weight.double(), 4)[2]
    assert nearest_separable(weight, 4)[0].dtype == nearest_cp(weight, 4)[0][0].dtype == torch.bfloat16


V, H = separable(groups=2)
X = draw(1, 4, 9, 9)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: separable_conv2d(X[0, 0], V, H, groups=2), ShapeError, "separable_conv2d: input: got shape (9, 9)"),
        (lambda: separable_conv2d(X, V[..., 0], H), ShapeError, "got vertical (6, 2, 3) and horizontal (6, 3, 1, 5)"),
        (lambda: separable_conv2d(X, V, V), ShapeError, "expected (groups R, C/groups, K_h, 1) and (D, R, 1, K_w)"),
        (lambda: separable_conv2d(X, V, H), ShapeError, "got 6 input channels, weight (6, 3, 1, 5) and groups=1"),
        (lambda: separable_conv2d(X[:, :3], V, H, groups=2), ShapeError, "got 3 input channels, weight (6, 2, 3, 1)"),
        (lambda: separable_conv2d(X, V, H, X[0, 0, 0], groups=2), ShapeError, "bias: got shape (9,), expected (6,)"),
        (lambda: separable_conv2d(X.float(), V, H, groups=2), ShapeError, "separable_conv2d: got tensors of"),
        (lambda: separable_conv2d(X, V, H, padding="full", groups=2), GeometryError, "padding: got 'full'"),
        (lambda: separable_conv2d(X, V, H, groups=2, padding_mode="wrap"), GeometryError, "padding_mode: got 'wrap'"),
        (lambda: separable_conv2d(X, V, H, groups=2, backend="fast"), BackendError, "got backend='fast'"),
        (lambda: separable_conv2d(X, V, H, dilation=9, groups=2), ShapeError, "under a kernel of extent (19, 1)"),
        (lambda: separable_kernel(V, H), ShapeError, "separable_kernel: got 6 input channels"),
        (lambda: cp_conv2d(X, cp()[:3]), ShapeError, "expected 4 matrices with one number of columns"),
        (lambda: cp_conv2d(X[:, :3], cp()), ShapeError, "cp_conv2d: got 3 input channels, expected 4, those of factor"),
        (lambda: cp_conv2d(X[0, 0], cp()), ShapeError, "cp_conv2d: input: got shape (9, 9)"),
        (lambda: cp_conv2d(X, cp(), X[0, 0, 0]), ShapeError, "cp_conv2d: bias: got shape (9,), expected (6,)"),
        (lambda: cp_conv2d(X.float(), cp()), ShapeError, "cp_conv2d: got tensors of torch.float32, torch.float64"),
        (lambda: cp_kernel([]), ShapeError, "cp_kernel: factors: got shapes [], expected 2 matrices"),
        (lambda: cp_kernel([V, V]), ShapeError, "cp_kernel: factors: got shapes"),
        (lambda: cp_kernel([torch.ones(2, 3), torch.ones(2, 2)]), ShapeError, "got shapes [(2, 3), (2, 2)]"),
        (lambda: nearest_separable(X[0], 1), ShapeError, "nearest_separable: weight: got shape (4, 9, 9) of torch.flo"),
        (lambda: nearest_separable(X.cfloat(), 1), ShapeError, "of torch.complex64, expected (D, C/groups, K_h, K_w)"),
        (lambda: nearest_separable(X, 1, groups=2), ShapeError, "groups to divide the 1 output channels"),
        (lambda: nearest_separable(X, 0), GeometryError, "nearest_separable: rank: got (0,), expected integers of at"),
        (lambda: nearest_separable(X, 10), GeometryError, "rank: got 10 for weight (1, 4, 9, 9) with groups=1, expect"),
        (lambda: nearest_cp(X[0, 0, 0], 1), ShapeError, "nearest_cp: weight: got shape (9,) of torch.float64"),
        (lambda: nearest_cp(X[:0], 1), ShapeError, "nearest_cp: weight: got shape (0, 4, 9, 9)"),
        (lambda: nearest_cp(X, 1.5), GeometryError, "nearest_cp: rank: got 1.5, expected integers"),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
