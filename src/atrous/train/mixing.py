"""Mixtures of the images of a batch, and of their labels.

Legend: B batch, A channels, H, W image size, C classes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F


def mix(
    images: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    *,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    smoothing: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix every image of a batch with another one of it, all in the same share, and return labels as probabilities.

    mixup adds two images, share and one minus share; cutmix puts a rectangle of the other image in the same place. With
    both, each batch takes one of them, by an even chance.

    Args:
        images: (B, A, H, W).
        labels: (B,) class numbers.
        num_classes: C.
        mixup: the share is drawn from Beta(mixup, mixup); 0 is none.
        cutmix: the area of the rectangle is drawn from Beta(cutmix, cutmix); 0 is none.
        smoothing: share of a label that is spread over all classes.
        generator: draws, on the CPU; None is torch's own.

    Returns:
        Images (B, A, H, W), and labels (B, C) that add up to 1.

    Source: Zhang et al., mixup, 2018, section 2; Yun et al., CutMix, 2019, section 3; Szegedy et al. 2016, section 7.

    Example:
        >>> images, labels = mix(torch.zeros(1, 1, 2, 2), torch.tensor([1]), 2, smoothing=0.1)
        >>> labels
        tensor([[0.0500, 0.9500]])
    """
    soft = (1 - smoothing) * F.one_hot(labels, num_classes).to(images.dtype) + smoothing / num_classes
    kinds = [(kind, alpha) for kind, alpha in ((_blended, mixup), (_pasted, cutmix)) if alpha]
    if not kinds:
        return images, soft
    # numpy draws from Beta with a seed of its own; the seed is torch's, so that torch.manual_seed decides.
    chance = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    kind, alpha = kinds[chance.integers(len(kinds))]
    other = torch.from_numpy(chance.permutation(len(images))).to(images.device)
    mixed, share = kind(images, images[other], chance.beta(alpha, alpha), chance)
    return mixed, share * soft + (1 - share) * soft[other]


def _blended(
    images: torch.Tensor, others: torch.Tensor, share: float, chance: np.random.Generator
) -> tuple[torch.Tensor, float]:
    return share * images + (1 - share) * others, share


def _pasted(
    images: torch.Tensor, others: torch.Tensor, share: float, chance: np.random.Generator
) -> tuple[torch.Tensor, float]:
    """Return images with a rectangle of the others, and the share of the area that is still theirs."""
    height, width = images.shape[2:]
    side = math.sqrt(1 - share) / 2
    # The centre lies anywhere, so the rectangle may stick out and be smaller than drawn.
    (top, bottom), (left, right) = (
        (max(0, round(centre - side * size)), min(size, round(centre + side * size)))
        for size, centre in ((height, chance.uniform(0, height)), (width, chance.uniform(0, width)))
    )
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
