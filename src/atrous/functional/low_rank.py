"""Kernels of low rank: sums of products of smaller kernels, run as chains of them, and the nearest ones to a kernel.

Legend: B batch, C channels in, D channels out, G groups, R rank, K kernel size, P output size, N axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from atrous._errors import GeometryError, ShapeError
from atrous._geometry import Geometry, Ints, Padding, integers
from atrous.functional._check import check_bias, check_dtypes, check_finite, check_groups, check_input, resolve
from atrous.functional.conv import conv2d

_SWEEPS = 200
"""The most that `nearest_cp` goes through all factors; few kernels take so many."""

_SETTLED = 1e-4
"""The share of the error that a sweep has to take away for another to follow."""

_INERTIA = 1e-9
"""The weight of where a factor was against where it is drawn to, so that parallel components cannot blow up."""


def separable_conv2d(
    input: torch.Tensor,
    vertical: torch.Tensor,
    horizontal: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    backend: str | None = None,
) -> torch.Tensor:
    """Correlate an image with a spatially separable kernel: down its columns first, then along its rows.

    `w[o, c, i, j] = sum over r of vertical[r, c, i] horizontal[o, r, j]` in each group. The output is that of `conv2d`
    with this kernel, borders, stride and padding mode included, as both axes are padded where they are convolved. With
    one channel in a group the kernel of every channel has rank R; otherwise channels are mixed on the way too.

    Not to be confused with what Keras calls separable: a depthwise convolution, then a pointwise one.

    Args:
        input: (B, C, H, W) or (C, H, W).
        vertical: (G R, C/G, K_h, 1).
        horizontal: (D, R, 1, K_w).
        bias: (D,) or None.
        stride: one integer, or one per axis.
        padding: as in `conv1d`, one entry, or one per axis; words are resolved for (K_h, K_w).
        dilation: one integer, or one per axis.
        groups: G.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        backend: None chooses for each of the two; a name is that of both.

    Returns:
        (B, D, P_h, P_w) or (D, P_h, P_w).

    Raises:
        ShapeError: tensors that do not fit.
        GeometryError: a geometry that cannot be.
        BackendError: a backend that is unknown or cannot run this call.

    Source: Jaderberg, Vedaldi and Zisserman, Speeding up convolutional neural networks with low rank expansions, BMVC
    2014, scheme 2.

    Example:
        >>> column, row = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])
        >>> sobel = column.reshape(1, 1, 3, 1), row.reshape(1, 1, 1, 3)
        >>> separable_conv2d(torch.arange(16.0).reshape(1, 4, 4), *sobel)
        tensor([[[8., 8.],
                 [8., 8.]]])
    """
    name = "separable_conv2d"
    _check_separable(name, vertical, horizontal, groups)
    check_input(name, input, 2)
    check_groups(name, input.shape[-3], vertical, groups)
    check_bias(name, bias, horizontal.shape[0])
    check_dtypes(name, input, vertical, horizontal, bias)
    geometry = resolve((vertical.shape[2], horizontal.shape[3]), stride, padding, dilation, 2)
    options: Any = {"groups": groups, "padding_mode": padding_mode, "backend": backend}
    hidden = conv2d(input, vertical, **_along(geometry, 0), **options)
    return conv2d(hidden, horizontal, bias, **_along(geometry, 1), **options)


def separable_kernel(vertical: torch.Tensor, horizontal: torch.Tensor, groups: int = 1) -> torch.Tensor:
    """Return the dense kernel of `separable_conv2d`, differentiable in both factors.

    Args:
        vertical: (G R, C/G, K_h, 1).
        horizontal: (D, R, 1, K_w).
        groups: G.

    Returns:
        (D, C/G, K_h, K_w).

    Raises:
        ShapeError: factors that do not fit.

    Source: Jaderberg, Vedaldi and Zisserman 2014, scheme 2.

    Example:
        >>> separable_kernel(torch.tensor([1.0, 2.0]).reshape(1, 1, 2, 1), torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2))
        tensor([[[[3., 4.],
                  [6., 8.]]]])
    """
    _check_separable("separable_kernel", vertical, horizontal, groups)
    (_, channels, height, _), (outputs, rank, _, width) = vertical.shape, horizontal.shape
    columns = vertical.reshape(groups, rank, channels, height)
    rows = horizontal.reshape(groups, outputs // groups, rank, width)
    return torch.einsum("grci,gorj->gocij", columns, rows).flatten(0, 1)


def nearest_separable(weight: torch.Tensor, rank: int, groups: int = 1) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Find the spatially separable kernel of a rank that is nearest to a kernel, in the sum of squares.

    In each group the kernel is a matrix with C/G K_h rows and D/G K_w columns, and a separable one of rank R is a
    matrix of rank R; so the first R singular vectors are the answer. Each factor gets the root of every singular value.

    Args:
        weight: (D, C/G, K_h, K_w), of real numbers.
        rank: R, in each group, at most the smaller of C/G K_h and D/G K_w, which is exact.
        groups: G.

    Returns:
        (G R, C/G, K_h, 1), (D, R, 1, K_w), and the Frobenius norm of what is left, the root of the sum of the squares
        of all other singular values.

    Raises:
        ShapeError: a weight that is no kernel of real numbers in as many groups.
        GeometryError: a rank that cannot be.

    Source: Tai, Xiao, Zhang, Wang and E, Convolutional neural networks with low-rank regularization, ICLR 2016, eq. 5.

    Example:
        >>> vertical, horizontal, error = nearest_separable(torch.eye(3).reshape(1, 1, 3, 3), rank=2)
        >>> vertical.shape, horizontal.shape, round(error, 6)
        (torch.Size([2, 1, 3, 1]), torch.Size([1, 2, 1, 3]), 1.0)
    """
    folded = _fold("nearest_separable", weight, groups)
    (rank,) = integers("nearest_separable: rank", rank, 1, 1)
    most = min(folded.shape[1:])
    if rank > most:
        raise GeometryError(
            f"nearest_separable: rank: got {rank} for weight {tuple(weight.shape)} with groups={groups}, expected at "
            f"most {most}, which is exact"
        )
    left, values, right = torch.linalg.svd(folded, full_matrices=False)
    roots = values[:, None, :rank].sqrt()
    outputs, channels, height, width = weight.shape
    vertical = (left[..., :rank] * roots).mT.reshape(groups * rank, channels, height, 1)
    rows = (right[:, :rank].mT * roots).reshape(outputs, width, rank)
    horizontal = rows.mT.reshape(outputs, rank, 1, width)
    return vertical.to(weight.dtype), horizontal.to(weight.dtype), values[:, rank:].norm().item()


