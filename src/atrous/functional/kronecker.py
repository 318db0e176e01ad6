"""Kronecker products of any number of axes, and the dense weights that sums of them make.

Legend: r rank, G groups, f factors, D channels out, C channels in, o and c the channels of one factor, K its kernel
size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any, TypeAlias

import torch

from atrous._errors import ShapeError
from atrous.functional._check import check_dtypes

Shape: TypeAlias = tuple[int, ...]
"""The shape (o, c, *K) of one factor in one group, for one product."""


def kronecker(*factors: torch.Tensor) -> torch.Tensor:
    """Multiply tensors by the Kronecker product, the first one outermost: each entry of it scales a copy of the next.

    `y[a n + b] = A[a] B[b]` on every axis, n the size of B there. Seen as kernels, a convolution with B and then one
    with A at dilation n is a convolution with y.

    Args:
        factors: tensors with the same number of axes, at least one.

    Returns:
        The product, whose sizes are the products of theirs. One factor is returned as it is.

    Raises:
        ShapeError: no factor, or different numbers of axes.

    Source: `numpy.kron`; as kernels: Huszar, Dilated convolutions and Kronecker factored convolutions, 2016.

    Example:
        >>> kronecker(torch.tensor([1, 10]), torch.tensor([1, 2, 3]))
        tensor([ 1,  2,  3, 10, 20, 30])
    """
    axes = [factor.ndim if isinstance(factor, torch.Tensor) else type(factor).__name__ for factor in factors]
    if len(set(axes)) != 1 or not isinstance(axes[0], int):
        raise ShapeError(
            f"kronecker: got factors with {axes} axes, expected at least one factor and the same number of axes in "
            "all; add axes of size 1"
        )
    return reduce(torch.kron, factors)


def kronecker_kernel(factors: Sequence[torch.Tensor], groups: int = 1) -> torch.Tensor:
    """Make the dense weight of a convolution, or of a linear layer, from its factors: a sum of r Kronecker products.

    `W[g] = sum over i of F_1[i, g] (x) ... (x) F_f[i, g]` for every group g, where F_1[i, g] are the o channels out of
    that group.

    Args:
        factors: tensors (r, groups o, c, *K), outermost first, each with an o, c and K of its own; (r, o, c) for a
            matrix.
        groups: channel groups, one after the other along the second axis of every factor, as in a convolution's weight.

    Returns:
        (D, C/groups, *K): D is groups times the product of all o; the other sizes are products over the factors.

    Raises:
        ShapeError: no factor, or factors of different ranks, dtypes or numbers of axes, or that groups does not divide.

    Source: Zhou, Wu, Wu and Zhou, Exploiting local structures with the Kronecker layer, 2015.

    Example:
        >>> kronecker_kernel([torch.ones(2, 4, 8, 1, 1), torch.ones(2, 16, 8, 3, 3)]).shape
        torch.Size([64, 64, 3, 3])
    """
    shapes = factor_shapes("kronecker_kernel", factors, groups)
    return together(add_products([by_group(factor, groups).flatten(2) for factor in factors]), shapes)


def factor_shapes(
    name: str, factors: Sequence[torch.Tensor], groups: Any, ndim: int | None = None
) -> tuple[Shape, ...]:
    """Return the shapes (o, c, *K) of factors in one group, or raise unless they fit one another and `groups`.

    `ndim` is how many axes K has, None for any number.
    """
    known = isinstance(factors, (Sequence, torch.nn.ParameterList))
    if not known or not factors or not all(isinstance(one, torch.Tensor) for one in factors):
        raise ShapeError(f"{name}: factors: got {type(factors).__name__}, expected a sequence of at least one tensor")
    given = [tuple(factor.shape) for factor in factors]
    axes = max(3, len(given[0])) if ndim is None else ndim + 3
    if any(len(shape) != axes or shape[0] != given[0][0] or 0 in shape for shape in given):
        raise ShapeError(
            f"{name}: factors: got shapes {given}, expected (r, groups o, c, *K) with the same r and {axes} axes in all"
        )
    if not isinstance(groups, int) or groups < 1 or any(shape[1] % groups for shape in given):
        raise ShapeError(
            f"{name}: factors: got shapes {given} and groups={groups}, expected groups to divide the second size of all"
        )
    check_dtypes(name, *factors)
    return tuple((shape[1] // groups, *shape[2:]) for shape in given)


def by_group(factor: torch.Tensor, groups: int) -> torch.Tensor:
    """Return a factor as (r, G, o, c, *K)."""
    return factor.reshape(len(factor), groups, -1, *factor.shape[2:])


def whole(shapes: Sequence[Shape]) -> Shape:
    """Return the shape of the Kronecker product of factors of these shapes."""
    return tuple(map(math.prod, zip(*shapes, strict=True)))


def add_products(flat: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum the r outer products of f factors (r, G, n_j): (G, n_1, ..., n_f)."""
    operands = [part for axis, one in enumerate(flat, 2) for part in (one, [0, 1, axis])]
    result: torch.Tensor = torch.einsum(*operands, [1, *range(2, len(flat) + 2)])
    return result


def together(products: torch.Tensor, shapes: Sequence[Shape]) -> torch.Tensor:
    """Put entries (G, n_1, ..., n_f), sorted by their place in each factor, where a weight (G o, c, *K) has them."""
    factors, axes = len(shapes), len(shapes[0])
    sizes = [size for shape in shapes for size in shape]
    order = [1 + factor * axes + axis for axis in range(axes) for factor in range(factors)]
    outputs, *others = whole(shapes)
    return products.reshape(-1, *sizes).permute(0, *order).reshape(len(products) * outputs, *others)


def apart(weight: torch.Tensor, shapes: Sequence[Shape], groups: int) -> torch.Tensor:
    """Sort the entries of a weight by their place in each factor: undo `together`.

    Source: the rearrangement of Van Loan and Pitsianis, Approximation with Kronecker products, 1993.
    """
    factors, axes = len(shapes), len(shapes[0])
    sizes = [shape[axis] for axis in range(axes) for shape in shapes]
    order = [1 + axis * factors + factor for factor in range(factors) for axis in range(axes)]
    return weight.reshape(groups, *sizes).permute(0, *order).reshape(groups, *map(math.prod, shapes))
