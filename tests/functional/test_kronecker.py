import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous import ShapeError, functional
from atrous.functional.kronecker import apart, together


@st.composite
def arrays(draw):
    axes, count = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    generator = np.random.default_rng(draw(st.integers(0, 9)))
    return [generator.normal(size=draw(st.tuples(*[st.integers(1, 3)] * axes))) for _ in range(count)]


@given(arrays())
@settings(deadline=None, max_examples=50)
def test_it_is_numpys(factors):
    expected = factors[0]
    for factor in factors[1:]:
        expected = np.kron(expected, factor)
    result = functional.kronecker(*map(torch.from_numpy, factors))
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-14)


def test_one_factor_is_itself():
    factor = torch.randn(2, 3)
    assert functional.kronecker(factor) is factor


def test_its_derivatives():
    factors = [torch.randn(2, 3, dtype=torch.double, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(functional.kronecker, factors)
    assert torch.autograd.gradgradcheck(functional.kronecker, factors[:2])


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_kernel_is_a_sum_of_numpys_products_in_every_group(data):
    axes, count, rank, groups = (data.draw(st.integers(low, 3)) for low in (0, 1, 1, 1))
    shapes = [data.draw(st.tuples(*[st.integers(1, 3)] * (2 + axes))) for _ in range(count)]
    factors = [torch.randn(rank, groups * shape[0], *shape[1:], dtype=torch.double) for shape in shapes]
    result = functional.kronecker_kernel(factors, groups)
    blocks = []
    for group in range(groups):
        total = 0
        for term in range(rank):
            product = np.ones([1] * (2 + axes))
            for factor, shape in zip(factors, shapes, strict=True):
                part = factor[term, group * shape[0] : (group + 1) * shape[0]]
                product = np.kron(product, part.numpy())
            total = total + product
        blocks.append(total)
    np.testing.assert_allclose(result.numpy(), np.concatenate(blocks), rtol=1e-13, atol=1e-13)


def test_kernel_of_a_linear_layer():
    a, b = torch.randn(1, 2, 3), torch.randn(1, 4, 5)
    torch.testing.assert_close(functional.kronecker_kernel([a, b]), torch.kron(a[0], b[0]))


def test_kernels_derivatives():
    shapes = (2, 4, 1, 2), (2, 2, 2, 3), (2, 2, 1, 2)
    factors = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *leaves: functional.kronecker_kernel(leaves, 2), factors)


def test_kernel_compiles_and_maps():
    torch.compiler.reset()
    factors = torch.randn(2, 4, 1, 3), torch.randn(2, 2, 2, 3)
    expected = functional.kronecker_kernel(factors, 2)
    compiled = torch.compile(lambda a, b: functional.kronecker_kernel([a, b], 2), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*factors), expected)
    stack = torch.stack([factors[0], 2 * factors[0]])
    mapped = torch.vmap(lambda a: functional.kronecker_kernel([a, factors[1]], 2))(stack)
    torch.testing.assert_close(mapped, torch.stack([expected, 2 * expected]))


def test_apart_undoes_together():
    shapes = (2, 3, 1, 5), (3, 1, 2, 2), (1, 2, 2, 1)
    products = torch.randn(4, 30, 12, 4)
    weight = together(products, shapes)
    assert weight.shape == (24, 6, 4, 10)
    assert torch.equal(apart(weight, shapes, 4), products)


def test_dilated_kernels_convolve_to_the_product():
    """Kernels of a x a pixels with dilations 1, a, a^2, and the most dilated one outermost."""
    kernels = [torch.randn(3, 3, dtype=torch.double) for _ in range(3)]
    whole = torch.ones(1, 1, dtype=torch.double)
    for power, kernel in enumerate(kernels):
        whole = functional.dilated_convolve(whole, kernel, 3**power)
    product = functional.kronecker(*reversed(kernels))
    torch.testing.assert_close(whole, product, rtol=1e-12, atol=1e-12)
    assert (whole - functional.kronecker(*kernels)).abs().max() > 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: functional.kronecker(), "kronecker: got factors with [] axes, expected at least one factor"),
        (
            lambda: functional.kronecker(torch.ones(2), torch.ones(1, 2)),
            "got factors with [1, 2] axes, expected at least one factor and the same number of axes in all; add axes",
        ),
        (
            lambda: functional.kronecker_kernel([]),
            "kronecker_kernel: factors: got list, expected a sequence of at least",
        ),
        (lambda: functional.kronecker_kernel(torch.ones(1, 1, 1)), "factors: got Tensor, expected a sequence of at"),
        (
            lambda: functional.kronecker_kernel([torch.ones(1, 2, 2), torch.ones(2, 2, 2)]),
            "factors: got shapes [(1, 2, 2), (2, 2, 2)], expected (r, groups o, c, *K) with the same r and 3 axes in",
        ),
        (lambda: functional.kronecker_kernel([torch.ones(1, 2)]), "expected (r, groups o, c, *K) with the same r and"),
        (lambda: functional.kronecker_kernel([torch.ones(0, 2, 2)]), "got shapes [(0, 2, 2)], expected"),
        (
            lambda: functional.kronecker_kernel([torch.ones(1, 3, 2)], 2),
            "factors: got shapes [(1, 3, 2)] and groups=2, expected groups to divide the second size of all",
        ),
        (lambda: functional.kronecker_kernel([torch.ones(1, 3, 2)], 0), "and groups=0, expected groups to divide"),
        (
            lambda: functional.kronecker_kernel([torch.ones(1, 2, 2), torch.ones(1, 2, 2).double()]),
            "kronecker_kernel: got tensors of torch.float32, torch.float64, expected one dtype",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        call()


def test_factors_are_tensors():
    with pytest.raises(ShapeError, match=r"kronecker: got factors with \['int', 'int'\] axes"):
        functional.kronecker(3, 2)