def separable_errors(weight: torch.Tensor, groups: int = 1) -> list[float]:
    """Return the error of `nearest_separable` for every rank from 1 on, from one list of singular values."""
    squares = torch.linalg.svdvals(_fold("separable_errors", weight, groups)).square().sum(0)
    left = squares.flip(0).cumsum(0).flip(0).sqrt().tolist()
    return [*left[1:], 0.0]


def cp_conv2d(
    input: torch.Tensor,
    factors: Sequence[torch.Tensor],
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    *,
    padding_mode: str = "zeros",
    backend: str | None = None,
) -> torch.Tensor:
    """Correlate an image with a kernel in CP form, in four steps: 1 x 1, K_h x 1 and 1 x K_w depthwise, 1 x 1.

    `w[o, c, i, j] = sum over r of a[o, r] b[c, r] u[i, r] v[j, r]`. The output is that of `conv2d` with this kernel,
    borders, stride and padding mode included.

    Args:
        input: (B, C, H, W) or (C, H, W).
        factors: a (D, R), b (C, R), u (K_h, R) and v (K_w, R).
        bias: (D,) or None.
        stride: one integer, or one per axis.
        padding: as in `conv1d`, one entry, or one per axis; words are resolved for (K_h, K_w).
        dilation: one integer, or one per axis.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        backend: None chooses for each step; a name is that of all.

    Returns:
        (B, D, P_h, P_w) or (D, P_h, P_w).

    Raises:
        ShapeError: tensors that do not fit.
        GeometryError: a geometry that cannot be.
        BackendError: a backend that is unknown or cannot run this call.

    Source: Lebedev, Ganin, Rakhuba, Oseledets and Lempitsky, Speeding-up convolutional neural networks using
    fine-tuned CP-decomposition, ICLR 2015, eq. 3 to 6.

    Example:
        >>> factors = [torch.ones(size, 2) for size in (5, 3, 3, 3)]
        >>> cp_conv2d(torch.ones(1, 3, 8, 8), factors, padding="same").shape
        torch.Size([1, 5, 8, 8])
    """
    name = "cp_conv2d"
    _check_factors(name, factors, 4)
    outputs, inputs, rows, columns = factors
    check_input(name, input, 2)
    if input.shape[-3] != inputs.shape[0]:
        raise ShapeError(f"{name}: got {input.shape[-3]} input channels, expected {inputs.shape[0]}, those of factor 1")
    check_bias(name, bias, outputs.shape[0])
    check_dtypes(name, input, *factors, bias)
    geometry = resolve((rows.shape[0], columns.shape[0]), stride, padding, dilation, 2)
    each: Any = {"groups": rows.shape[1], "padding_mode": padding_mode, "backend": backend}
    hidden = conv2d(input, inputs.t()[:, :, None, None], backend=backend)
    hidden = conv2d(hidden, rows.t()[:, None, :, None], **_along(geometry, 0), **each)
    hidden = conv2d(hidden, columns.t()[:, None, None, :], **_along(geometry, 1), **each)
    return conv2d(hidden, outputs[:, :, None, None], bias, backend=backend)


