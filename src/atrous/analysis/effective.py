"""How much each input pixel truly weighs in an output: the effective receptive field, measured by gradients.

Legend: B images, C in, D out, N axes, *S input size, *P output size.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atrous._errors import AtrousError, GeometryError, ShapeError
from atrous._table import aligned
from atrous.footprint import trace_footprint
from atrous.footprint.export import evaluating

_PATIENCE = 2.0  # Seconds after which a run says how far it is.


@dataclass(frozen=True, eq=False)
class EffectiveReceptiveField:
    """Say how much each input pixel weighs in one output. `effective_receptive_field` makes it.

    Args:
        map: (*S) mean absolute gradient, scaled to a sum of 1.
        at: the output, N indices.
        images: B, over which the map is the mean.
        window: (start, stop) per axis of what the output can read, half-open; it may reach into the padding.

    Example:
        >>> field = EffectiveReceptiveField(np.array([0.25, 0.5, 0.25]), (1,), 1, ((0, 3),))
        >>> field.centre, field.receptive_field
        ((1.0,), (3,))
        >>> field.deviation[0] ** 2
        0.5000000000000001
    """

    map: NDArray[np.float64]
    at: tuple[int, ...]
    images: int
    window: tuple[tuple[int, int], ...]

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """The theoretical one: pixels from the first to the last that the output can read, per axis."""
        return tuple(stop - start for start, stop in self.window)

    @property
    def centre(self) -> tuple[float, ...]:
        """Mean of the map, pixels, per axis."""
        return tuple(float(profile @ np.arange(len(profile))) for profile in self.profiles)

    @property
    def deviation(self) -> tuple[float, ...]:
        """Standard deviation of the map, pixels, per axis: that of the Gaussian with the same moments."""
        return tuple(
            math.sqrt(profile @ (np.arange(len(profile)) - centre) ** 2)
            for profile, centre in zip(self.profiles, self.centre, strict=True)
        )

    @property
    def extent(self) -> tuple[float, ...]:
        """Four standard deviations, pixels, per axis: they hold 95.45 % of a Gaussian."""
        return tuple(4 * deviation for deviation in self.deviation)

    @property
    def ratio(self) -> tuple[float, ...]:
        """Effective extent over theoretical receptive field, per axis; up to 1.15 where all pixels weigh alike."""
        return tuple(extent / field for extent, field in zip(self.extent, self.receptive_field, strict=True))

    @property
    def profiles(self) -> tuple[NDArray[np.float64], ...]:
        """The map, summed over all axes but one, for each axis."""
        axes = range(self.map.ndim)
        return tuple(self.map.sum(axis=tuple(other for other in axes if other != axis)) for axis in axes)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain objects, for JSON; of the map, its profiles."""
        return {
            "at": list(self.at),
            "images": self.images,
            "window": [list(span) for span in self.window],
            "receptive_field": list(self.receptive_field),
            "centre": list(self.centre),
            "deviation": list(self.deviation),
            "extent": list(self.extent),
            "ratio": list(self.ratio),
            "profiles": [profile.tolist() for profile in self.profiles],
        }

    def __str__(self) -> str:
        rows: list[tuple[object, ...]] = [("axis", "output", "receptive field", "deviation", "effective", "ratio")]
        columns = zip(self.at, self.receptive_field, self.deviation, self.extent, self.ratio, strict=True)
        for axis, (at, field, deviation, extent, ratio) in enumerate(columns):
            rows.append((axis, at, field, f"{deviation:.2f}", f"{extent:.1f}", f"{ratio:.2f}"))
        return aligned(rows)


