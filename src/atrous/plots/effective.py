"""How much each input pixel weighs in an output, inside of all that the output can read.

Legend: N axes, *S input size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Ellipse, Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from atrous._errors import ShapeError
from atrous.analysis.effective import EffectiveReceptiveField

_FIELD, _FIT = "#56b4e9", "#12b886"
_CASING = withStroke(linewidth=3, foreground="black", alpha=0.7)


def effective_receptive_field(result: EffectiveReceptiveField, *, ink: str = "black", paper: str = "white") -> Figure:
    """Draw the weight of each pixel, the theoretical receptive field, and two standard deviations of the Gaussian.

    In 2-D that is one map; in 3-D three, each summed over the axis that it does not show. Colours follow the square
    root of the weight, so that faint pixels are seen. In 1-D it is a line beside the Gaussian, in a linear scale.

    Args:
        result: what `atrous.analysis.effective_receptive_field` returned.
        ink: colour of text and axes.
        paper: colour behind them.

    Example:
        >>> from atrous.analysis.effective import EffectiveReceptiveField
        >>> weights = np.full((9, 9), 1 / 81)
        >>> figure = effective_receptive_field(EffectiveReceptiveField(weights, (4, 4), 1, ((0, 9), (0, 9))))
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['theoretical: 9 x 9 px', 'two standard deviations each way: 10.3 x 10.3 px']
    """
    planes = list(combinations(range(result.map.ndim), 2))
    size = {0: (7.5, 3.8), 1: (5.6, 5.4), 3: (12, 4.4)}[len(planes)]
    figure = Figure(figsize=size, facecolor=paper, layout="constrained")
    panels = figure.subplots(1, max(1, len(planes)), squeeze=False)[0]
    if planes:
        pictures = [_plane(axes, result, *plane) for axes, plane in zip(panels, planes, strict=True)]
        _bar(figure, panels, pictures[0], ink)
    else:
        _line(panels[0], result)
    for axes in panels:
        _dress(axes, ink, paper)
    handles, labels = panels[0].get_legend_handles_labels()
    columns = 1 if len(planes) == 1 else 2
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, labelcolor=ink)
    return figure


def effective_receptive_fields(
    results: Mapping[str, EffectiveReceptiveField], *, ink: str = "black", paper: str = "white"
) -> Figure:
    """Draw several fields side by side, around their centres and in one scale, so that sizes and shapes compare.

    Each is drawn as `effective_receptive_field` draws it, and has its extents in the title. In 3-D every field is a
    column of three maps.

    Args:
        results: what `atrous.analysis.effective_receptive_field` returned, by title; all with the same axes.
        ink: colour of text and axes.
        paper: colour behind them.

    Raises:
        ShapeError: no results, or results of another number of axes than the first.

    Source: Khalfaoui-Hassani, Pellegrini and Masquelier, Dilated convolution with learnable spacings, ICLR 2023,
    appendix 12, for the fields of plain, dilated and learned kernels.

    Example:
        >>> fields = {
        ...     name: EffectiveReceptiveField(np.full((9, 9), 1 / 81), (4, 4), 1, ((4 - half, 5 + half),) * 2)
        ...     for name, half in (("plain", 1), ("dilated", 2))
        ... }
        >>> for axes in effective_receptive_fields(fields).axes[:2]:
        ...     print(axes.get_title(loc="left"))
        plain
        theoretical: 3 x 3 px
        effective: 10.3 x 10.3 px
        dilated
        theoretical: 5 x 5 px
        effective: 10.3 x 10.3 px
    """
    ndims = {name: result.map.ndim for name, result in results.items()}
    if len(set(ndims.values())) != 1:
        raise ShapeError(f"effective_receptive_fields: results: got axes {ndims}, expected one number of axes for all")
    planes = list(combinations(range(max(ndims.values())), 2))
    figure = Figure(
        figsize=(3.6 * len(results) + 0.6, 3.9 * max(1, len(planes))), facecolor=paper, layout="constrained"
    )
    panels = figure.subplots(max(1, len(planes)), len(results), squeeze=False)
    for column, (name, result) in zip(panels.T, results.items(), strict=True):
        if planes:
            pictures = [_plane(axes, result, *plane) for axes, plane in zip(column, planes, strict=True)]
        else:
            _line(column[0], result)
        _centre(column, list(results.values()), result, planes)
        theoretical, effective = _labels(result)
        title = f"{name}\n{theoretical}\neffective: {effective.partition(': ')[2]}"
        column[0].set_title(title, loc="left", color=ink, fontsize=10)
    if planes:
        _bar(figure, panels, pictures[0], ink)
    for axes in panels.flat:
        _dress(axes, ink, paper)
    return figure


def _labels(result: EffectiveReceptiveField) -> tuple[str, str]:
    theoretical = " x ".join(map(str, result.receptive_field))
    effective = " x ".join(f"{extent:.1f}" for extent in result.extent)
    return f"theoretical: {theoretical} px", f"two standard deviations each way: {effective} px"


def _bar(figure: Figure, panels: NDArray[np.object_], picture: AxesImage, ink: str) -> None:
    bar = figure.colorbar(picture, ax=panels, aspect=25, shrink=0.8)
    bar.set_label("gradient, of the largest (square-root scale)", color=ink)
    bar.ax.tick_params(colors=ink)


def _dress(axes: Axes, ink: str, paper: str) -> None:
    axes.set_facecolor(paper)
    axes.tick_params(colors=ink)
    axes.xaxis.label.set_color(ink)
    axes.yaxis.label.set_color(ink)
    axes.spines[:].set_color(ink)


def _plane(axes: Axes, result: EffectiveReceptiveField, row: int, column: int) -> AxesImage:
    weights = result.map.sum(axis=tuple(axis for axis in range(result.map.ndim) if axis not in (row, column)))
    picture = axes.imshow(weights / weights.max(), cmap="inferno", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    (top, bottom), (left, right) = result.window[row], result.window[column]
    theoretical, effective = _labels(result)
    field = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, edgecolor=_FIELD, label=theoretical)
    middle = (result.centre[column], result.centre[row])
    fit = Ellipse(middle, result.extent[column], result.extent[row], edgecolor=_FIT, linestyle="--", label=effective)
    for patch in (field, fit):
        patch.set(fill=False, linewidth=1.6, path_effects=[_CASING])
        axes.add_patch(patch)
    axes.set(xlim=_shown(result, column), ylim=_shown(result, row)[::-1])
    axes.set(xlabel=f"pixel of axis {column}", ylabel=f"pixel of axis {row}")
    return picture


def _line(axes: Axes, result: EffectiveReceptiveField) -> None:
    (start, stop), (low, high) = result.window[0], _shown(result, 0)
    (centre,), (deviation,) = result.centre, result.deviation
    theoretical, effective = _labels(result)
    axes.axvspan(start - 0.5, stop - 0.5, color=_FIELD, alpha=0.2, linewidth=0, label=theoretical)
    axes.stairs(result.map, np.arange(len(result.map) + 1) - 0.5, fill=True, color="#1f83c9", label="measured")
    if deviation:
        places = np.linspace(low, high, 400)
        bell = np.exp(-(((places - centre) / deviation) ** 2) / 2) / (deviation * np.sqrt(2 * np.pi))
        axes.plot(places, bell, "--", color=_FIT, linewidth=1.8, label="Gaussian of the same moments")
    axes.axvline(centre - 2 * deviation, color=_FIT, linewidth=1, label=effective)
    axes.axvline(centre + 2 * deviation, color=_FIT, linewidth=1)
    axes.set(xlim=(low, high), ylim=(0, None), xlabel="pixel", ylabel="share of the gradient")


def _shown(result: EffectiveReceptiveField, axis: int) -> tuple[float, float]:
    """Return what to show of an axis: the theoretical field inside of the image, and a little around."""
    (start, stop), size = result.window[axis], result.map.shape[axis]
    low, high = max(start, 0), min(stop, size)
    around = 0.06 * (high - low) + 0.5
    return low - 0.5 - around, high - 0.5 + around


def _centre(
    column: NDArray[np.object_],
    results: Sequence[EffectiveReceptiveField],
    result: EffectiveReceptiveField,
    planes: Sequence[tuple[int, int]],
) -> None:
    """Show of every axis as much as the largest of all results needs, around the middle of this one."""

    def span(axis: int) -> tuple[float, float]:
        half = max(high - low for low, high in (_shown(one, axis) for one in results)) / 2
        low, high = _shown(result, axis)
        return (low + high) / 2 - half, (low + high) / 2 + half

    for axes, (row, across) in zip(column, planes or [(0, 0)], strict=True):
        axes.set_xlim(span(across))
        if planes:
            axes.set_ylim(span(row)[::-1])
