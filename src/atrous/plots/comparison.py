"""What variants of a network reached: a point for every seed, a bar for the mean, a panel for every heading."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atrous.analysis.comparison import Comparison

_SEED, _MEAN = "#1f83c9", "#e0701a"


def comparison(result: Comparison, *, ink: str = "black", paper: str = "white") -> Figure:
    """Draw the scores of a comparison, one row for each contender and one panel for each heading.

    A point is one seed and a bar their mean; the dashed line goes through the mean of the first contender.

    Args:
        result: what was reached.
        ink: colour of text and axes.
        paper: colour behind them.

    Example:
        >>> from atrous.analysis import Comparison, Contender
        >>> contender = Contender("7x7", 490, 1.5, {"clean": (0.75, 0.85), "noise": (0.5, 0.5)})
        >>> [axes.get_title(loc="left") for axes in comparison(Comparison((contender,))).axes]
        ['clean', 'noise']
    """
    headings, rows = result.headings, len(result.contenders)
    figure = Figure(figsize=(2.2 + 2.4 * len(headings), 1.2 + 0.32 * rows), facecolor=paper, layout="constrained")
    panels = figure.subplots(1, len(headings), sharey=True, squeeze=False)[0]
    for axes, heading in zip(panels, headings, strict=True):
        _panel(axes, result, heading, ink, paper)
    panels[0].set_yticks(range(rows), [one.title for one in result.contenders])
    panels[0].invert_yaxis()
    figure.supxlabel(f"{result.measure}, %", color=ink, fontsize=10)
    return figure


def _panel(axes: Axes, result: Comparison, heading: str, ink: str, paper: str) -> None:
    first = 100 * result.contenders[0].mean(heading)
    axes.axvline(first, color=ink, linestyle="--", linewidth=0.8, alpha=0.5)
    for row, contender in enumerate(result.contenders):
        scores = [100 * score for score in contender.scores[heading]]
        axes.plot(scores, [row] * len(scores), "o", color=_SEED, markersize=4, alpha=0.7)
        axes.plot([100 * contender.mean(heading)], [row], "|", color=_MEAN, markersize=13, markeredgewidth=2.2)
    axes.set_title(heading, loc="left", color=ink, fontsize=10)
    axes.set_facecolor(paper)
    axes.tick_params(colors=ink, labelsize=9)
    axes.grid(axis="x", color=ink, alpha=0.12, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink)
