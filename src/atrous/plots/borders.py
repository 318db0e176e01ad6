"""How wrong outputs are near the border: mean error against the distance, one curve for every padding mode.

Legend: K distances.
"""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from atrous.analysis.borders import Borders

_STYLES = {
    "zeros": ("#1f83c9", "o"),
    "reflect": ("#e0701a", "s"),
    "replicate": ("#129a78", "D"),
    "circular": ("#b45fa5", "^"),
}


def border_errors(borders: Borders, *, ink: str = "black", paper: str = "white") -> Figure:
    """Draw the mean absolute error of each padding mode against the distance from the border.

    A dashed line stands where, by the footprint, no padding is read any more.

    Args:
        borders: the result to draw.
        ink: colour of text and axes.
        paper: colour behind them.

    Example:
        >>> import torch
        >>> from atrous.analysis.borders import borders
        >>> found = borders(torch.nn.Conv1d(1, 1, 3, padding=1), torch.ones(1, 1, 16), size=8)
        >>> [line.get_label() for line in border_errors(found).axes[0].lines]
        ['zeros', 'reflect', 'replicate', 'circular', 'no padding read']
    """
    figure = Figure(figsize=(7, 3.7), facecolor=paper, layout="constrained")
    axes = figure.subplots()
    for mode, errors in borders.errors.items():
        colour, marker = _STYLES[mode]
        axes.plot(borders.distances, errors, color=colour, marker=marker, markersize=3.5, linewidth=1.3, label=mode)
    if borders.clear is not None:
        axes.axvline(borders.clear, color=ink, alpha=0.6, linestyle="--", linewidth=1, label="no padding read")
    axes.set_facecolor(paper)
    axes.set_title("Error that padding makes", loc="left", color=ink, fontsize=11)
    axes.set_xlabel("distance from the border, pixels", color=ink)
    axes.set_ylabel("mean absolute error", color=ink)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(colors=ink)
    axes.grid(color=ink, alpha=0.12, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink)
    axes.legend(frameon=False, labelcolor=ink)
    return figure
