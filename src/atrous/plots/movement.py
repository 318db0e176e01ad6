"""How learned elements move: for each layer histograms over time along every axis, and the speed beside the rate.

Legend: E snapshots, K extents of the window of the positions in pixels.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from atrous.analysis.movement import LayerMovement, Movement

_SPEED, _RATE = "#1f83c9", "#e0701a"


def movement(result: Movement, *, ink: str = "black", paper: str = "white") -> Figure:
    """Draw for every layer how many positions were nearest to each pixel at every snapshot, and their mean speed.

    A layer is a row: a map for every learned axis of more than one pixel, with time to the right, and the speed, with
    the learning rate at the right side if the result has it. A speed stands in the middle of its interval. In maps the
    square root of the count decides the colour, from none to the most in the panel.

    Args:
        result: what `atrous.analysis.movement` returned.
        ink: colour of text and axes.
        paper: colour behind them.

    Example:
        >>> from atrous.analysis.movement import movement as analyse
        >>> from atrous.analysis.movement import snapshot
        >>> from atrous.nn import Dcls2d
        >>> layer = Dcls2d(8, 8, 5, dilated_kernel_size=9, groups=8)
        >>> figure = movement(analyse([snapshot(layer), snapshot(layer)]))
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['axis -2, pixels', 'axis -1, pixels', 'speed, pixels per interval']
    """
    wide = [[axis for axis, size in enumerate(layer.window) if size > 1] for layer in result.layers]
    columns = max(map(len, wide)) + 1
    figure = Figure(figsize=(3.5 * columns, 2.7 * len(wide)), facecolor=paper, layout="constrained")
    grid = figure.add_gridspec(len(wide), columns)
    for row, (layer, axes) in enumerate(zip(result.layers, wide, strict=True)):
        panels = [figure.add_subplot(grid[row, column]) for column in range(len(axes))]
        for panel, axis in zip(panels, axes, strict=True):
            _histogram(panel, layer, axis)
            panel.yaxis.label.set_color(ink)
        last = figure.add_subplot(grid[row, len(axes) :])
        panels += [last, *_speed(last, layer, result.learning_rates)]
        panels[0].set_title(layer.title, loc="left", color=ink, fontsize=10)
        for panel in panels:
            _dress(panel, ink, paper)
    return figure


def _histogram(axes: Axes, layer: LayerMovement, axis: int) -> None:
    counts, low = layer.histograms[axis].T, -(layer.window[axis] // 2)
    axes.imshow(
        counts,
        aspect="auto",
        cmap="inferno",
        norm=PowerNorm(0.5, 0, counts.max()),
        extent=(-0.5, counts.shape[1] - 0.5, low + counts.shape[0] - 0.5, low - 0.5),
        interpolation="nearest",
    )
    # From the end: learned axes are the last ones of the input.
    axes.set(xlabel="snapshot", ylabel=f"axis {axis - len(layer.window)}, pixels")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def _speed(axes: Axes, layer: LayerMovement, rates: tuple[float, ...] | None) -> list[Axes]:
    """Draw the speed, and the learning rate on a second axis, which is returned."""
    middles = np.arange(len(layer.speeds)) + 0.5
    axes.plot(middles, layer.speeds, ".-", color=_SPEED)
    axes.set(
        xlabel="snapshot", ylabel="speed, pixels per interval", xlim=(-0.5, len(layer.speeds) + 0.5), ylim=(0, None)
    )
    axes.yaxis.label.set_color(_SPEED)
    axes.spines["top"].set_visible(False)
    if rates is None:
        axes.spines["right"].set_visible(False)
        return []
    other = axes.twinx()
    other.plot(middles, rates, "--", color=_RATE)
    other.set(ylabel="learning rate", ylim=(0, None))
    other.yaxis.label.set_color(_RATE)
    other.spines["top"].set_visible(False)
    return [other]


def _dress(axes: Axes, ink: str, paper: str) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.tick_params(colors=ink)
    axes.spines[:].set_color(ink)
    axes.set_facecolor(paper)
    axes.xaxis.label.set_color(ink)