def cp_kernel(factors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the tensor that factors in CP form stand for: `w[i, j, ...] = sum over r of a[i, r] b[j, r] ...`.

    Args:
        factors: (size, R), one for each axis, two at least.

    Returns:
        A tensor of these sizes, differentiable in every factor.

    Raises:
        ShapeError: fewer factors, or of other shapes.

    Source: Kolda and Bader, Tensor decompositions and applications, SIAM Review 2009, section 3.

    Example:
        >>> cp_kernel([torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]])])
        tensor([[3., 4.],
                [6., 8.]])
    """
    _check_factors("cp_kernel", factors, max(2, len(factors)))
    rest = factors[-1]
    for factor in reversed(factors[1:-1]):
        rest = (factor[:, None] * rest).flatten(0, 1)
    return (factors[0] @ rest.t()).reshape([factor.shape[0] for factor in factors])


def nearest_cp(weight: torch.Tensor, rank: int) -> tuple[list[torch.Tensor], float]:
    """Find factors in CP form of a rank that are near to a tensor, in the sum of squares.

    Alternating least squares: each factor in turn becomes the best one for all others, until a sweep gains less than
    1e-4 of the error, or after 200. It starts from the singular vectors along each axis, and from columns of fixed
    random numbers where the rank is above the size; so the same tensor has the same factors. What it ends in may be a
    local optimum; but for two axes, no method finds the nearest for sure. All factors of a component have one norm.

    Args:
        weight: real numbers, two axes at least; a kernel is (D, C, *K).
        rank: R, the number of components.

    Returns:
        One factor (size, R) for each axis, and the Frobenius norm of what is left.

    Raises:
        ShapeError: a tensor of fewer axes, without entries, or of other numbers.
        GeometryError: a rank below 1.

    Source: Lebedev et al. 2015, section 3; the algorithm: Kolda and Bader 2009, section 3.4; the inertia that keeps
    nearly parallel components finite: Navasca, De Lathauwer and Kindermann, Swamp reducing technique for tensor
    decomposition, EUSIPCO 2008.

    Example:
        >>> weight = torch.ones(8, 4, 3, 3)
        >>> factors, error = nearest_cp(weight, rank=1)
        >>> [tuple(factor.shape) for factor in factors], round(error, 6)
        ([(8, 1), (4, 1), (3, 1), (3, 1)], 0.0)
    """
    if weight.ndim < 2 or not weight.numel() or not weight.is_floating_point():
        raise ShapeError(
            f"nearest_cp: weight: got shape {tuple(weight.shape)} of {weight.dtype}, expected two axes or more of real "
            "numbers"
        )
    check_finite("nearest_cp", weight)
    (rank,) = integers("nearest_cp: rank", rank, 1, 1)
    tensor = weight.detach().double()
    factors = [_start(tensor, axis, rank) for axis in range(tensor.ndim)]
    error, exact = math.inf, 1e-14 * tensor.norm().item()
    for _ in range(_SWEEPS):
        for axis in range(tensor.ndim):
            factors[axis] = _refit(tensor, factors, axis)
        factors = _balanced(factors)
        last, error = error, (tensor - cp_kernel(factors)).norm().item()
        if error <= exact or last - error <= _SETTLED * error:
            break
    return [factor.to(weight.dtype) for factor in factors], error


def _along(geometry: Geometry, axis: int) -> dict[str, Any]:
    """Return the options of a step that works along one of two axes, and leaves the other as it is."""
    return {
        name: tuple(entry if at == axis else idle for at, entry in enumerate(getattr(geometry, name)))
        for name, idle in (("stride", 1), ("padding", 0), ("dilation", 1))
    }


def _fold(name: str, weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Return a kernel as one matrix for each group, (G, C/G K_h, D/G K_w), in float64."""
    if weight.ndim != 4 or not weight.numel() or not weight.is_floating_point():
        raise ShapeError(
            f"{name}: weight: got shape {tuple(weight.shape)} of {weight.dtype}, expected (D, C/groups, K_h, K_w) of "
            "real numbers"
        )
    check_groups(name, weight.shape[1] * groups, weight, groups)
    check_finite(name, weight)
    outputs, channels, height, width = weight.shape
    grouped = weight.detach().double().reshape(groups, outputs // groups, channels, height, width)
    return grouped.permute(0, 2, 3, 1, 4).reshape(groups, channels * height, -1)


def _start(tensor: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    """Return the first singular vectors along an axis; beyond its size, random columns that are always the same."""
    unfolded = tensor.movedim(axis, 0).flatten(1)
    vectors = torch.linalg.eigh(unfolded @ unfolded.t()).eigenvectors.flip(1)[:, :rank]
    generator = torch.Generator().manual_seed(axis)
    more = torch.randn(len(vectors), max(0, rank - len(vectors)), generator=generator, dtype=tensor.dtype)
    return torch.cat([vectors, more.to(tensor.device)], 1)


def _refit(tensor: torch.Tensor, factors: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
    """Return the best factor along an axis for all others as they are."""
    size = tensor.ndim
    # The longest axis first: it leaves the smallest tensor, which then grows by the rank.
    others = sorted((other for other in range(size) if other != axis), key=lambda other: -tensor.shape[other])
    operands = [part for other in others for part in (factors[other], [other, size])]
    drawn = torch.einsum(tensor, [*range(size)], *operands, [axis, size])
    gram = torch.stack([factors[other].t() @ factors[other] for other in others]).prod(0)
    inertia = _INERTIA * gram.diagonal() + torch.finfo(gram.dtype).tiny
    solved: torch.Tensor = torch.linalg.solve(gram + inertia.diag(), drawn + factors[axis] * inertia, left=False)
    return solved


def _balanced(factors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the same components, each with factors of one norm."""
    norms = torch.stack([factor.norm(dim=0) for factor in factors])
    # By logarithms, a product of small norms does not vanish; a component of 0 stays one.
    common = norms.log().mean(0).exp()
    return [factor * torch.where(norm > 0, common / norm, 0) for factor, norm in zip(factors, norms, strict=True)]


def _check_separable(name: str, vertical: torch.Tensor, horizontal: torch.Tensor, groups: int) -> None:
    if vertical.ndim != 4 or horizontal.ndim != 4 or vertical.shape[3] != 1 or horizontal.shape[2] != 1:
        raise ShapeError(
            f"{name}: got vertical {tuple(vertical.shape)} and horizontal {tuple(horizontal.shape)}, expected "
            "(groups R, C/groups, K_h, 1) and (D, R, 1, K_w)"
        )
    check_groups(name, vertical.shape[0], horizontal, groups)


def _check_factors(name: str, factors: Sequence[torch.Tensor], count: int) -> None:
    shapes = [tuple(factor.shape) for factor in factors]
    if len(shapes) != count or len({shape[1:] for shape in shapes}) != 1 or len(shapes[0]) != 2:
        raise ShapeError(f"{name}: factors: got shapes {shapes}, expected {count} matrices with one number of columns")
