"""What each layer costs: bars of its multiply-accumulates and of its arithmetic intensity.

Legend: L layers with multiply-accumulates.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from atrous.analysis.cost import Cost

_TAPS, _PADDING, _INTENSITY = "#1f83c9", "#e0701a", "#8a8f98"


def cost_bars(cost: Cost, *, ink: str = "black", paper: str = "white") -> Figure:
    """Draw MACs, the part of them on padding, and MACs per byte, one bar for each layer that has MACs.

    Args:
        cost: the result to draw.
        ink: colour of text and axes.
        paper: colour behind them.

    Example:
        >>> import torch
        >>> from atrous.analysis.cost import cost
        >>> found = cost(torch.nn.Conv1d(1, 1, 3, padding=1), torch.zeros(1, 1, 8))
        >>> [axes.get_title(loc="left") for axes in cost_bars(found).axes]
        ['Multiply-accumulates', 'MACs per byte']
    """
    layers = [layer for layer in cost.layers if layer.macs]
    figure = Figure(figsize=(9, 1.5 + 0.22 * len(layers)), facecolor=paper, layout="constrained")
    macs, intensity = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = range(len(layers))
    padded = [layer.macs * float(layer.padding or 0) for layer in layers]
    macs.barh(places, [layer.macs for layer in layers], color=_TAPS, label="all")
    macs.barh(places, padded, color=_PADDING, label="on padding")
    intensity.barh(places, [layer.intensity for layer in layers], color=_INTENSITY)
    macs.set_yticks(places, [layer.name for layer in layers], fontsize=8)
    if layers:
        macs.set_ylim(len(layers) - 0.4, -0.6)  # the first layer on top
    _dress(macs, "Multiply-accumulates", ink, paper)
    macs.xaxis.set_major_formatter(EngFormatter())  # 20 M, not 2.0 with 1e7 below the axis
    _dress(intensity, "MACs per byte", ink, paper)
    intensity.tick_params(axis="y", length=0)
    figure.legend(*macs.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, labelcolor=ink)
    return figure


def _dress(axes: Axes, title: str, ink: str, paper: str) -> None:
    axes.set_facecolor(paper)
    axes.set_title(title, loc="left", color=ink, fontsize=11)
    axes.tick_params(colors=ink)
    axes.grid(axis="x", color=ink, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink)
