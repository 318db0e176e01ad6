"""Dilation as algebra: a kernel with holes as a dense one, and a cascade of kernels as one kernel.

Legend: C channels in, D channels out, K kernel size, d dilation, E = d (K - 1) + 1 extent, N axes.
"""

from __future__ import annotations

import torch

from atrous._errors import ShapeError
from atrous._geometry import Ints, integers
from atrous._ops.tap_conv import exchange
from atrous.functional._check import check_dtypes, check_groups
from atrous.functional.transposed import conv_transpose1d, conv_transpose2d, conv_transpose3d, spread

_SPREAD = {1: conv_transpose1d, 2: conv_transpose2d, 3: conv_transpose3d}


def dilate_kernel(kernel: torch.Tensor, dilation: Ints) -> torch.Tensor:
    """Write a kernel with holes as the dense kernel that computes the same: `y[t dilation] = kernel[t]`, 0 elsewhere.

    It is the Kronecker product of the kernel and a block of `dilation` pixels, of which the first is 1 and the others
    0, without the zeros at its end.

    Args:
        kernel: (D, C/groups, *K), or any tensor with a sequence for `dilation`.
        dilation: pixels between taps. One integer is for every axis behind the first two; a sequence is for the last
            axes, one entry each: (2, 2) dilates a plain (K_h, K_w).

    Returns:
        (D, C/groups, *E), with E = dilation (K - 1) + 1.

    Raises:
        ShapeError: fewer axes than these, or no axis.
        GeometryError: a dilation below 1.

    Source: Huszar, Dilated convolutions and Kronecker factored convolutions, 2016; 'rhs_dilation' of XLA.

    Example:
        >>> dilate_kernel(torch.tensor([[1, 2], [3, 4]]), (2, 2))
        tensor([[1, 0, 2],
                [0, 0, 0],
                [3, 0, 4]])
    """
    return spread("dilate_kernel: dilation", kernel, dilation)


def compose(*layers: tuple[torch.Tensor, Ints], groups: int = 1) -> torch.Tensor:
    """Return the one dense kernel that convolutions one after another amount to, first applied first.

    `w[o, c, u] = sum over m and t dilation_1 + t' dilation_2 = u of w_2[o, m, t'] w_1[m, c, t]`, and so on: without
    padding, stride and anything between the layers, their output is that of `w` with dilation 1. With K x K kernels,
    one channel and dilations 1, K, K^2 ... it is their Kronecker product, the last one outermost; other dilations
    give kernels that are none.

    Args:
        layers: pairs of a weight (D, C/groups, *K), N = 1 to 3, and its dilation, one integer or one per axis. The C of
            each is the D of the one before.
        groups: of every layer.

    Returns:
        (D, C/groups, *E), D of the last and C of the first layer, E = 1 + the sum of dilation (K - 1).

    Raises:
        ShapeError: no layer, weights that do not follow one another, or of another rank.
        GeometryError: a dilation below 1.

    Source: Huszar, Dilated convolutions and Kronecker factored convolutions, 2016.

    Example:
        >>> binomial = torch.tensor([[[1, 2, 1]]])
        >>> compose((binomial, 1), (binomial, 2))
        tensor([[[1, 2, 3, 4, 3, 2, 1]]])
    """
    ndim = _check(layers, groups)
    (weight, dilation), *rest = layers
    kernel = dilate_kernel(weight, integers("compose: dilation", dilation, ndim, 1))
    for weight, dilation in rest:
        # Each of its taps adds a shifted copy of the kernel so far, whose columns are a batch.
        columns = _SPREAD[ndim](kernel.transpose(0, 1), exchange(weight, groups), groups=groups, dilation=dilation)
        kernel = columns.transpose(0, 1).contiguous()
    return kernel


def _check(layers: tuple[tuple[torch.Tensor, Ints], ...], groups: int) -> int:
    """Return the number of axes of the layers, or raise if they do not follow one another."""
    shapes = [tuple(weight.shape) for weight, _ in layers]
    if not shapes or {len(shape) for shape in shapes} not in ({3}, {4}, {5}):
        raise ShapeError(
            f"compose: got weights {shapes}, expected at least one, all (D, C/groups, *K) with the same 1 to 3 axes"
        )
    check_dtypes("compose", *(weight for weight, _ in layers))
    channels = shapes[0][1] * groups
    for index, (weight, _) in enumerate(layers):
        check_groups(f"compose: layer {index}", channels, weight, groups)
        channels = weight.shape[0]
    return len(shapes[0]) - 2
