"""Label maps as pictures: a fixed palette, coloured masks, overlays, maps of mistakes and indexed PNG files.

Legend: H, W image size, K classes; labels are class numbers 0 ... K - 1, and 255 where no label counts.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous._errors import ShapeError
from atrous._files import whole_file
from atrous.plots.pixels import Labels, Pixels

IGNORE = 255
"""The label of pixels that do not count; drawn white."""

MISTAKE_COLOURS: Pixels = np.array([(58, 62, 68), (255, 128, 32)], np.uint8)
"""Colours of a map of mistakes: right, wrong."""

# Okabe and Ito 2008: eight colours that colour-blind readers tell apart; their black is lightened to a dark grey.
_FIRST = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (64, 64, 64),
)

# Machado et al. 2009, severity 1: linear RGB as a normal, protanope, deuteranope and tritanope eye sees it.
_EYES = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)

# Ottosson 2020, Oklab: linear RGB -> cone responses, cube root -> a space where distance is perceived difference.
_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def palette(classes: int) -> Pixels:
    """Return fixed colours (K, 3) for K classes, the first ones the same for every K.

    The first eight are those of Okabe and Ito; each further one is the colour that is farthest from all before it,
    and from white, for the normal or colour-blind eye that tells them apart worst.

    Args:
        classes: K, from 1 to 255.

    Raises:
        ShapeError: fewer than 1 or more than 255 classes.

    Source: Okabe and Ito 2008; Machado et al. 2009; Ottosson 2020 (Oklab).

    Example:
        >>> palette(2)
        array([[230, 159,   0],
               [ 86, 180, 233]], dtype=uint8)
    """
    if not 1 <= classes <= IGNORE:
        raise ShapeError(
            f"palette: classes: got {classes}, expected 1 to {IGNORE}; merge classes, "
            f"because {IGNORE} marks ignored pixels"
        )
    return _ladder()[:classes].copy()


def colourise(labels: Labels, colours: Pixels) -> Pixels:
    """Paint every pixel in the colour of its class; ignored pixels white.

    Args:
        labels: (H, W) class numbers.
        colours: (K, 3) uint8.

    Returns:
        The picture, (H, W, 3) uint8.

    Raises:
        ShapeError: labels or colours of another shape or type, or a label that has no colour.

    Example:
        >>> colourise(np.array([[0, 255]]), palette(1)).tolist()
        [[[230, 159, 0], [255, 255, 255]]]
    """
    _check("colourise", labels, colours)
    picture: Pixels = _table(colours)[labels]
    return picture


def overlay(image: Pixels, labels: Labels, colours: Pixels, opacity: float = 0.5) -> Pixels:
    """Lay the colours of the classes over an image; ignored pixels keep the image.

    Args:
        image: (H, W) or (H, W, 3) uint8.
        labels: (H, W) class numbers.
        colours: (K, 3) uint8.
        opacity: of the colours, 0 (only the image) to 1 (only the colours).

    Returns:
        The picture, (H, W, 3) uint8.

    Raises:
        ShapeError: arrays that do not fit, or an opacity outside 0 to 1.

    Example:
        >>> overlay(np.zeros((1, 2), np.uint8), np.array([[0, 255]]), palette(1)).tolist()
        [[[115, 80, 0], [0, 0, 0]]]
    """
    _check("overlay", labels, colours)
    if image.dtype != np.uint8 or image.shape not in (labels.shape, (*labels.shape, 3)):
        raise ShapeError(
            f"overlay: image: got {image.dtype} {image.shape}, expected uint8 {labels.shape} or {(*labels.shape, 3)}; "
            "scale the image to 0 ... 255 and crop it to the labels"
        )
    if not 0 <= opacity <= 1:
        raise ShapeError(f"overlay: opacity: got {opacity}, expected 0 to 1; 0.5 shows both alike")
    below = image if image.ndim == 3 else image[..., None]
    weight = np.where(labels == IGNORE, 0, opacity)[..., None]
    mixed = (1 - weight) * below + weight * _table(colours)[labels]
    return np.rint(mixed).astype(np.uint8)


def mistakes(labels: Labels, truth: Labels) -> Pixels:
    """Mark every pixel as right (0) or wrong (1), ready for `indexed` with `MISTAKE_COLOURS`.

    Args:
        labels: (H, W) predicted class numbers.
        truth: (H, W) class numbers; 255 stays 255.

    Raises:
        ShapeError: two maps of different shapes.

    Example:
        >>> mistakes(np.array([[3, 4, 5]]), np.array([[3, 5, 255]])).tolist()
        [[0, 1, 255]]
    """
    if labels.shape != truth.shape:
        raise ShapeError(
            f"mistakes: labels: got shape {labels.shape}, expected {truth.shape} as the truth; crop one of them"
        )
    return np.where(truth == IGNORE, IGNORE, labels != truth).astype(np.uint8)


def indexed(labels: Labels, colours: Pixels) -> Image.Image:
    """Return labels as a palette image (mode 'P'): each pixel holds its class number, the palette the colours.

    Args:
        labels: (H, W) class numbers.
        colours: (K, 3) uint8.

    Raises:
        ShapeError: labels or colours of another shape or type, or a label that has no colour.

    Example:
        >>> indexed(np.array([[0, 1]]), palette(2)).getpixel((1, 0))
        1
    """
    _check("indexed", labels, colours)
    image = Image.fromarray(labels.astype(np.uint8))
    # All 256 entries, so that writers keep 8 bits a pixel and 255 has its white.
    image.putpalette(_table(colours).tobytes())
    return image


def save_picture(pixels: Pixels, path: str | Path) -> None:
    """Write pixels as a picture file.

    Args:
        pixels: (H, W) grey or (H, W, 3) colours, uint8.
        path: the file, its suffix the format; it appears only when whole.

    Raises:
        DataError: the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save_picture(np.zeros((2, 3), np.uint8), f"{folder}/dark.png")
        ...     with Image.open(f"{folder}/dark.png") as picture:
        ...         picture.size
        (3, 2)
    """
    with whole_file(path) as part:
        Image.fromarray(pixels).save(part)


def save_indexed(labels: Labels, colours: Pixels, path: str | Path) -> None:
    """Write labels as an 8-bit palette PNG, the format of VOC and Cityscapes: pixel value = class number.

    Args:
        labels: (H, W) class numbers.
        colours: (K, 3) uint8.
        path: the file; it appears only when whole.

    Raises:
        ShapeError: labels or colours of another shape or type, or a label that has no colour.
        DataError: the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save_indexed(np.array([[0, 1]]), palette(2), f"{folder}/mask.png")
        ...     print(np.asarray(Image.open(f"{folder}/mask.png")))
        [[0 1]]
    """
    image = indexed(labels, colours)
    with whole_file(path) as part:
        image.save(part, format="PNG", optimize=True)


def _table(colours: Pixels) -> Pixels:
    table = np.full((256, 3), 255, np.uint8)
    table[: len(colours)] = colours
    return table


@cache
def _ladder() -> Pixels:
    levels = np.linspace(0, 255, 11).astype(np.uint8)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    seen = _perceived(candidates)
    # Near black, colours differ on paper more than on a screen.
    light = seen[0, :, 0] > 0.35
    candidates, seen = candidates[light], seen[:, light]
    chosen = list(np.array(_FIRST, np.uint8))
    white = np.full(3, 255, np.uint8)
    nearest = np.full(len(candidates), np.inf)
    for taken in [white, *chosen]:
        nearest = np.minimum(nearest, _difference(seen, taken))
    while len(chosen) < IGNORE:
        # Rounded, so that ties fall alike on every machine.
        best = candidates[np.argmax(nearest.round(6))]
        chosen.append(best)
        nearest = np.minimum(nearest, _difference(seen, best))
    return np.stack(chosen)


def _perceived(colours: Pixels) -> NDArray[np.float64]:
    """Return (eyes, K, 3) Oklab coordinates."""
    linear = (colours / 255.0) ** 2.2
    eyes = np.clip(linear @ _EYES.transpose(0, 2, 1), 0, 1)
    lab: NDArray[np.float64] = np.cbrt(eyes @ _CONES.T) @ _OKLAB.T
    return lab


def _difference(seen: NDArray[np.float64], colour: Pixels) -> NDArray[np.float64]:
    """Return (K,) distances of the perceived colours from one colour, for the eye that sees the least difference."""
    distances: NDArray[np.float64] = np.linalg.norm(seen - _perceived(colour[None]), axis=-1).min(axis=0)
    return distances


def _check(name: str, labels: Labels, colours: Pixels) -> None:
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise ShapeError(
            f"{name}: labels: got {labels.dtype} {labels.shape}, expected integers (H, W); take the argmax of scores"
        )
    if colours.ndim != 2 or colours.shape[1] != 3 or len(colours) > IGNORE or colours.dtype != np.uint8:
        raise ShapeError(
            f"{name}: colours: got {colours.dtype} {colours.shape}, expected uint8 (K, 3) with K of at most {IGNORE}; "
            "see palette(classes)"
        )
    unknown = labels[((labels < 0) | (labels >= len(colours))) & (labels != IGNORE)]
    if unknown.size:
        raise ShapeError(
            f"{name}: labels: got class {unknown[0]}, expected 0 to {len(colours) - 1}, or {IGNORE} for ignored; "
            f"pass a palette of all classes"
        )
