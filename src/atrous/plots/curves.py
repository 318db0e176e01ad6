"""How training went: loss and validation mean IoU against the step, one line for every variant.

Legend: V variants.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atrous.plots.results import Variant

VARIANT_COLOURS = ("#1f83c9", "#e0701a", "#8a8f98", "#b45fa5", "#129a78", "#b89a00")
"""Colours of variants, by position; readable on white and on black, apart for colour-blind readers."""

_MARKERS = "osD^vP"


def training_curves(variants: Sequence[Variant], *, ink: str = "black", paper: str = "white") -> Figure:
    """Draw training loss and validation mean IoU against the step, in two panels.

    A variant has the same colour, by its position, in both panels and in the report.

    Args:
        variants: V results; `losses` and `validation` hold pairs of step and value.
        ink: colour of text and axes.
        paper: colour behind them.

    Example:
        >>> import numpy as np
        >>> from atrous.plots import Variant
        >>> losses, validation = ((1, 2.0), (2, 1.5)), ((2, 0.4),)
        >>> prediction = np.zeros((1, 1), np.uint8)
        >>> variant = Variant("front_end", "front end", 0.5, (0.5,), prediction, 0.5, losses, validation, 10, 1.0)
        >>> [axes.get_title(loc="left") for axes in training_curves([variant]).axes]
        ['Training loss', 'Validation mean IoU']
    """
    figure = Figure(figsize=(9, 3.7), facecolor=paper, layout="constrained")
    loss, validation = figure.subplots(1, 2)
    for position, variant in enumerate(variants):
        colour = VARIANT_COLOURS[position % len(VARIANT_COLOURS)]
        marker = _MARKERS[position % len(_MARKERS)]
        _line(loss, variant.losses, label=variant.title, color=colour, linewidth=1.3, alpha=0.9)
        _line(validation, variant.validation, label=variant.title, color=colour, marker=marker, markersize=4)
    for axes, title in ((loss, "Training loss"), (validation, "Validation mean IoU")):
        _dress(axes, title, ink, paper)
    handles, labels = validation.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, labelcolor=ink)
    return figure


def _line(axes: Axes, points: Sequence[tuple[int, float]], **style: object) -> None:
    axes.plot([step for step, _ in points], [value for _, value in points], **style)  # type: ignore[arg-type]


def _dress(axes: Axes, title: str, ink: str, paper: str) -> None:
    axes.set_facecolor(paper)
    axes.set_title(title, loc="left", color=ink, fontsize=11)
    axes.set_xlabel("step", color=ink)
    axes.tick_params(colors=ink)
    axes.grid(color=ink, alpha=0.12, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink)
