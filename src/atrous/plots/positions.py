"""Where learned elements lie: for each layer bars along one axis, or a map over two, in the window they may use.

Legend: M axes with learned positions, K extents of their window in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from atrous.analysis.positions import LayerPositions, Positions

_LIMIT, _CROWDED = "#56b4e9", "#e0701a"
_COLUMNS = 4
_LONGEST = 3  # Beyond, a window of square pixels would be a strip.


def positions(result: Positions, *, ink: str = "black", paper: str = "white") -> Figure:
    """Draw for every layer how many positions are nearest to each pixel of the window, and its limits.

    One learned axis is drawn as bars, two as a map, three as three maps, each summed over the axis that it does not
    show; axes of one pixel are left out. In maps the square root of the count decides the colour, from none to the most
    in the panel. Limits are dashed; the title is orange where more than 10 % of the elements lie at them.

    Args:
        result: what `atrous.analysis.positions` returned.
        ink: colour of text and axes.
        paper: colour behind them.

    Example:
        >>> from atrous.analysis.positions import positions as analyse
        >>> from atrous.nn import Dcls2d
        >>> figure = positions(analyse(Dcls2d(8, 8, 5, dilated_kernel_size=9, groups=8)))
        >>> figure.axes[0].get_title(loc="left").splitlines()
        ['(the layer)', '0% at the limits']
    """
    planes = [_planes(layer) for layer in result.layers]
    most = max(map(len, planes))
    # A layer of several panels has a row of its own.
    columns = most if most > 1 else min(len(planes), _COLUMNS)
    rows = len(planes) if most > 1 else -(-len(planes) // columns)
    figure = Figure(figsize=(max(3.1 * columns, 4.2), 3.3 * rows), facecolor=paper, layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    for index, layer in enumerate(result.layers):
        for column, plane in enumerate(planes[index]):
            place = (index, column) if most > 1 else divmod(index, columns)
            _panel(figure.add_subplot(grid[place]), layer, plane, ink, paper)
    return figure


def _panel(axes: Axes, layer: LayerPositions, plane: Sequence[int], ink: str, paper: str) -> None:
    (_map if len(plane) == 2 else _bars)(axes, layer, plane)
    title = f"{layer.title}\n{layer.at_limits:.0%} at the limits"
    axes.set_title(title, loc="left", color=_CROWDED if layer.is_crowded else ink, fontsize=10)
    axes.set_facecolor(paper)
    axes.tick_params(colors=ink)
    axes.spines[:].set_color(ink)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True))
        axis.label.set_color(ink)


def _planes(layer: LayerPositions) -> list[tuple[int, ...]]:
    """Return the axes of every panel: all pairs of those that have more than one pixel, or the only one."""
    wide = [axis for axis, size in enumerate(layer.window) if size > 1] or [0]
    return list(combinations(wide, min(len(wide), 2)))


def _span(layer: LayerPositions, axis: int) -> tuple[int, int]:
    """Return the least and the largest position that lie in the window."""
    size = layer.window[axis]
    return -(size // 2), size - 1 - size // 2


def _name(layer: LayerPositions, axis: int) -> str:
    # From the end: learned axes are the last ones of the input.
    return f"axis {axis - len(layer.window)}, pixels"


def _map(axes: Axes, layer: LayerPositions, plane: Sequence[int]) -> None:
    counts = layer.counts.sum(tuple({*range(len(layer.window))} - {*plane}))
    (top, bottom), (left, right) = (_span(layer, axis) for axis in plane)
    long, short = max(counts.shape), min(counts.shape)
    axes.imshow(
        counts,
        aspect="equal" if long <= _LONGEST * short else "auto",
        cmap="inferno",
        norm=PowerNorm(0.5, 0, counts.max()),
        extent=(left - 0.5, right + 0.5, bottom + 0.5, top - 0.5),
        interpolation="nearest",
    )
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=_LIMIT, linestyle="--"))
    axes.set(xlabel=_name(layer, plane[1]), ylabel=_name(layer, plane[0]))


def _bars(axes: Axes, layer: LayerPositions, plane: Sequence[int]) -> None:
    low, high = _span(layer, plane[0])
    axes.stairs(layer.histograms[plane[0]], np.arange(low, high + 2) - 0.5, fill=True, color="#1f83c9")
    for place in (low, high):
        axes.axvline(place, color=_LIMIT, linestyle="--")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel=_name(layer, plane[0]), ylabel="positions", xlim=(low - 1, high + 1))
