"""Which pixels an output reads, and by how many paths: the window as a map with its holes, and each axis as bars.

Legend: N axes, F receptive field in pixels.
"""

from __future__ import annotations

from decimal import Decimal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from atrous._errors import GeometryError
from atrous.analysis.gridding import AxisGridding, Gridding

_HOLE = "#e0701a"
# Without its white, which would be lost on paper.
_PATHS = ListedColormap(matplotlib.colormaps["Blues"](np.linspace(0.25, 1, 256)))
_FEWEST = 1e-4  # Of the most paths; below, all pixels look alike.


def gridding(result: Gridding, *, ink: str = "black", paper: str = "white") -> Figure:
    """Draw the paths to every pixel of the receptive field; holes stand out in orange.

    One panel for each axis has a bar for each pixel, and a tick below each hole. Of two or more axes, the last two have
    a map, in a logarithmic scale: their paths added up over other axes, or, where no paths over all axes were counted,
    the product of their bars.

    Args:
        result: what `atrous.analysis.gridding` returned.
        ink: colour of text and axes.
        paper: colour behind them.

    Raises:
        GeometryError: an axis along which nothing is read.

    Example:
        >>> from atrous.analysis.gridding import Gridding, hdc
        >>> figure = gridding(Gridding((hdc((2, 2, 2)).axis,) * 2))
        >>> figure.axes[0].get_title(loc="left")
        'Product: 49 of 169 pixels'
    """
    if any(not axis.paths for axis in result.axes):
        raise GeometryError("gridding: got an axis along which nothing is read, expected a pixel on each; ask a layer")
    count = len(result.axes)
    has_map = count > 1
    figure = Figure(figsize=(9 if has_map else 6, (2.6, 4.4, 5.6)[count - 1]), facecolor=paper, layout="constrained")
    grid = figure.add_gridspec(count, 1 + has_map, width_ratios=[1.15, 1] if has_map else [1])
    if has_map:
        axes = figure.add_subplot(grid[:, 0])
        what, shares, read = _window(result)
        bar = _map(figure, axes, shares, read)
        bar.set_label("paths, of the most to any pixel; holes are orange", color=ink)
        bar.ax.tick_params(colors=ink)
        _dress(axes, ink, paper)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(f"axis {count - 1}", color=ink)
        axes.set_ylabel(f"axis {count - 2}", color=ink)
        held = _of(int(read.sum()), read.size)
        axes.set_title(f"{what}: {held}", loc="left", color=ink, fontsize=11)
    bars = [figure.add_subplot(grid[index, -1]) for index in range(count)]
    for index, (axes, axis) in enumerate(zip(bars, result.axes, strict=True)):
        _bars(axes, axis, ink, paper)
        axes.set_title(f"Axis {index}: {_of(axis.read, axis.receptive_field)}", loc="left", color=ink, fontsize=10)
    bars[-1].set_xlabel("pixel of the receptive field", color=ink)
    return figure


def _of(read: int, field: int) -> str:
    return f"{read} of {field} pixels"


def _shares(axis: AxisGridding) -> NDArray[np.float64]:
    """Return the paths to each pixel over the most to any; whole numbers may be too large for floats."""
    most = max(axis.paths)
    return np.array([count / most for count in axis.paths])


def _window(result: Gridding) -> tuple[str, NDArray[np.float64], NDArray[np.bool_]]:
    """Return what the map of the last two axes is, the paths to each pixel over the most to any, and what is read."""
    if result.joint is not None:
        paths = result.joint.sum(tuple(range(result.joint.ndim - 2)))
        return "Window", paths / paths.max(), paths > 0
    rows, columns = result.axes[-2:]
    shares = np.multiply.outer(_shares(rows), _shares(columns))
    # A share may round to 0.
    return "Product", shares, np.multiply.outer(np.array(rows.paths) != 0, np.array(columns.paths) != 0)


def _map(figure: Figure, axes: Axes, shares: NDArray[np.float64], read: NDArray[np.bool_]) -> Colorbar:
    fewest = max(_FEWEST, min(0.5, shares[read].min()))
    axes.imshow(read, cmap=ListedColormap([_HOLE]), interpolation="nearest")
    picture = axes.imshow(
        np.ma.masked_where(~read, np.maximum(shares, fewest)),
        cmap=_PATHS,
        norm=LogNorm(fewest, 1),
        interpolation="nearest",
    )
    bar = figure.colorbar(picture, ax=axes, location="bottom", shrink=0.8, aspect=30)
    bar.minorticks_off()
    ticks = [fewest, fewest**0.5, 1]
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    return bar


def _bars(axes: Axes, axis: AxisGridding, ink: str, paper: str) -> None:
    axes.stairs(_shares(axis), np.arange(axis.receptive_field + 1) - 0.5, fill=True, color="#1f83c9")
    axes.plot(axis.holes, [-0.06] * len(axis.holes), "|", color=_HOLE, markersize=6, markeredgewidth=2)
    axes.set_ylabel("paths", color=ink)
    axes.set(ylim=(-0.12, 1.05), xlim=(-0.8, axis.receptive_field - 0.2))
    most = max(axis.paths)
    axes.set_yticks([0, 1], ["0", f"{most:,}" if most < 10**6 else f"{Decimal(most):.1e}"])
    _dress(axes, ink, paper)


def _dress(axes: Axes, ink: str, paper: str) -> None:
    axes.set_facecolor(paper)
    axes.tick_params(colors=ink)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
