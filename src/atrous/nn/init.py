"""Weight initialisations that torch does not have.

Legend: C classes, D channels out, A channels in, K kernel size.
"""

from __future__ import annotations

import torch

from atrous._errors import GeometryError, ShapeError


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


def bilinear_(weight: torch.Tensor, filler: str = "centred") -> torch.Tensor:
    """Fill a transposed convolution's weight so that it up-samples every channel by itself, and return it.

    The kernel is a product of tents along the axes, `1 - |i - c| / f` with f = (K + 1) // 2 and c = (K - 1) / 2. With
    K = 2 s - s % 2 and stride s that is bilinear interpolation.

    Args:
        weight: (A, 1, *K) of A groups, or (A, A, *K), filled on its diagonal.
        filler: 'centred', or 'caffe' for c = f - (1 + f % 2) / 2, half a pixel away where f is even and K odd, or f odd
            and K even: K = 3, 6, 7, 10, 11, 14, 15 ... Caffe filled so at first, and networks that copied it still do.

    Raises:
        ShapeError: other channels, or no axis.
        GeometryError: an unknown filler.

    Source: Long, Shelhamer and Darrell 2015, `surgery.py` of their code (centred); `BilinearFiller` of Caffe.

    Example:
        >>> bilinear_(torch.empty(1, 1, 4))
        tensor([[[0.2500, 0.7500, 0.7500, 0.2500]]])
        >>> bilinear_(torch.empty(1, 1, 3)), bilinear_(torch.empty(1, 1, 3), "caffe")
        (tensor([[[0.5000, 1.0000, 0.5000]]]), tensor([[[0.2500, 0.7500, 0.7500]]]))
    """
    inputs, per_group, *sizes = weight.shape if weight.ndim > 2 else (0, 0)
    if not sizes or per_group not in (1, inputs):
        raise ShapeError(f"bilinear_: got weight {tuple(weight.shape)}, expected (A, 1, *K) or (A, A, *K)")
    if filler not in ("centred", "caffe"):
        raise GeometryError(f"bilinear_: filler: got {filler!r}, expected 'centred' or 'caffe'")
    kernel = weight.new_ones(())
    for size in sizes:
        half = (size + 1) // 2
        centre = (size - 1) / 2 if filler == "centred" else half - (1 + half % 2) / 2
        places = torch.arange(size, device=weight.device, dtype=weight.dtype)
        kernel = kernel[..., None] * (1 - (places - centre).abs() / half)
    channels = torch.arange(inputs, device=weight.device)
    with torch.no_grad():
        weight.zero_()
        weight[channels, channels % per_group] = kernel
    return weight
