"""What `restore` undoes: noise, lost pixels, lost colours.

Legend: B batch, A channels, H, W size of the clean image, h, w size of the input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from atrous._errors import DataError
from atrous.models.ircnn import demosaick, rggb
from atrous.train.config import RestoreRecipe


def crop_to_fit(clean: torch.Tensor, recipe: RestoreRecipe) -> torch.Tensor:
    """Return an image without the last rows and columns that a smaller image or a mosaic has no place for.

    Args:
        clean: (..., A, H, W).
        recipe: says what is undone.

    Returns:
        Sides that are a multiple of the factor, even ones for a mosaic.

    Raises:
        DataError: nothing would be left.

    Example:
        >>> crop_to_fit(torch.zeros(3, 10, 15), RestoreRecipe(degradation="small", factor=4)).shape
        torch.Size([3, 8, 12])
    """
    step = {"noise": 1, "small": recipe.factor, "mosaic": 2}[recipe.degradation]
    height, width = clean.shape[-2:]
    if min(height, width) < step:
        raise DataError(
            f"restore: got an image of {width} x {height} pixels for degradation {recipe.degradation!r}, "
            f"expected sides of at least {step}"
        )
    return clean[..., : height - height % step, : width - width % step]


def degrade(clean: torch.Tensor, recipe: RestoreRecipe, generator: torch.Generator | None = None) -> torch.Tensor:
    """Return what is left of clean images.

    Args:
        clean: (B, A, H, W), 0 to 1, of sides that fit, see `crop_to_fit`.
        recipe: says what is undone. 'noise' adds Gaussian noise of deviation `sigma` / 255, and does not cut it off at
            0 and 1; 'small' takes pixels by the bicubic, antialiased filter; 'mosaic' leaves one colour of every pixel.
        generator: where noise is drawn, on the CPU so that every device gets the same; None is torch's own.

    Returns:
        (B, A, H, W) of noise, (B, A, H / factor, W / factor), or (B, 1, H, W) with red, green over green, blue.

    Raises:
        DataError: a mosaic of other than 3 channels.

    Example:
        >>> degrade(torch.zeros(1, 3, 8, 12), RestoreRecipe(degradation="small", factor=4)).shape
        torch.Size([1, 3, 2, 3])
    """
    if recipe.degradation == "noise":
        return clean + torch.randn(clean.shape, generator=generator).to(clean) * (recipe.sigma / 255)
    if recipe.degradation == "small":
        height, width = (side // recipe.factor for side in clean.shape[2:])
        return F.interpolate(clean, (height, width), mode="bicubic", antialias=True)
    if clean.shape[1] != 3:
        raise DataError(f"restore: mosaic: got images of {clean.shape[1]} channels, expected 3 (RGB)")
    height, width = clean.shape[2:]
    return (clean * rggb(height, width, clean)).sum(1, keepdim=True)


def interpolated(inputs: torch.Tensor, recipe: RestoreRecipe) -> torch.Tensor:
    """Return inputs in size and channels of the clean images, without any learning: what training has to beat.

    Args:
        inputs: (B, A, h, w), as `degrade` returns them.
        recipe: says what is undone. Noise stays as it is, a small image grows by bicubic interpolation (torch's,
            a = -0.75, which is 0.1 to 0.2 dB better than that with a = -0.5), and a mosaic is interpolated bilinearly.

    Returns:
        (B, A, H, W).

    Example:
        >>> interpolated(torch.zeros(1, 3, 2, 3), RestoreRecipe(degradation="small", factor=4)).shape
        torch.Size([1, 3, 8, 12])
    """
    if recipe.degradation == "small":
        return F.interpolate(inputs, scale_factor=recipe.factor, mode="bicubic")
    return inputs if recipe.degradation == "noise" else demosaick(inputs)
