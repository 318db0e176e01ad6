"""The sums of Kronecker products that are nearest to a given weight.

Legend: r rank, G groups, f factors, D channels out, C channels in, o and c the channels of one factor, K kernel size,
n elements of one factor, m the smaller of n_1 and n_2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import torch

from atrous._errors import GeometryError, ShapeError
from atrous._geometry import integers
from atrous.functional._check import check_finite
from atrous.functional.kronecker import Shape, apart, kronecker_kernel, whole
from atrous.functional.low_rank import nearest_cp

_SWEEPS = 200
"""The most that sums of several shapes are refitted."""

_SETTLED = 1e-4
"""The share of the error that a round has to take away for another to follow."""

_LEAST_ERROR = 1e-6
"""What a search can tell from no error: it computes squares of singular values, to 1e-16 of the largest."""


def kronecker_factors(
    weight: torch.Tensor, shapes: Sequence[Sequence[int]], rank: int = 1, *, groups: int = 1
) -> tuple[tuple[torch.Tensor, ...], float]:
    """Find factors whose `kronecker_kernel` is near a weight: the nearest for two, a local optimum for more.

    Sorted by their place in each factor, the entries of a Kronecker product are an outer product. So a singular value
    decomposition gives the best two factors, and alternating least squares (`nearest_cp`) three and more.

    Args:
        weight: (D, C/groups, *K), or a matrix.
        shapes: (o, c, *K) of each factor in one group, outermost first, at least two.
        rank: r, how many products are summed.
        groups: channel groups; each is factored by itself.

    Returns:
        The factors, each (r, groups o, c, *K), all equally large in norm, and the Frobenius norm of what they leave of
        the weight: in float64, before factors are rounded to the dtype of the weight.

    Raises:
        ShapeError: shapes whose products are not that of one group of the weight.
        GeometryError: a rank below 1, or above that which meets every weight exactly.

    Source: Van Loan and Pitsianis, Approximation with Kronecker products, 1993.

    Example:
        >>> weight = kronecker_kernel([torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[1.0], [3.0]]])])
        >>> factors, error = kronecker_factors(weight, [(1, 2), (2, 1)])
        >>> torch.allclose(kronecker_kernel(factors), weight), round(error, 6)
        (True, 0.0)
    """
    return _factors("kronecker_factors", weight, shapes, rank, groups)


@overload
def nearest_kronecker(
    weight: torch.Tensor, shape: Sequence[int], rank: int = 1, *, groups: int = 1
) -> tuple[torch.Tensor, torch.Tensor, float]: ...


@overload
def nearest_kronecker(
    weight: torch.Tensor, shape: Sequence[Sequence[int]], rank: int = 1, *, groups: int = 1
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...], float]: ...


def nearest_kronecker(weight: torch.Tensor, shape: Sequence[Any], rank: int = 1, *, groups: int = 1) -> Any:
    """Find the sum of Kronecker products of two factors that is nearest to a weight, in the Frobenius norm.

    `weight ~ sum over i of A[i] (x) B[i]`, exactly the best there is. For several shapes of A, the weight is the sum of
    one such sum for each; they are fitted in turn, each to what the others leave, until the error hardly falls: a
    local optimum, no worse than the first shape alone.

    Args:
        weight: a matrix, or (D, C/groups, *K).
        shape: of A, which divides that of the weight (of one group of it); or a sequence of such shapes.
        rank: r, how many products are summed for each shape.
        groups: channel groups; each is factored by itself.

    Returns:
        A (r, *shape), B (r, *rest) and the Frobenius norm of what they leave of the weight; groups stand one after the
        other along the second axis of both. For several shapes a tuple of A, a tuple of B, and the norm.

    Raises:
        ShapeError: a shape that does not divide the weight's.
        GeometryError: a rank below 1, or above that which meets every weight exactly.

    Source: Van Loan and Pitsianis, Approximation with Kronecker products, 1993; shapes that differ: Zhou et al. 2015.

    Example:
        >>> A, B, error = nearest_kronecker(torch.eye(6), (2, 2))
        >>> A.shape, B.shape, round(error, 6)
        (torch.Size([1, 2, 2]), torch.Size([1, 3, 3]), 0.0)
    """
    if not isinstance(shape, Sequence):
        raise ShapeError(f"nearest_kronecker: shape: got {shape!r}, expected a sequence of integers, or of such shapes")
    if not (shape and all(isinstance(one, Sequence) for one in shape)):
        pair, error = _pair(weight, shape, rank, groups)
        return *pair, error
    pairs: dict[int, tuple[torch.Tensor, ...]] = {}
    error = before = math.inf
    for _ in range(_SWEEPS):
        for place, one in enumerate(shape):
            others = [kronecker_kernel(pair, groups) for index, pair in pairs.items() if index != place]
            pairs[place], error = _pair(weight.detach().double() - sum(others), one, rank, groups)
        if error >= before * (1 - _SETTLED):
            break
        before = error
    columns = zip(*pairs.values(), strict=True)
    return *(tuple(one.to(weight.dtype) for one in column) for column in columns), error


@dataclass(frozen=True, eq=False)
class KroneckerChoice:
    """Hold what `choose_kronecker` found.

    Args:
        shapes: of A and of B, in each group.
        rank: how many products are summed.
        parameters: of A and B together.
        error: Frobenius norm of what they leave of the weight, over that of the weight.
        A: (rank, *shapes[0]), the outer factors; groups one after the other along the second axis.
        B: (rank, *shapes[1]), the inner factors.

    Example:
        >>> choose_kronecker(torch.zeros(4, 9), parameters=12)
        KroneckerChoice(shapes=((2, 3), (2, 3)), rank=1, parameters=12, error=0.0)
    """

    shapes: tuple[Shape, Shape]
    rank: int
    parameters: int
    error: float
    A: torch.Tensor = field(repr=False)
    B: torch.Tensor = field(repr=False)


def choose_kronecker(
    weight: torch.Tensor, *, parameters: int | None = None, error: float | None = None, groups: int = 1
) -> KroneckerChoice:
    """Search all shapes and ranks of two Kronecker factors for the best within a budget.

    Args:
        weight: a matrix, or (D, C/groups, *K).
        parameters: the most that A and B may have together; the smallest error is sought, then the fewest parameters.
        error: the most that the Frobenius norm of the rest may be, over that of the weight, from 1e-6 to 1; the fewest
            parameters are sought, then the smallest error. Give this or `parameters`.
        groups: channel groups; each is factored by itself, all with one shape and rank.

    Returns:
        Shapes, rank and factors. What would make A or B a single number is no candidate.

    Raises:
        GeometryError: both budgets or none, or one that cannot be met.
        ShapeError: a weight that groups does not divide, or that is no product of others.

    Source: Zhou et al. 2015 choose shapes by hand; Van Loan and Pitsianis 1993 give the error of each.

    Example:
        >>> a, b = torch.arange(1.0, 33).reshape(1, 4, 2, 2, 2), torch.arange(1.0, 73).reshape(1, 2, 4, 3, 3)
        >>> choice = choose_kronecker(kronecker_kernel([a, b]), error=0.01)
        >>> choice.shapes, choice.rank, choice.parameters
        (((4, 2, 2, 2), (2, 4, 3, 3)), 1, 104)
    """
    _check_budget(parameters, error)
    block = _block("choose_kronecker", weight, groups)
    tensor = weight.detach().double()
    norm = tensor.norm().item()
    found: list[tuple[tuple[float, float], tuple[Shape, Shape], int]] = []
    most = math.inf if parameters is None else parameters
    for each, shapes in shape_pairs(block, groups, most):
        if each > most:
            break
        tails = squared_errors(apart(tensor, shapes, groups), (_LEAST_ERROR * norm) ** 2)
        goal = (error * norm) ** 2 if error is not None else tails[min(len(tails) - 1, int(most) // each)]
        rank = next(rank for rank, tail in enumerate(tails) if rank and tail <= goal)
        size = rank * each
        found.append(((tails[rank], size) if error is None else (size, tails[rank]), shapes, rank))
        if error is not None:
            most = min(most, size)
    _, shapes, rank = min(found)
    pair, left = _factors("choose_kronecker", weight, shapes, rank, groups)
    return KroneckerChoice(shapes, rank, sum(one.numel() for one in pair), left / norm if norm else 0.0, *pair)


def _pair(weight: torch.Tensor, shape: Sequence[int], rank: int, groups: int) -> tuple[tuple[torch.Tensor, ...], float]:
    block = _block("nearest_kronecker", weight, groups)
    outer = integers("nearest_kronecker: shape", shape, len(block), 1)
    inner = tuple(size // part for size, part in zip(block, outer, strict=True))
    return _factors("nearest_kronecker", weight, (outer, inner), rank, groups)


def _factors(
    name: str, weight: torch.Tensor, shapes: Sequence[Sequence[int]], rank: int, groups: int
) -> tuple[tuple[torch.Tensor, ...], float]:
    block = _block(name, weight, groups)
    parts = [integers(f"{name}: shape", shape, len(block), 1) for shape in shapes]
    if len(parts) < 2 or whole(parts) != block:
        raise ShapeError(
            f"{name}: got shapes {parts}, expected at least two whose product is {block}, the shape of the weight in "
            "one group; choose sizes that divide it"
        )
    sizes = [math.prod(shape) for shape in parts]
    full = math.prod(sizes) // max(sizes)
    (rank,) = integers(f"{name}: rank", rank, 1, 1)
    if rank > full:
        raise GeometryError(f"{name}: rank: got {rank}, expected at most {full}, which meets every weight exactly")
    tensor = apart(weight.detach().double(), parts, groups)
    flat, error = _truncate(tensor, rank) if len(parts) == 2 else _alternate(tensor, rank)
    columns = zip(flat, parts, strict=True)
    return tuple(one.to(weight.dtype).reshape(rank, -1, *shape[1:]).contiguous() for one, shape in columns), error


def _truncate(matrix: torch.Tensor, rank: int) -> tuple[list[torch.Tensor], float]:
    """Return the r leading singular vectors of (G, n_1, n_2), each (r, G, n), and the norm of the rest."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    roots = values[:, :rank].sqrt()
    flat = [left[..., :rank] * roots[:, None], right.mT[..., :rank] * roots[:, None]]
    return [one.permute(2, 0, 1) for one in flat], values[:, rank:].norm().item()


