"""Where the layers of learned spacings have put the elements of their kernels.

Legend: D channels out, C channels in, P learned elements, M axes with learned positions, k extents of a dense window,
K extents of the window of the positions, in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atrous._errors import GeometryError, UnsupportedModule
from atrous._table import aligned
from atrous.functional import dcls_kernel
from atrous.functional.interpolation import LEAST_WIDTHS
from atrous.nn.dcls import _Dcls

CROWDED = 0.1
"""The share of positions at the limits above which a window counts as too small."""

_CELLS = {"bilinear": 2, "bicubic": 4}


@dataclass(frozen=True)
class LayerPositions:
    """Say where the elements of one layer lie, or of several layers that share their positions.

    Args:
        names: dotted names of the layers; '' is the network itself.
        interpolation: how an element is spread over pixels.
        elements: of one pair of channels, prod(k) P.
        window: K for each of the M axes.
        mean: of the positions, per axis, in pixels from the pixel K // 2.
        deviation: their standard deviation, per axis.
        taps: distinct pixels that the elements of one pair of channels reach, on average.
        bound: the most that `taps` can be: of every element 2^M (bilinear) or 4^M (bicubic), or the whole window.
        at_limits: share of the elements that lie at or beyond a limit of the window along some axis.
        widths: mean of the widths in pixels, per axis; None where the interpolation has none.
        counts: for each pixel of the window, (*K), how many positions are nearest to it.

    Example:
        >>> from atrous.analysis import positions
        >>> from atrous.nn import Dcls1d
        >>> layer = Dcls1d(1, 1, 3, dilated_kernel_size=5)
        >>> layer.P.data = torch.tensor([[[[-2.0, 0.0, 0.25]]]])
        >>> found = positions(layer).layers[0]
        >>> found.histograms, found.taps, found.bound
        (((1, 0, 2, 0, 0),), 3.0, 5)
    """

    names: tuple[str, ...]
    interpolation: str
    elements: int
    window: tuple[int, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    taps: float
    bound: int
    at_limits: float
    widths: tuple[float, ...] | None
    counts: NDArray[np.int64] = field(repr=False, compare=False)

    @property
    def title(self) -> str:
        """The name of the first layer, and how many share its positions."""
        count = len(self.names)
        return (self.names[0] or "(the layer)") + (f" (shared by {count})" if count > 1 else "")

    @property
    def histograms(self) -> tuple[tuple[int, ...], ...]:
        """For each axis and pixel, how many positions are nearest to it."""
        axes = range(len(self.window))
        return tuple(tuple(self.counts.sum(tuple({*axes} - {axis})).tolist()) for axis in axes)

    @property
    def is_crowded(self) -> bool:
        """Whether more than 10 % of the elements lie at a limit: a larger window may suit them better."""
        return self.at_limits > CROWDED


@dataclass(frozen=True)
class Positions:
    """Say where the learned elements of a network lie, layer by layer. `positions` makes it.

    Args:
        layers: one entry for all layers that share positions, in order.

    Example:
        >>> from atrous.analysis import positions
        >>> from atrous.nn import Dcls1d
        >>> layer = Dcls1d(1, 1, 4, dilated_kernel_size=5)
        >>> layer.P.data = torch.tensor([[[[-2.0, 0.0, 0.25, 0.5]]]])
        >>> print(positions(layer))
        layer        interpolation  elements  window   mean  deviation  width  taps  at limits
        (the layer)  bilinear              4       5  -0.31       0.99  -       3/5      25.0%
        (the layer): more than 10% of the elements lie at a limit of the window; enlarge dilated_kernel_size
    """

    layers: tuple[LayerPositions, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain objects, for JSON."""
        return {"layers": [_plain(layer) for layer in self.layers]}

    def __str__(self) -> str:
        head = ("layer", "interpolation", "elements", "window", "mean", "deviation", "width", "taps", "at limits")
        lines = [aligned([head, *map(_row, self.layers)])]
        lines += [
            f"{layer.title}: more than {CROWDED:.0%} of the elements lie at a limit of the window; "
            "enlarge dilated_kernel_size"
            for layer in self.layers
            if layer.is_crowded
        ]
        return "\n".join(lines)


