"""How far the elements of learned spacings move while a network learns.

Legend: D channels out, C channels in, P learned elements, M axes with learned positions, n elements of a layer in all,
K extents of the window of the positions in pixels, E snapshots.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from atrous._errors import ShapeError
from atrous._table import aligned
from atrous.analysis.positions import LayerPositions, Positions, positions


@dataclass(frozen=True)
class Snapshot:
    """Say where every learned element of a network lies at one moment. `snapshot` makes it.

    Args:
        reading: histograms, means, ... as `atrous.analysis.positions` returns them.
        places: for each layer of `reading`, (M, n) positions inside of the window, in pixels from the pixel K // 2.

    Example:
        >>> from atrous.nn import Dcls1d
        >>> layer = Dcls1d(1, 1, 2, dilated_kernel_size=5)
        >>> layer.P.data = torch.tensor([[[[-7.0, 0.5]]]])
        >>> snapshot(layer).places[0].tolist()
        [[-2.0, 0.5]]
    """

    reading: Positions
    places: tuple[NDArray[np.float32], ...] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain objects, for JSON."""
        layers = self.reading.to_dict()["layers"]
        return {"layers": [{**layer, "places": held.tolist()} for layer, held in zip(layers, self.places, strict=True)]}

    def __str__(self) -> str:
        return str(self.reading)


@dataclass(frozen=True)
class LayerMovement:
    """Say how the elements of one layer moved, or of several layers that share their positions.

    Args:
        title: the name of the first layer, and how many share its positions.
        window: K for each of the M axes.
        histograms: for each axis (E, K), how many positions were nearest to each pixel.
        speeds: E - 1, mean distance of an element from where it was in the snapshot before, in pixels.
        net: mean distance of an element from where it was in the first snapshot, in pixels.
        correlation: Pearson's, of the speeds with the learning rates; None without them, or where either is constant.

    Example:
        >>> from atrous.nn import Dcls1d
        >>> layer = Dcls1d(1, 1, 1, dilated_kernel_size=5)
        >>> found = []
        >>> for place in (0, 2, 1):
        ...     _ = layer.P.data.fill_(place)
        ...     found.append(snapshot(layer))
        >>> moved = movement(found).layers[0]
        >>> moved.speeds, moved.path, moved.net
        ((2.0, 1.0), 3.0, 1.0)
    """

    title: str
    window: tuple[int, ...]
    histograms: tuple[NDArray[np.int64], ...] = field(repr=False, compare=False)
    speeds: tuple[float, ...]
    net: float
    correlation: float | None

    @property
    def path(self) -> float:
        """The mean length of the way that an element went, in pixels."""
        return sum(self.speeds)


