import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous import GeometryError, ShapeError, functional


def rest_of(weight, factors, groups=1):
    return (weight.double() - functional.kronecker_kernel([one.double() for one in factors], groups)).norm().item()


def rearranged(weight, shape):
    """Return the matrix with a row for each entry of A and a column for each of B, entry by entry."""
    rest = [size // part for size, part in zip(weight.shape, shape, strict=True)]
    rows = [
        [
            weight[tuple(a * size + b for a, b, size in zip(outer, inner, rest, strict=True))]
            for inner in np.ndindex(*rest)
        ]
        for outer in np.ndindex(*shape)
    ]
    return np.array(rows)


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_the_error_is_that_of_the_singular_values(data):
    axes = data.draw(st.integers(2, 5))
    outer, inner = ([data.draw(st.integers(1, 3 if axes < 4 else 2)) for _ in range(axes)] for _ in "ab")
    weight = torch.randn([a * b for a, b in zip(outer, inner, strict=True)], dtype=torch.double)
    values = np.linalg.svd(rearranged(weight.numpy(), outer), compute_uv=False)
    rank = data.draw(st.integers(1, len(values)))
    *pair, error = functional.nearest_kronecker(weight, outer, rank)
    assert [one.shape for one in pair] == [(rank, *outer), (rank, *inner)]
    expected = math.sqrt((values[rank:] ** 2).sum())
    assert abs(error - expected) <= 1e-12 * weight.norm()
    assert abs(rest_of(weight, pair) - expected) <= 1e-12 * weight.norm()


@pytest.mark.parametrize("shape", [(2, 4), (8, 1), (1, 2, 3, 1)])
def test_products_are_found_again(shape):
    inner = (3, 2, 2, 3)[: len(shape)]
    a, b = torch.randn(1, *shape), torch.randn(1, *inner)
    weight = functional.kronecker(a[0], b[0])
    *pair, error = functional.nearest_kronecker(weight, shape)
    assert error < 1e-6 * weight.norm()
    assert pair[0].dtype == torch.float32
    torch.testing.assert_close(functional.kronecker_kernel(pair), weight)
    torch.testing.assert_close(pair[0].norm(), pair[1].norm())


def test_groups_are_factored_each_by_itself():
    weight = torch.randn(6, 4, 6, dtype=torch.double)
    *pair, error = functional.nearest_kronecker(weight, (1, 2, 3), 2, groups=3)
    assert [one.shape for one in pair] == [(2, 3, 2, 3), (2, 6, 2, 2)]
    parts = [functional.nearest_kronecker(block, (1, 2, 3), 2) for block in weight.split(2)]
    torch.testing.assert_close(
        functional.kronecker_kernel(pair, 3),
        torch.cat([functional.kronecker_kernel([a, b]) for a, b, _ in parts]),
    )
    assert error == pytest.approx(math.hypot(*(part[2] for part in parts)))


def test_several_shapes_add_up():
    shapes = [(2, 3), (6, 1)]
    terms = [
        (torch.randn(1, *shape).double(), torch.randn(1, 12 // shape[0], 12 // shape[1]).double()) for shape in shapes
    ]
    weight = sum(functional.kronecker_kernel(pair) for pair in terms)
    outer, inner, error = functional.nearest_kronecker(weight, shapes)
    assert [tuple(one.shape[1:]) for one in outer] == shapes
    left = weight - sum(functional.kronecker_kernel(pair) for pair in zip(outer, inner, strict=True))
    assert left.norm().item() == pytest.approx(error, abs=1e-12)
    best_alone = min(functional.nearest_kronecker(weight, shape)[2] for shape in shapes)
    assert error < 0.01 * weight.norm() < best_alone
    outer, _, error = functional.nearest_kronecker(torch.randn(12, 12, dtype=torch.bfloat16), [(2, 3)])
    assert outer[0].dtype == torch.bfloat16
    assert error > 0


def test_a_gradient_does_not_follow():
    weight = torch.randn(4, 4, requires_grad=True)
    assert not functional.nearest_kronecker(weight, (2, 2))[0].requires_grad


@pytest.mark.parametrize(("rank", "groups"), [(1, 1), (2, 1), (1, 3)])
def test_three_factors_are_found_again(rank, groups):
    generator = torch.Generator().manual_seed(rank)
    shapes = (2, 1, 3, 2), (1, 2, 2, 2), (2, 2, 1, 2)
    made = [torch.randn(rank, groups * o, *more, generator=generator, dtype=torch.double) for o, *more in shapes]
    weight = functional.kronecker_kernel(made, groups)
    factors, error = functional.kronecker_factors(weight, shapes, rank, groups=groups)
    assert [factor.shape for factor in factors] == [one.shape for one in made]
    assert rest_of(weight, factors, groups) == pytest.approx(error, abs=1e-12)
    assert error < 1e-3 * weight.norm()


def test_more_products_of_three_factors_are_nearer():
    weight = torch.randn(8, 8, 27, generator=torch.Generator().manual_seed(0))
    shapes = ((2, 2, 3),) * 3
    errors = [functional.kronecker_factors(weight, shapes, rank)[1] for rank in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.95 * errors[0]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("budget", [{"parameters": 30}, {"parameters": 60}, {"error": 0.6}, {"error": 0.2}], ids=str)
def test_the_choice_is_the_best_of_all(budget, groups):
    weight = torch.randn(4, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    whole = 4 // groups, 6, 4
    found = []
    for shape in itertools.product(*([d for d in range(1, size + 1) if size % d == 0] for size in whole)):
        sizes = math.prod(shape), math.prod(whole) // math.prod(shape)
        if 1 in sizes:
            continue
        for rank in range(1, min(sizes) + 1):
            error = functional.nearest_kronecker(weight, shape, rank, groups=groups)[2] / weight.norm().item()
            found.append((groups * rank * sum(sizes), error))
    choice = functional.choose_kronecker(weight, **budget, groups=groups)
    if "parameters" in budget:
        best = min(error for count, error in found if count <= budget["parameters"])
        assert choice.parameters <= budget["parameters"]
        assert choice.error == pytest.approx(best)
    else:
        assert choice.parameters == min(count for count, error in found if error <= budget["error"])
        assert choice.error <= budget["error"]
    assert choice.parameters == choice.A.numel() + choice.B.numel()
    assert choice.error == pytest.approx(rest_of(weight, (choice.A, choice.B), groups) / weight.norm().item())
    assert choice.A.shape == (choice.rank, groups * choice.shapes[0][0], *choice.shapes[0][1:])


def test_of_what_fits_exactly_the_smallest_is_chosen():
    a, b = torch.randn(1, 2, 3, 3).double(), torch.randn(1, 4, 2, 1).double()
    weight = functional.kronecker_kernel([a, b])
    for budget in ({"parameters": 10**6}, {"error": 1e-6}):
        choice = functional.choose_kronecker(weight, **budget)
        assert (choice.shapes, choice.rank) == (((2, 3, 3), (4, 2, 1)), 1)
        assert choice.error < 1e-12


def test_nothing_is_nearest_to_zero():
    choice = functional.choose_kronecker(torch.zeros(4, 4), error=0.1)
    assert choice.error == 0
    assert not functional.kronecker_kernel([choice.A, choice.B]).any()


W = torch.ones(4, 6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: functional.nearest_kronecker(W, (3, 2)), ShapeError, "nearest_kronecker: got shapes [(3, 2), (1, 3)]"),
        (lambda: functional.nearest_kronecker(W, (2, 2), 5), GeometryError, "nearest_kronecker: rank: got 5, expected"),
        (lambda: functional.nearest_kronecker(W, (2, 2), 0), GeometryError, "nearest_kronecker: rank: got (0,)"),
        (lambda: functional.nearest_kronecker(W, (2, 2, 2)), GeometryError, "nearest_kronecker: shape: got 3 entries"),
        (lambda: functional.nearest_kronecker(W, ()), GeometryError, "nearest_kronecker: shape: got 0 entries"),
        (lambda: functional.nearest_kronecker(W, (0, 2)), GeometryError, "shape: got (0, 2), expected integers of at"),
        (lambda: functional.nearest_kronecker(W, (2, 2), groups=3), ShapeError, "weight: got shape (4, 6) of torch.f"),
        (lambda: functional.nearest_kronecker(W[0], (2,)), ShapeError, "nearest_kronecker: weight: got shape (6,) of"),
        (lambda: functional.nearest_kronecker(W.long(), (2, 2)), ShapeError, "of torch.int64 and groups=1, expected"),
        (lambda: functional.kronecker_factors(W, [(4, 6)]), ShapeError, "kronecker_factors: got shapes [(4, 6)], exp"),
        (lambda: functional.kronecker_factors(W, [(4, 6), (1, 2)]), ShapeError, "whose product is (4, 6), the shape"),
        (lambda: functional.choose_kronecker(W), GeometryError, "got parameters=None and error=None, expected exactly"),
        (lambda: functional.choose_kronecker(W, parameters=9, error=0.1), GeometryError, "expected exactly one of"),
        (lambda: functional.choose_kronecker(W, parameters=3), GeometryError, "parameters: got 3, expected at least 1"),
        (lambda: functional.choose_kronecker(W, parameters=0), GeometryError, "parameters: got (0,), expected"),
        (lambda: functional.choose_kronecker(W, error=2), GeometryError, "error: got 2, expected a number from 1e-06"),
        (lambda: functional.choose_kronecker(W, error=1e-9), GeometryError, "error: got 1e-09, expected a number from"),
        (lambda: functional.choose_kronecker(W[:1, :5], error=0.1), ShapeError, "got (1, 5) in one group, expected a"),
    ],
)  # fmt: skip
def test_messages(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


@pytest.mark.parametrize("fill", [float("nan"), float("inf"), None])
def test_a_weight_without_numbers_is_refused(fill):
    weight = torch.empty(4, 4, device="meta") if fill is None else torch.full((4, 4), fill)
    calls = {
        "nearest_kronecker": lambda: functional.nearest_kronecker(weight, (2, 2)),
        "kronecker_factors": lambda: functional.kronecker_factors(weight, [(2, 2), (2, 2)]),
        "choose_kronecker": lambda: functional.choose_kronecker(weight, parameters=8),
        "nearest_cp": lambda: functional.nearest_cp(weight, 1),
        "nearest_separable": lambda: functional.nearest_separable(weight[:, :, None, None], 1),
    }
    for name, call in calls.items():
        with pytest.raises(ShapeError, match=rf"{name}: weight: got entries that are not finite or have no values"):
            call()


def test_a_shape_is_a_sequence():
    with pytest.raises(ShapeError, match=r"nearest_kronecker: shape: got 2, expected a sequence of integers"):
        functional.nearest_kronecker(torch.ones(4, 4), 2)
