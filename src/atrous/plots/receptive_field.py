"""How far each layer of a network sees: nested rectangles, to scale, over the image that the network reads.

Legend: H, W image size, L layers; fields in pixels of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from atrous._errors import GeometryError, ShapeError
from atrous.analysis.receptive_field import LayerField
from atrous.plots.pixels import Pixels

_CASING = withStroke(linewidth=2.5, foreground="black", alpha=0.75)


def receptive_field_growth(
    image: Pixels,
    growth: Sequence[tuple[str, LayerField]],
    *,
    ink: str = "black",
    paper: str = "white",
) -> Figure:
    """Draw the receptive fields of some layers as nested rectangles, to scale; the first one is dashed.

    Args:
        image: (H, W) uint8, the ground on which the rectangles are centred.
        growth: for each of L layers a few words, and its field from `receptive_field`, along the two axes of the image.
        ink: colour of the text.
        paper: colour behind it.

    Raises:
        ShapeError: an image that is not (H, W) uint8.
        GeometryError: no layer, or one of a network with other than two axes.

    Source: after Yu and Koltun 2016, table 1.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from atrous.analysis.receptive_field import receptive_field
        >>> stack = torch.nn.Sequential(*[torch.nn.Conv2d(1, 1, 3, dilation=dilation) for dilation in (1, 2)])
        >>> layers = receptive_field(stack, torch.zeros(1, 1, 9, 9)).layers
        >>> named = [(f"layer {layer.module}", layer) for layer in layers[1:]]
        >>> figure = receptive_field_growth(np.zeros((20, 20), np.uint8), named)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['7 px, layer 1', '3 px, layer 0']
    """
    _check(image, growth)
    height, width = image.shape
    half = max(height, width, 1.1 * max(max(layer.receptive_field) for _, layer in growth)) / 2

    figure = Figure(figsize=(6.6, 3.9), facecolor=paper)
    axes = figure.add_axes((0.0, 0.01, 0.58, 0.98))
    axes.set_axis_off()
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(-width / 2, width / 2, height / 2, -height / 2))
    axes.set(xlim=(-half, half), ylim=(half, -half), anchor="W")
    # Largest first: the small ones stay on top, and the labels run down in the order of the corners.
    ramp = matplotlib.colormaps["plasma"].resampled(256)
    steps = max(len(growth) - 1, 1)
    order = sorted(range(len(growth)), key=lambda index: [-side for side in growth[index][1].receptive_field])
    for rank, index in enumerate(order):
        what, layer = growth[index]
        colour = ramp(0.35 + 0.6 * index / steps)
        level = half * (-0.86 + 1.72 * rank / steps)
        _rectangle(axes, layer.receptive_field, colour, dashed=index == 0)
        _label(axes, layer.receptive_field, (1.06 * half, level), what, colour, ink)
    return figure


def _rectangle(axes: Axes, field: tuple[int, ...], colour: tuple[float, ...], *, dashed: bool) -> None:
    height, width = field
    style = "--" if dashed else "-"
    corner = (-width / 2, -height / 2)
    rectangle = Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=1.3, linestyle=style)
    rectangle.set_path_effects([_CASING])
    axes.add_patch(rectangle)


def _label(
    axes: Axes, field: tuple[int, ...], place: tuple[float, float], what: str, colour: tuple[float, ...], ink: str
) -> None:
    (height, width), (x, y) = field, place
    corner = (width / 2, -height / 2)
    (leader,) = axes.plot([corner[0], x], [corner[1], y], color=colour, linewidth=0.9, clip_on=False)
    leader.set_path_effects([withStroke(linewidth=1.9, foreground="black", alpha=0.6)])
    axes.plot([corner[0], x], [corner[1], y], "o", color=colour, markersize=4, clip_on=False)
    sides = f"{height}" if height == width else f"{height} x {width}"
    axes.text(1.03 * x, y, f"{sides} px, {what}", color=ink, fontsize=10, verticalalignment="center")


def _check(image: Pixels, growth: Sequence[tuple[str, LayerField]]) -> None:
    if image.ndim != 2 or image.dtype != "uint8":
        raise ShapeError(
            f"receptive_field_growth: image: got {image.dtype} {image.shape}, expected uint8 (H, W); "
            "scale it to 0 ... 255 and pass one channel"
        )
    axes = sorted({len(layer.receptive_field) for _, layer in growth})
    if axes != [2]:
        raise GeometryError(
            f"receptive_field_growth: growth: got {len(growth)} layers with {axes} axes, expected at least one layer, "
            "and two axes; choose from receptive_field(network, image).layers"
        )
