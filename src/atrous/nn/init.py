"""Weight initialisations that torch does not have.

Legend: C classes, D channels out, A channels in, K kernel size.
"""

from __future__ import annotations

import torch

from atrous._errors import ShapeError


def identity_(weight: torch.Tensor, classes: int, std: float = 0.0) -> torch.Tensor:
    """Fill a convolution's weight so that every class map passes through it, and return it.

    Input and output channels are split into `classes` consecutive groups. The centre tap between channels of the same
    group is C / D; every other entry is drawn from N(0, (std C / D)^2). In a chain of such layers the copies of a class
    map add up to that map; with D = C and std = 0 the layer is the identity (Yu and Koltun 2016, eq. 4), wider layers
    are their eq. 5.

    Args:
        weight: (D, A, *K), every K odd.
        classes: C, divides A and D.
        std: noise of the other entries, in units of C / D; small against 1.

    Raises:
        ShapeError: an even kernel, or channels that `classes` does not divide.

    Source: Yu and Koltun 2016, section 3, eq. 4 and 5; the noise as in their published code.

    Example:
        >>> identity_(torch.empty(4, 2, 1), classes=2)[..., 0]
        tensor([[0.5000, 0.0000],
                [0.5000, 0.0000],
                [0.0000, 0.5000],
                [0.0000, 0.5000]])
    """
    outputs, inputs, *kernel = weight.shape
    if classes < 1 or outputs % classes or inputs % classes or any(size % 2 == 0 for size in kernel):
        raise ShapeError(
            f"identity_: got weight {tuple(weight.shape)} for {classes} classes, "
            "expected an odd kernel and both channel counts divisible by the classes"
        )
    share = classes / outputs
    group_out = torch.arange(outputs, device=weight.device) * classes // outputs
    group_in = torch.arange(inputs, device=weight.device) * classes // inputs
    same = group_out[:, None] == group_in[None, :]
    with torch.no_grad():
        weight.normal_(0.0, std * share)
        centre = weight
        for size in kernel:
            centre = centre.select(2, size // 2)
        centre[same] = share
    return weight
