"""How far into an output the padding of a network is felt, for every padding mode.

Legend: B batch, C in, D out, *S image size, *P output size, p output index.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch

from atrous._errors import GeometryError, ShapeError
from atrous._table import aligned
from atrous.analysis.equivariance import first_output, interior, period, rates_of, unpadded, window
from atrous.footprint import Footprint, trace_footprint

MODES = ("zeros", "reflect", "replicate", "circular")
"""The padding modes of torch's convolutions."""


@dataclass(frozen=True)
class Borders:
    """Say how wrong outputs are near the border of an image. `borders` makes it.

    Args:
        distances: from an output to the outermost one of its nearest side, pixels.
        errors: for each padding mode the mean absolute error at each distance.
        scale: mean absolute output, to compare errors with.
        clear: distance from which on no padding is read, by the footprint; None if the image has no such place.
        skipped: padding modes that do not fit the window, each with the reason.

    Example:
        >>> from atrous.analysis import borders
        >>> result = borders(torch.nn.Conv1d(1, 1, 3, padding=1), torch.rand(1, 1, 24), size=12)
        >>> result.errors["zeros"][1:]
        (0.0, 0.0, 0.0, 0.0, 0.0)
    """

    distances: tuple[int, ...]
    errors: Mapping[str, tuple[float, ...]]
    scale: float
    clear: int | None
    skipped: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain objects, for JSON."""
        return {
            "distances": list(self.distances),
            "errors": {mode: list(errors) for mode, errors in self.errors.items()},
            "scale": self.scale,
            "clear": self.clear,
            "skipped": dict(self.skipped),
        }

    def __str__(self) -> str:
        rows: list[Sequence[object]] = [("distance", *self.errors)]
        for distance, *errors in zip(self.distances, *self.errors.values(), strict=True):
            rows.append((distance, *(f"{error:.2e}" for error in errors)))
        return "\n".join([aligned(rows), *(f"{mode} is left out: {reason}" for mode, reason in self.skipped.items())])


def borders(model: torch.nn.Module, image: torch.Tensor, *, size: int, modes: Sequence[str] = MODES) -> Borders:
    """Return the error that padding makes, by distance from the border, for every padding mode.

    A window of `size` pixels is cut from the middle of the image. The network runs on it with its convolutions padded
    by each mode, and once on the whole image, which gives the truth: there real pixels stand where padding would be.
    Copies of the network run in double precision and evaluation mode. Padding that is no convolution's own stays as it
    is, and transposed convolutions know only zeros. A mode that does not fit the window, as reflection by more pixels
    than there are, is left out, and the table says so.

    Args:
        model: from (B, C, *S) to (B, D, *P).
        image: (B, C, *S), larger than the window by what the network reads around it.
        size: side of the window, pixels.
        modes: of 'zeros', 'reflect', 'replicate' and 'circular'.

    Raises:
        GeometryError: an unknown mode, modes of which none fits the window, or a network whose outputs do not move
            along with the image at one rate.
        ShapeError: an image that is too small for a truth, or an output that is not (B, D, *P).
        UnsupportedModule: a network whose footprint is not known.

    Example:
        >>> image = torch.randn(1, 1, 40, generator=torch.Generator().manual_seed(0))
        >>> mean = torch.nn.Conv1d(1, 1, 3, padding=2, dilation=2, bias=False)
        >>> _ = torch.nn.init.constant_(mean.weight, 1 / 3)
        >>> found = borders(mean, image, size=10, modes=("zeros", "replicate"))
        >>> print(found)
        distance     zeros  replicate
               0  3.00e-01   3.77e-01
               1  3.10e-01   3.15e-01
               2  0.00e+00   0.00e+00
               3  0.00e+00   0.00e+00
               4  0.00e+00   0.00e+00
        >>> found.clear
        2
    """
    for mode in modes:
        if mode not in MODES:
            raise GeometryError(f"borders: got padding mode {mode!r}, expected one of {MODES}")
    network, image = copy.deepcopy(model).double().eval(), image.double()
    axes = image.ndim - 2
    if axes < 1 or not 0 < size <= min(image.shape[2:]):
        raise ShapeError(
            f"borders: got an image of shape {tuple(image.shape)}, expected (B, C, *S) with at least "
            f"size={size} pixels along each axis, and a size of at least 1"
        )
    whole = trace_footprint(network, image)
    start = [(pixels - size) // 2 // step * step for pixels, step in zip(image.shape[2:], period(whole), strict=True)]
    crop = window(image, start, [size] * axes)
    fp = trace_footprint(_with_padding(network, "zeros"), crop)  # its own mode may not fit the window
    rates = rates_of(fp, "borders")
    first = [int(place / rate) for place, rate in zip(start, rates, strict=True)]
    _check_truth(whole, fp, first, size)
    with torch.no_grad():
        truth = window(first_output(network(image)), first, fp.output_size)
        distance = _distances(fp.output_size, rates)
        distances = tuple(sorted(set(distance.flatten().tolist())))
        errors, skipped = {}, {}
        for mode in modes:
            try:
                output = first_output(_with_padding(network, mode)(crop))
            except (RuntimeError, ValueError) as error:
                skipped[mode] = str(error).partition("\n")[0]
                continue
            difference = (output - truth).abs().mean((0, 1))
            errors[mode] = tuple(float(difference[distance == one].mean()) for one in distances)
    if skipped and not errors:
        mode, reason = next(iter(skipped.items()))
        raise GeometryError(
            f"borders: padding {mode!r} does not fit a window of size={size}: {reason}; give a larger one"
        )
    return Borders(distances, errors, float(truth.abs().mean()), _clear(fp), skipped)


def _check_truth(whole: Footprint, fp: Footprint, first: Sequence[int], size: int) -> None:
    for axis, (clear, begin, count) in enumerate(zip(interior(whole), first, fp.output_size, strict=True)):
        if begin < clear[0] or begin + count > clear[1]:
            raise ShapeError(
                f"borders: got an image of {whole.input_size[axis]} pixels along axis {axis}, where {unpadded(clear)}, "
                f"expected none in outputs {begin} to {begin + count - 1}, the truth for size={size}; "
                "give a larger image or a lower size"
            )


def _with_padding(network: torch.nn.Module, mode: str) -> torch.nn.Module:
    """Return a copy whose convolutions are padded by `mode`."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)):
            module.padding_mode = mode  # type: ignore[assignment]
    return network


def _distances(sizes: Sequence[int], rates: Sequence[Fraction]) -> torch.Tensor:
    """Return (*P) pixels from each output to the outermost one of its nearest side."""
    found = torch.full(tuple(sizes), torch.iinfo(torch.int64).max)
    for axis, (size, rate) in enumerate(zip(sizes, rates, strict=True)):
        along = [int(min(p, size - 1 - p) * rate) for p in range(size)]
        shape = [-1 if one == axis else 1 for one in range(len(sizes))]
        found = found.minimum(torch.tensor(along).reshape(shape))
    return found


def _clear(fp: Footprint) -> int | None:
    """Return the distance from which on outputs read no padding."""
    found = 0
    for (start, stop), size, rate in zip(interior(fp), fp.output_size, rates_of(fp, "borders"), strict=True):
        outputs = max(start, size - stop)
        if outputs > (size - 1) // 2:
            return None
        found = max(found, int(outputs * rate))
    return found