@dataclass(frozen=True)
class Movement:
    """Say how the learned elements of a network moved, layer by layer. `movement` makes it.

    Args:
        layers: one entry for all layers that share positions, in order.
        learning_rates: E - 1, of the weights between the snapshots; None if they were not given.

    Example:
        >>> from atrous.nn import Dcls1d
        >>> layer = Dcls1d(1, 1, 1, dilated_kernel_size=9)
        >>> found = []
        >>> for place in (0, 2, 3, 3.5):
        ...     _ = layer.P.data.fill_(place)
        ...     found.append(snapshot(layer))
        >>> print(movement(found, [0.4, 0.2, 0.1]))
        layer        window  first  fastest  last  path   net  with rate
        (the layer)       9   2.00     2.00  0.50  3.50  3.50       1.00
    """

    layers: tuple[LayerMovement, ...]
    learning_rates: tuple[float, ...] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain objects, for JSON."""
        rates = None if self.learning_rates is None else list(self.learning_rates)
        return {"layers": [_plain(layer) for layer in self.layers], "learning_rates": rates}

    def __str__(self) -> str:
        head: tuple[object, ...] = ("layer", "window", "first", "fastest", "last", "path", "net")
        rows = [_row(layer) for layer in self.layers]
        if self.learning_rates is None:
            return aligned([head, *(row[:-1] for row in rows)])
        return aligned([(*head, "with rate"), *rows])


def snapshot(model: torch.nn.Module) -> Snapshot:
    """Copy the positions of all layers of learned spacings of a model; layers that share theirs are read once.

    A position beyond the window is copied as one at its limit, as it counts in the layer. Later training does not
    change the copy, and it can be pickled.

    Args:
        model: any module with a layer `Dcls1d`, `Dcls2d`, ... of `atrous.nn`, or such a layer.

    Raises:
        UnsupportedModule: a model without such a layer.
        GeometryError: positions that are not finite.

    Example:
        >>> from atrous.nn import Dcls2d
        >>> found = snapshot(Dcls2d(4, 4, 3, dilated_kernel_size=7, groups=4))
        >>> [places.shape for places in found.places]
        [(2, 12)]
    """
    reading = positions(model)
    return Snapshot(reading, tuple(_places(model.get_submodule(layer.names[0]), layer) for layer in reading.layers))


def movement(snapshots: Sequence[Snapshot], learning_rates: Sequence[float] | None = None) -> Movement:
    """Return how the learned elements moved between snapshots, taken at equal times: after every epoch, say.

    The speed is the mean over the n elements of the Euclidean distance between two snapshots, in pixels per interval.
    In the networks of the paper it follows the learning rate; the correlation says how closely.

    Args:
        snapshots: E of them, of the same layers, in the order of time; the first one is best taken before training.
        learning_rates: E - 1, one for each interval between two snapshots.

    Raises:
        ShapeError: fewer than two snapshots, layers that differ, or another number of learning rates.

    Source: Khalfaoui-Hassani, Pellegrini and Masquelier, Dilated convolution with learnable spacings, ICLR 2023,
    appendices 10 and 11, for histograms and mean speed per epoch.

    Example:
        >>> from atrous.nn import Dcls2d
        >>> layer = Dcls2d(1, 1, 2, dilated_kernel_size=9)
        >>> _ = layer.P.data.zero_()
        >>> start = snapshot(layer)
        >>> _ = layer.P.data.add_(torch.tensor([3.0, -4.0]).view(2, 1, 1, 1))
        >>> print(movement([start, snapshot(layer), snapshot(layer)]))
        layer        window  first  fastest  last  path   net
        (the layer)     9x9   5.00     5.00  0.00  5.00  5.00
    """
    _check(snapshots, learning_rates)
    rates = None if learning_rates is None else tuple(float(rate) for rate in learning_rates)
    count = len(snapshots[0].places)
    return Movement(tuple(_layer(snapshots, index, rates) for index in range(count)), rates)


def _places(module: torch.nn.Module, layer: LayerPositions) -> NDArray[np.float32]:
    raw = cast("torch.Tensor", module.P).detach().flatten(1).float().cpu()
    sizes = torch.tensor(layer.window).unsqueeze(-1)
    # Clamping copies, so that training does not move what is kept.
    places: NDArray[np.float32] = raw.clamp(-(sizes // 2), sizes - 1 - sizes // 2).numpy()
    return places


def _check(snapshots: Sequence[Snapshot], learning_rates: Sequence[float] | None) -> None:
    if len(snapshots) < 2:
        raise ShapeError(
            f"movement: snapshots: got {len(snapshots)}, expected at least 2; take one before training and one after "
            "every epoch"
        )
    first = _layout(snapshots[0])
    for index, other in enumerate(snapshots):
        if _layout(other) != first:
            raise ShapeError(
                f"movement: snapshots: the layers of snapshot {index} are not those of snapshot 0 (names, windows or "
                "numbers of elements differ), expected snapshots of one network"
            )
    if learning_rates is not None and len(learning_rates) != len(snapshots) - 1:
        raise ShapeError(
            f"movement: learning_rates: got {len(learning_rates)} for {len(snapshots)} snapshots, expected "
            f"{len(snapshots) - 1}; give one for each interval between two"
        )


def _layout(one: Snapshot) -> list[tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...]]]:
    layers = zip(one.reading.layers, one.places, strict=True)
    return [(layer.names, layer.window, places.shape) for layer, places in layers]


def _layer(snapshots: Sequence[Snapshot], index: int, rates: tuple[float, ...] | None) -> LayerMovement:
    read = [one.reading.layers[index] for one in snapshots]
    places = [one.places[index] for one in snapshots]
    speeds = tuple(_distance(before, after) for before, after in pairwise(places))
    axes = range(len(read[0].window))
    return LayerMovement(
        title=read[0].title,
        window=read[0].window,
        histograms=tuple(np.array([one.histograms[axis] for one in read]) for axis in axes),
        speeds=speeds,
        net=_distance(places[0], places[-1]),
        correlation=None if rates is None else _correlation(speeds, rates),
    )


def _distance(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(after.astype(np.float64) - before, axis=0).mean())


def _correlation(speeds: tuple[float, ...], rates: tuple[float, ...]) -> float | None:
    try:
        return statistics.correlation(speeds, rates)
    except statistics.StatisticsError:  # one of them is constant, or they are fewer than two
        return None


def _plain(layer: LayerMovement) -> dict[str, Any]:
    return {
        "title": layer.title,
        "window": list(layer.window),
        "histograms": [counts.tolist() for counts in layer.histograms],
        "speeds": list(layer.speeds),
        "path": layer.path,
        "net": layer.net,
        "correlation": layer.correlation,
    }


def _row(layer: LayerMovement) -> tuple[object, ...]:
    window = "x".join(map(str, layer.window))
    numbers = layer.speeds[0], max(layer.speeds), layer.speeds[-1], layer.path, layer.net
    correlation = "-" if layer.correlation is None else f"{layer.correlation:.2f}"
    return (layer.title, window, *(f"{number:.2f}" for number in numbers), correlation)