def effective_receptive_field(
    model: torch.nn.Module, images: torch.Tensor, *, at: tuple[int, ...] | None = None, batch: int = 4
) -> EffectiveReceptiveField:
    """Measure how much each input pixel weighs in one output: the mean absolute gradient over images.

    The gradient is that of a random mixture of the output's channels, a direction of length 1 drawn anew for each
    image from a fixed seed. Its mean absolute value is, up to a factor, the norm of the gradients of all channels. A
    plain sum would not do: behind a softmax or a layer norm it is constant and has no gradient at all. Over the C
    channels of the input the absolute values are summed. The Gaussian is the one with the moments of the map; nothing
    is fitted by least squares. Images smaller than the receptive field cut the map off.

    The model runs in evaluation mode, and is left as it was: training mode, `requires_grad`, `.grad`, random state. A
    run of more than two seconds counts its images on a terminal.

    Args:
        model: any module from (B, C, *S) to (B, D, *P); for a layer in between, the part of the network up to it.
        images: (B, C, *S) of the kind that the network is meant for, on its device.
        at: the output, N indices; None is the middle one.
        batch: images at a time.

    Raises:
        ShapeError: images that are no (B, C, *S) of floats, or an output that is no (B, D, *P) tensor.
        GeometryError: an output that is not there, or a batch below 1.
        AtrousError: a gradient that is 0 everywhere, or not finite.
        UnsupportedModule: a network whose footprint is not known.

    Source: Luo et al. 2016 (arXiv:1701.04128); they sum up one channel.

    Example:
        >>> stack = torch.nn.Sequential(*[torch.nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(6)])
        >>> _ = [torch.nn.init.ones_(weight) for weight in stack.parameters()]
        >>> print(effective_receptive_field(stack, torch.rand(2, 1, 33, 33)))
        axis  output  receptive field  deviation  effective  ratio
           0      16               13       2.00        8.0   0.62
           1      16               13       2.00        8.0   0.62
    """
    if images.ndim < 3 or not images.numel() or not images.is_floating_point():
        raise ShapeError(
            f"effective_receptive_field: images: got {images.dtype} {tuple(images.shape)}, expected floats (B, C, *S) "
            "with at least one image; scale integers to the range of training"
        )
    if batch < 1:
        raise GeometryError(f"effective_receptive_field: batch: got {batch}, expected at least 1")
    footprint = trace_footprint(model, images[:batch].detach())
    at = _placed(at, footprint.output_size)
    window = footprint.reads([(place, place + 1) for place in at])
    generator = torch.Generator().manual_seed(0)
    started = time.monotonic()
    # Inside of somebody's `inference_mode` no tensor has a gradient.
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
        total = torch.zeros(images.shape[2:], dtype=torch.float64)
        for first in range(0, len(images), batch):
            total += _weights(model, images[first : first + batch], at, generator)
            _tell(min(first + batch, len(images)), len(images), started)
    whole = float(total.sum())
    if not 0 < whole < math.inf:
        raise AtrousError(
            f"effective_receptive_field: the gradients of output {at} add up to {whole:g}, expected a finite number "
            "above 0; take an output that depends on the image, or other images"
        )
    return EffectiveReceptiveField((total / whole).numpy(), at, len(images), window)


def _placed(at: tuple[int, ...] | None, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the output that is asked for, the middle one by default."""
    at = tuple(size // 2 for size in sizes) if at is None else tuple(at)
    if len(at) != len(sizes) or any(not 0 <= place < size for place, size in zip(at, sizes, strict=True)):
        raise GeometryError(f"effective_receptive_field: at: got {at}, expected indices inside the output of {sizes}")
    return at


def _weights(
    model: torch.nn.Module, images: torch.Tensor, at: tuple[int, ...], generator: torch.Generator
) -> torch.Tensor:
    """Return (*S) absolute gradients of one output, summed over the images and their channels."""
    images = images.detach().clone().requires_grad_()
    output = model(images)
    if not isinstance(output, torch.Tensor) or output.ndim != images.ndim:
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ShapeError(
            f"effective_receptive_field: the model returns {got}, expected a tensor (B, D, *P) with the axes of "
            f"images {tuple(images.shape)}; wrap the part of it that does"
        )
    place: tuple[slice | int, ...] = (slice(None), slice(None), *at)
    channels = output[place]
    # One image at a time and on the CPU, so that every batch and every device mixes alike.
    directions = [torch.randn(channels.shape[1], generator=generator, dtype=torch.float64) for _ in images]
    mixture = torch.nn.functional.normalize(torch.stack(directions), dim=1)
    mixed = (channels * mixture.to(channels)).sum()
    (gradient,) = torch.autograd.grad(mixed, images)
    return gradient.abs().sum(dim=(0, 1), dtype=torch.float64).cpu()


def _tell(done: int, total: int, started: float) -> None:
    """Say on a terminal how far a long run is."""
    if sys.stderr.isatty() and time.monotonic() - started > _PATIENCE:
        end = "\n" if done == total else ""
        print(f"\reffective_receptive_field: {done} of {total} images", end=end, file=sys.stderr, flush=True)
