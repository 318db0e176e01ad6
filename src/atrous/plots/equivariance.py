"""What a shift of the image does to an output: a heat map of the error, one row for each network and direction.

Legend: R rows, T shifts.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from atrous.analysis.equivariance import ROUNDING, Equivariance

_DIRECTIONS = {1: ("",), 2: ("down", "right"), 3: ("in depth", "down", "right")}


def shift_errors(results: Mapping[str, Equivariance], *, ink: str = "black", paper: str = "white") -> Figure:
    """Draw the relative error against the shift, one row for each network and direction, on a logarithmic scale.

    Exact shifts are marked with a 0, shifts that are not compared stay empty.

    Args:
        results: of one network or several, by name.
        ink: colour of text and axes.
        paper: colour behind them.

    Example:
        >>> import torch
        >>> from atrous.analysis.equivariance import equivariance
        >>> found = equivariance(torch.nn.Conv1d(1, 1, 3), torch.ones(1, 1, 16), max_shift=3)
        >>> [text.get_text() for text in shift_errors({"convolution": found}).axes[0].texts]
        ['0', '0', '0']
    """
    rows: dict[str, dict[int, float]] = {}
    for name, result in results.items():
        for one in result.shifts:
            row = rows.setdefault(f"{name} {_direction(one.shift)}".strip(), {})
            row[max(one.shift)] = 0.0 if one.exact else one.relative
    widest = max((shift for row in rows.values() for shift in row), default=1)
    table = np.array([[row.get(shift, np.nan) for shift in range(1, widest + 1)] for row in rows.values()])

    figure = Figure(figsize=(2.6 + 0.36 * widest, 1.5 + 0.32 * len(rows)), facecolor=paper, layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor(paper)
    colours = matplotlib.colormaps["viridis"].with_extremes(under="#d9dce0", bad="none")
    extent = (0.5, widest + 0.5, len(rows) - 0.5, -0.5)
    scale = LogNorm(ROUNDING, max(1.0, float(np.nanmax(table, initial=0))))
    # LogNorm masks zeros, which are drawn in the colour of what is below the scale.
    shown = np.where(table == 0, ROUNDING / 2, table)
    picture = axes.imshow(shown, cmap=colours, norm=scale, extent=extent, aspect="auto", interpolation="nearest")
    for y, x in np.argwhere(table == 0):
        axes.text(x + 1, y, "0", ha="center", va="center", color="#4a4e55", fontsize=8)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_xlabel("shift, pixels", color=ink)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.hlines([row - 0.5 for row in range(1, len(rows))], 0.5, widest + 0.5, color=paper, linewidth=1)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(picture, ax=axes, label="largest error, relative")
    bar.ax.yaxis.label.set_color(ink)
    for panel in (axes, bar.ax):
        panel.tick_params(colors=ink, which="both")
    return figure


def _direction(shift: tuple[int, ...]) -> str:
    along = [axis for axis, pixels in enumerate(shift) if pixels]
    return _DIRECTIONS[len(shift)][along[0]] if len(along) == 1 else "diagonally"