def positions(model: torch.nn.Module) -> Positions:
    """Return where the layers of learned spacings of a model have put their elements.

    Layers that share positions, widths, window and interpolation count once. A position beyond the window counts as one
    at its limit, as it does in the layer; an axis with K = 1 has no limit. Taps are counted as if every weight were 1:
    elements that share pixels share taps.

    Args:
        model: any module with a layer `Dcls1d`, `Dcls2d`, ... of `atrous.nn`, or such a layer.

    Raises:
        UnsupportedModule: a model without such a layer.
        GeometryError: positions that are not finite.

    Source: Khalfaoui-Hassani, Pellegrini and Masquelier, Dilated convolution with learnable spacings, ICLR 2023, for
    the reading of positions that gather at the limits: the window is too small.

    Example:
        >>> from atrous.nn import Dcls2d
        >>> layer = Dcls2d(1, 1, 2, dilated_kernel_size=(5, 9))
        >>> layer.P.data = torch.tensor([[[[1.0, 0.0]]], [[[-1.5, 0.5]]]])
        >>> print(positions(torch.nn.Sequential(layer)))
        layer  interpolation  elements  window  mean         deviation   width  taps  at limits
            0  bilinear              2     5x9  0.50, -0.50  0.50, 1.00  -       4/8       0.0%
    """
    shared: dict[Any, tuple[_Dcls, list[str]]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _Dcls):
            key = module.P, module.SIG, module.dilated_kernel_size, module.interpolation
            shared.setdefault(key, (module, []))[1].append(name)
    if not shared:
        raise UnsupportedModule(
            f"positions: got {type(model).__name__} without a layer of learned spacings, expected at least one; "
            "use atrous.nn.Dcls1d, Dcls2d, Dcls3d, Dcls2_1d, Dcls3_1d or Dcls3_2d"
        )
    return Positions(tuple(_layer(module, tuple(names)) for module, names in shared.values()))


@torch.no_grad()
def _layer(module: _Dcls, names: tuple[str, ...]) -> LayerPositions:
    window, interpolation, scales = module.dilated_kernel_size, module.interpolation, module.SIG
    raw = module.P.flatten(1).double().cpu()
    if not raw.isfinite().all():
        raise GeometryError(
            f"positions: got {int((~raw.isfinite()).sum())} positions of layer {names[0]!r} that are no finite number, "
            "expected none; go back to an earlier checkpoint"
        )
    low, high = torch.tensor(module._limits()).unsqueeze(-1).unbind(1)
    held = raw.clamp(low, high)
    deviation, mean = torch.std_mean(held, 1, correction=0)
    at_limits = (((raw <= low) | (raw >= high)) & (low < high)).any(0)
    edges = [np.arange(size + 1) - size // 2 - 0.5 for size in window]
    ones = torch.ones_like(module.weight)
    kernel = dcls_kernel(ones, module.P, scales, dilated_kernel_size=window, interpolation=interpolation)
    reached = kernel.flatten(2).count_nonzero(-1)
    widths = None
    if scales is not None:
        widths = tuple((scales.flatten(1).double().abs().mean(1) + LEAST_WIDTHS[interpolation]).tolist())
    return LayerPositions(
        names=names,
        interpolation=interpolation,
        elements=math.prod(module.weight.shape[2:]),
        window=window,
        mean=tuple(mean.tolist()),
        deviation=tuple(deviation.tolist()),
        taps=reached.double().mean().item(),
        bound=_bound(module, math.prod(kernel.shape[2:])),
        at_limits=at_limits.double().mean().item(),
        widths=widths,
        counts=np.histogramdd(held.T.numpy(), edges)[0].astype(np.int64),
    )


def _bound(module: _Dcls, pixels: int) -> int:
    """Return the most taps that one pair of channels can have, in a window of so many pixels."""
    cells = _CELLS.get(module.interpolation)
    if cells is None:
        return pixels
    each = math.prod(cells if size > 1 else 1 for size in module.dilated_kernel_size)
    return min(math.prod(module.weight.shape[2:]) * each, pixels)


def _plain(layer: LayerPositions) -> dict[str, Any]:
    return {
        "names": list(layer.names),
        "interpolation": layer.interpolation,
        "elements": layer.elements,
        "window": list(layer.window),
        "mean": list(layer.mean),
        "deviation": list(layer.deviation),
        "taps": layer.taps,
        "bound": layer.bound,
        "at_limits": layer.at_limits,
        "is_crowded": layer.is_crowded,
        "widths": None if layer.widths is None else list(layer.widths),
        "histograms": [list(counts) for counts in layer.histograms],
    }


def _row(layer: LayerPositions) -> tuple[object, ...]:
    window = "x".join(map(str, layer.window))
    widths = "-" if layer.widths is None else _several(layer.widths)
    taps = f"{layer.taps:.3g}/{layer.bound}"
    places = _several(layer.mean), _several(layer.deviation), widths
    return (layer.title, layer.interpolation, layer.elements, window, *places, taps, f"{layer.at_limits:.1%}")


def _several(values: tuple[float, ...]) -> str:
    # Plus 0, so that no -0.00 is printed.
    return ", ".join(f"{round(value, 2) + 0:.2f}" for value in values)
