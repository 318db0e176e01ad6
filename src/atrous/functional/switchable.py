"""Convolutions that choose, pixel by pixel, between two dilations of one kernel.

Legend: B batch, C channels in, D channels out, K kernel size, P output size, d dilation.
"""

from __future__ import annotations

import torch

from atrous._errors import ShapeError
from atrous._geometry import Ints, integers
from atrous.functional._check import check_dtypes
from atrous.functional.conv import conv2d

WIDER = 3
"""How many times as far apart the taps of the second convolution are."""

_TINY = 1e-5
"""What is added to a variance, as in the source."""


def switchable_conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    difference: torch.Tensor,
    switch: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    dilation: Ints = 1,
    groups: int = 1,
) -> torch.Tensor:
    """Mix two convolutions of dilation d and 3 d, whose kernels differ little, by a map of shares.

    `y = switch conv2d(x, weight, d) + (1 - switch) conv2d(x, weight + difference, 3 d)`, both with the bias and with
    padding 'same'. It costs two convolutions.

    Args:
        input: (B, C, H, W) or (C, H, W).
        weight: (D, C/groups, K_h, K_w).
        difference: the shape of weight.
        switch: (B, 1, P_h, P_w) or (1, P_h, P_w); 1 is all of the narrow kernel, 0 all of the wide one. Not limited to
            what lies between.
        bias: (D,) or None.
        stride: one integer, or one per axis.
        dilation: d in pixels, one integer or one per axis.
        groups: how many independent channel groups; divides C and D.

    Returns:
        (B, D, P_h, P_w) or (D, P_h, P_w), with P = ceil(S / stride).

    Raises:
        ShapeError: tensors that do not fit one another.
        GeometryError: a stride or dilation that cannot be.

    Source: Qiao, Chen and Yuille, DetectoRS, CVPR 2021, section 3.2, switchable atrous convolution.

    Example:
        >>> signal, ones = torch.tensor([[[1.0, 0, 0, 0, 2, 0, 0, 0, 4]]]), torch.ones(1, 1, 1, 3)
        >>> near_far = torch.tensor([[[1.0, 1, 1, 1, 0.5, 0, 0, 0, 0]]])
        >>> switchable_conv2d(signal, ones, torch.zeros_like(ones), near_far)
        tensor([[[1., 1., 0., 2., 2., 4., 0., 2., 4.]]])
    """
    if difference.shape != weight.shape:
        raise ShapeError(
            f"switchable_conv2d: difference: got shape {tuple(difference.shape)}, expected {tuple(weight.shape)}, that "
            "of weight"
        )
    check_dtypes("switchable_conv2d", input, weight, difference, switch, bias)
    narrow = integers("switchable_conv2d: dilation", dilation, 2, 1)
    wide = tuple(WIDER * d for d in narrow)
    near = conv2d(input, weight, bias, stride, "same", narrow, groups)
    expected = *near.shape[:-3], 1, *near.shape[-2:]
    if switch.shape != expected:
        raise ShapeError(
            f"switchable_conv2d: switch: got shape {tuple(switch.shape)}, expected {tuple(expected)}, one share for "
            "each pixel of the output"
        )
    far = conv2d(input, weight + difference, bias, stride, "same", wide, groups)
    return switch * near + (1 - switch) * far


def standardized_weight(weight: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Give the weights of every output channel the mean `shift` and the standard deviation `scale`.

    `scale (w - mean) / sqrt(variance + 1e-5) + shift`, with the unbiased variance of each output channel.

    Args:
        weight: (D, C/groups, K_h, K_w).
        scale: (D, 1, 1, 1).
        shift: (D, 1, 1, 1).

    Returns:
        The shape of weight.

    Raises:
        ShapeError: a single weight for an output channel, which has no deviation, or a scale or shift of another shape.

    Source: Qiao et al., Weight standardization, 2019 (arXiv:1903.10520); with a fixed scale and shift in DetectoRS.

    Example:
        >>> weight = torch.arange(8.0).view(2, 1, 2, 2)
        >>> standardized_weight(weight, torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1))[0, 0]
        tensor([[-1.1619, -0.3873],
                [ 0.3873,  1.1619]])
    """
    deviation, mean = weight_moments(weight)
    for what, given in (("scale", scale), ("shift", shift)):
        if given.shape != mean.shape:
            raise ShapeError(
                f"standardized_weight: {what}: got shape {tuple(given.shape)}, expected {tuple(mean.shape)}, one for "
                "each output channel"
            )
    return scale * (weight - mean) / deviation + shift


def weight_moments(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the standard deviation, `sqrt(variance + 1e-5)`, and the mean of each output channel, (D, 1, 1, 1)."""
    if weight[0].numel() < 2:
        raise ShapeError(
            f"standardized_weight: got weight {tuple(weight.shape)}, expected at least 2 weights for each output "
            "channel; leave it as it is"
        )
    axes = tuple(range(1, weight.ndim))
    return (weight.var(axes, keepdim=True) + _TINY).sqrt(), weight.mean(axes, keepdim=True)