def _alternate(tensor: torch.Tensor, rank: int) -> tuple[list[torch.Tensor], float]:
    """Return factors (r, G, n) of r products near (G, n_1, ..., n_f), group by group, and the norm of the rest."""
    found = [nearest_cp(group, rank) for group in tensor]
    columns = zip(*(factors for factors, _ in found), strict=True)
    return [torch.stack(column).permute(2, 0, 1) for column in columns], math.hypot(*(error for _, error in found))


def squared_errors(matrix: torch.Tensor, floor: float) -> list[float]:
    """Return the squared norms that the nearest 0, 1, ..., m products leave of (G, n_1, n_2); up to `floor` it is 0."""
    rows = matrix if matrix.shape[1] <= matrix.shape[2] else matrix.mT
    squares = torch.linalg.eigvalsh(rows @ rows.mH).clamp(min=0).sum(0)
    tails = torch.nn.functional.pad(squares.cumsum(0), (1, 0)).flip(0)
    result: list[float] = torch.where(tails > floor, tails, 0).tolist()
    return result


def shape_pairs(block: Shape, groups: int, most: float) -> list[tuple[int, tuple[Shape, Shape]]]:
    """Return the shapes of two factors that are no numbers, and the parameters of one product, the fewest first."""
    found = []
    for outer in itertools.product(*([part for part in range(1, size + 1) if size % part == 0] for size in block)):
        inner = tuple(size // part for size, part in zip(block, outer, strict=True))
        sizes = math.prod(outer), math.prod(inner)
        if 1 not in sizes:
            found.append((groups * sum(sizes), (outer, inner)))
    if not found:
        raise ShapeError(
            f"choose_kronecker: got {block} in one group, expected a shape that is a product of two others"
        )
    found.sort()
    if found[0][0] > most:
        raise GeometryError(
            f"choose_kronecker: parameters: got {most}, expected at least {found[0][0]}, those of the smallest factors"
        )
    return found


def _check_budget(parameters: int | None, error: float | None) -> None:
    if (parameters is None) == (error is None):
        raise GeometryError(
            f"choose_kronecker: got parameters={parameters} and error={error}, expected exactly one of them"
        )
    if parameters is not None:
        integers("choose_kronecker: parameters", parameters, 1, 1)
    elif not (isinstance(error, float | int) and _LEAST_ERROR <= error <= 1):
        raise GeometryError(f"choose_kronecker: error: got {error!r}, expected a number from {_LEAST_ERROR} to 1")


def _block(name: str, weight: torch.Tensor, groups: int) -> Shape:
    """Return the shape of one group of a weight, or raise unless it is a matrix or a kernel."""
    fits = weight.ndim >= 2 and weight.numel() and weight.is_floating_point()
    if not fits or not isinstance(groups, int) or groups < 1 or weight.shape[0] % groups:
        raise ShapeError(
            f"{name}: weight: got shape {tuple(weight.shape)} of {weight.dtype} and groups={groups}, expected "
            "(D, C/groups, *K) of real numbers, and groups to divide D"
        )
    check_finite(name, weight)
    return weight.shape[0] // groups, *weight.shape[1:]
