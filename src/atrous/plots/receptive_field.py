"""How far each layer of a context module sees: nested squares, to scale, over the image that the network reads.

Legend: H, W image size, L context layers; fields in features, sides in pixels of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from atrous._errors import GeometryError, ShapeError
from atrous.plots.pixels import Pixels

_CASING = withStroke(linewidth=2.5, foreground="black", alpha=0.75)


def receptive_field_growth(
    image: Pixels,
    growth: Sequence[tuple[int, int]],
    stride: int,
    front_end: int,
    *,
    ink: str = "black",
    paper: str = "white",
) -> Figure:
    """Draw the receptive field of the front end and of every context layer behind it as nested squares, to scale.

    A field of f features covers front_end + (f - 1) stride pixels.

    Args:
        image: (H, W) uint8, the ground on which the squares are centred.
        growth: for each of L context layers its dilation and its receptive field in features.
        stride: pixels from one feature to the next.
        front_end: receptive field of one feature, pixels.
        ink: colour of the text.
        paper: colour behind it.

    Raises:
        ShapeError: an image that is not (H, W) uint8.
        GeometryError: no layer, or a stride, field or dilation below 1.

    Source: Yu and Koltun 2016, table 1.

    Example:
        >>> import numpy as np
        >>> figure = receptive_field_growth(np.zeros((90, 90), np.uint8), [(1, 3), (2, 7)], stride=4, front_end=58)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['7 features, 82 px, dilation 2', '3 features, 66 px, dilation 1', '1 feature, 58 px, front end alone']
    """
    _check(image, growth, stride, front_end)
    fields = [(1, "front end alone"), *((field, f"dilation {dilation}") for dilation, field in growth)]
    sides = [front_end + (field - 1) * stride for field, _ in fields]
    height, width = image.shape
    half = max(height, width, 1.1 * max(sides)) / 2

    figure = Figure(figsize=(6.6, 3.9), facecolor=paper)
    axes = figure.add_axes((0.0, 0.01, 0.58, 0.98))
    axes.set_axis_off()
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(-width / 2, width / 2, height / 2, -height / 2))
    axes.set(xlim=(-half, half), ylim=(half, -half), anchor="W")
    # Largest first: the small squares stay on top, and the labels run down in the order of the corners.
    ramp = matplotlib.colormaps["plasma"].resampled(256)
    order = sorted(range(len(fields)), key=lambda index: -sides[index])
    for rank, index in enumerate(order):
        field, what = fields[index]
        colour = ramp(0.35 + 0.6 * index / (len(fields) - 1))
        label = f"{field} feature{'s' if field > 1 else ''}, {sides[index]} px, {what}"
        level = half * (-0.86 + 1.72 * rank / (len(fields) - 1))
        _square(axes, sides[index] / 2, colour, dashed=index == 0)
        _label(axes, sides[index] / 2, (1.06 * half, level), label, colour, ink)
    return figure


def _square(axes: Axes, half: float, colour: tuple[float, ...], *, dashed: bool) -> None:
    style = "--" if dashed else "-"
    square = Rectangle((-half, -half), 2 * half, 2 * half, fill=False, edgecolor=colour, linewidth=1.3, linestyle=style)
    square.set_path_effects([_CASING])
    axes.add_patch(square)


def _label(
    axes: Axes, half: float, place: tuple[float, float], label: str, colour: tuple[float, ...], ink: str
) -> None:
    x, y = place
    (leader,) = axes.plot([half, x], [-half, y], color=colour, linewidth=0.9, clip_on=False)
    leader.set_path_effects([withStroke(linewidth=1.9, foreground="black", alpha=0.6)])
    axes.plot([half, x], [-half, y], "o", color=colour, markersize=4, clip_on=False)
    axes.text(1.03 * x, y, label, color=ink, fontsize=10, verticalalignment="center")


def _check(image: Pixels, growth: Sequence[tuple[int, int]], stride: int, front_end: int) -> None:
    if image.ndim != 2 or image.dtype != "uint8":
        raise ShapeError(
            f"receptive_field_growth: image: got {image.dtype} {image.shape}, expected uint8 (H, W); "
            "scale it to 0 ... 255 and pass one channel"
        )
    if not growth or min(stride, front_end, *(number for layer in growth for number in layer)) < 1:
        raise GeometryError(
            f"receptive_field_growth: got growth={tuple(growth)}, stride={stride}, front_end={front_end}, "
            "expected at least one layer and numbers of at least 1; give growth as (dilation, field in features)"
        )
