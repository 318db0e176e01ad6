"""A dense kernel as a picture: how much each pixel of its window weighs, and where learned elements lie in it.

Legend: D channels out, C channels in, P learned elements, M axes with learned positions, *K extents of the window.
"""

from __future__ import annotations

from itertools import islice, product

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from atrous._errors import ShapeError

_MOST, _COLUMNS = 8, 4
_DOT, _STEM = "#e0701a", "#1f83c9"

Floats = NDArray[np.float64]


def kernel(
    kernel: torch.Tensor, positions: torch.Tensor | None = None, *, ink: str = "black", paper: str = "white"
) -> Figure:
    """Draw the weights of the first eight pairs of channels of a dense kernel, all in one scale around 0.

    A kernel along one axis is drawn as stems, one over two axes as an image. One over three axes is summed over the
    first of them. Axes of one pixel are left out.

    Args:
        kernel: (D, C/groups, *K), such as `layer.kernel()` of a layer of learned spacings, or the weight of any
            convolution.
        positions: (M, D, C/groups, *k, P) along the last M axes, in pixels from the pixel K // 2, such as `layer.P`;
            drawn as dots, those beyond the window at its limit.
        ink: colour of text and axes.
        paper: colour behind them.

    Raises:
        ShapeError: a kernel without a window or pixel, or positions that do not fit it.

    Example:
        >>> from atrous.nn import Dcls2d
        >>> layer = Dcls2d(16, 16, 5, dilated_kernel_size=9, groups=16)
        >>> figure = kernel(layer.kernel(), layer.P)
        >>> [axes.get_title(loc="left") for axes in figure.axes[:2]]
        ['channel 0 to 0', 'channel 0 to 1']
    """
    weights, dots = _weights(kernel), _dots(kernel, positions)
    window = weights.shape[2:]
    # The last two axes of more than one pixel; over another one the sum is drawn.
    wide = [axis for axis, size in enumerate(window) if size > 1] or [0]
    shown = wide[-2:]
    weights = weights.sum(tuple(axis + 2 for axis in range(len(window)) if axis not in shown))
    pairs = list(islice(product(range(weights.shape[0]), range(weights.shape[1])), _MOST))
    columns = min(len(pairs), _COLUMNS)
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(2.6 * columns + 1.4, 2.7 * rows + 0.3), facecolor=paper, layout="constrained")
    limit = max(np.abs(weights[pair]).max() for pair in pairs) or 1.0
    label = "weight" if shown == wide else "weight, summed over the first axis"
    for index, (output, channel) in enumerate(pairs):
        axes = figure.add_subplot(rows, columns, index + 1)
        (_image if len(shown) == 2 else _stems)(axes, weights[output, channel], dots[:, output, channel][shown], limit)
        axes.set_title(f"channel {channel} to {output}", loc="left", color=ink, fontsize=10)
        _dress(axes, ink, paper)
    if len(shown) == 2:
        bar = figure.colorbar(figure.axes[0].images[0], ax=figure.axes, aspect=25, shrink=0.8)
        bar.set_label(label, color=ink)
        bar.ax.tick_params(colors=ink)
    else:
        figure.supylabel(label, color=ink, fontsize=10)
    return figure


def _weights(kernel: torch.Tensor) -> Floats:
    if kernel.ndim not in (3, 4, 5) or not kernel.numel():
        raise ShapeError(
            f"kernel: got shape {tuple(kernel.shape)}, expected (D, C/groups, *K) with a window of 1 to 3 axes and at "
            "least one pixel; pass layer.kernel(), or the weight of a convolution"
        )
    array: Floats = kernel.detach().double().cpu().numpy()
    return array


def _dots(kernel: torch.Tensor, positions: torch.Tensor | None) -> Floats:
    """Return the places of the elements as indices into the window, (N, D, C/groups, elements)."""
    window = kernel.shape[2:]
    if positions is None:
        return np.empty((len(window), *kernel.shape[:2], 0))
    dense = window[: -len(positions)] if 0 < len(positions) <= len(window) else None
    if dense is None or positions.shape[1:-1] != (*kernel.shape[:2], *dense):
        raise ShapeError(
            f"kernel: positions: got shape {tuple(positions.shape)} beside a kernel {tuple(kernel.shape)}, expected "
            "(M, D, C/groups, *k, P) for the last M axes of the window, *k being the axes before; pass layer.P"
        )
    learned = positions.detach().double().cpu().numpy()
    places = [np.broadcast_to(index[..., None], learned.shape[3:]) for index in np.indices(dense)]
    planes = [np.broadcast_to(place, learned.shape[1:]) for place in places]
    for position, size in zip(learned, window[len(dense) :], strict=True):
        planes.append(np.clip(position + size // 2, 0, size - 1))
    return np.stack(planes).reshape(len(window), *kernel.shape[:2], -1)


def _image(axes: Axes, weights: Floats, dots: Floats, limit: float) -> None:
    axes.imshow(weights, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.plot(dots[1], dots[0], "o", color="black", markersize=3.5, markeredgecolor="white", markeredgewidth=0.6)


def _stems(axes: Axes, weights: Floats, dots: Floats, limit: float) -> None:
    pixels = np.arange(len(weights))
    axes.vlines(pixels, 0, weights, color=_STEM)
    axes.plot(pixels, weights, "o", color=_STEM, markersize=4)
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.plot(dots[0], np.zeros(dots.shape[1]), "|", color=_DOT, markersize=12)
    axes.set(ylim=(-1.1 * limit, 1.1 * limit), xlim=(-0.8, len(weights) - 0.2))
    axes.spines[["top", "right"]].set_visible(False)


def _dress(axes: Axes, ink: str, paper: str) -> None:
    axes.set_facecolor(paper)
    axes.tick_params(colors=ink)
    axes.spines[:].set_color(ink)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if axes.images:
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
