"""Measure which kernels a cascade of dilated convolutions can represent, and draw which weights each pixel multiplies.

    python examples/what_cascades_can_represent.py --out picture.png

Layers of 3 x 3 weights with dilations 1, 2, 4 make one kernel of 15 x 15 out of 27 numbers, and with 1, 3, 9 one of
27 x 27: a Kronecker product, because there one path of taps leads to each pixel. Sums of r cascades have 27 r numbers.
They are fitted to five kernels, from several starts: their errors are upper bounds. The errors of the low-rank kernel
(u v^T, 2 n numbers a rank) and of the Kronecker product of 9 x 9 and 3 x 3 are exact.

Source: Van Loan and Pitsianis 1993 for the nearest Kronecker product; Huszar's notes of 2016 for the question.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from atrous import trace_footprint
from atrous._table import aligned
from atrous.functional import conv2d

DILATIONS = {15: (1, 2, 4), 27: (1, 3, 9)}
"""Size of the kernel: dilations of the cascade."""

CASCADES = {15: (1, 2, 4, 7), 27: (1, 2, 4, 8, 16)}
"""How many cascades are added."""

CHANNELS = {15: (2, 3, 4), 27: (2, 4, 6)}
"""How many channels the dense cascade has between its layers."""

STARTS, STEPS = 2, 150
STYLES = {
    "cascades, added": ("o-", "#1f83c9"),
    "cascade of channels": ("s-", "#129a78"),
    "Kronecker 9 x 9, 3 x 3": ("D--", "#b45fa5"),
    "low rank": ("^--", "#e0701a"),
}


@dataclass(frozen=True)
class Fit:
    """How well one form represents one kernel.

    Args:
        kernel: its name.
        size: pixels of its side.
        form: a key of `STYLES`.
        terms: cascades added, channels, or rank.
        parameters: numbers to choose.
        error: norm of what is missed over the norm of the kernel.
    """

    kernel: str
    size: int
    form: str
    terms: int
    parameters: int
    error: float


def kernels(size: int) -> dict[str, Tensor]:
    """Return the kernels to represent, each (size, size) of norm 1."""
    generator = torch.Generator().manual_seed(0)
    line = torch.arange(size, dtype=torch.float64) - size // 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    radius = torch.hypot(x, y)
    along = x * math.cos(math.pi / 6) + y * math.sin(math.pi / 6)
    bell = torch.exp(-((radius / (size / 6)) ** 2) / 2)
    noise = torch.randn(64, 64, dtype=torch.float64, generator=generator)
    # Photographs have amplitudes of about 1 / frequency.
    frequency = torch.hypot(*torch.meshgrid(torch.fft.fftfreq(64), torch.fft.fftfreq(64), indexing="ij"))
    texture = torch.fft.ifft2(torch.fft.fft2(noise) / frequency.clamp(min=1 / 64)).real
    found = {
        "Gaussian": bell,
        "Gabor": bell * torch.cos(2 * math.pi * along / (size / 4)),
        "disk": (radius <= size / 3).double(),
        "texture": texture[:size, :size] - texture[:size, :size].mean(),
        "noise": torch.randn(size, size, dtype=torch.float64, generator=generator),
    }
    return {name: kernel / kernel.norm() for name, kernel in found.items()}


def composed(weights: list[Tensor], dilations: tuple[int, ...], size: int) -> Tensor:
    """Return the one kernel of a cascade: what it makes of a single bright pixel, turned round."""
    image = torch.zeros(1, 1, size, size, dtype=torch.float64)
    image[..., size // 2, size // 2] = 1
    for weight, dilation in zip(weights, dilations, strict=True):
        image = conv2d(image, weight, padding="same", dilation=dilation, groups=image.shape[1] // weight.shape[1])
    return image[0, 0].flip(0, 1)


def fit(
    kernel: Tensor, dilations: tuple[int, ...], channels: int, *, dense: bool, starts: int, steps: int
) -> tuple[list[Tensor], float]:
    """Return the best weights found for a cascade of three layers, and the error of its kernel.

    `dense` connects all channels of the middle layer; else each channel is a cascade of its own, and they are added.
    """
    found = []
    generator = torch.Generator().manual_seed(0)
    for _ in range(starts):
        shapes = (channels, 1), (channels, channels if dense else 1), (1, channels)
        weights = [0.3 * torch.randn(*shape, 3, 3, dtype=torch.float64, generator=generator) for shape in shapes]
        best = torch.optim.LBFGS(
            [weight.requires_grad_() for weight in weights],
            max_iter=steps,
            tolerance_grad=1e-9,
            tolerance_change=1e-12,
            line_search_fn="strong_wolfe",
        )

        def missed(weights: list[Tensor] = weights, best: torch.optim.LBFGS = best) -> Tensor:
            best.zero_grad()
            loss = (composed(weights, dilations, len(kernel)) - kernel).square().sum()
            loss.backward()
            return loss

        best.step(missed)
        error = float(missed().detach().sqrt() / kernel.norm())
        found.append((error, [weight.detach() for weight in weights]))
    error, weights = min(found, key=lambda one: one[0])
    return weights, error


def tails(matrix: Tensor) -> list[float]:
    """Return the errors of the nearest matrices of rank 1, 2, ..., relative."""
    power = torch.linalg.svdvals(matrix).square()
    left = power.flip(0).cumsum(0).flip(0)[1:].clamp(min=0)
    return (left / power.sum()).sqrt().tolist()


def low_rank(kernel: Tensor) -> Iterator[tuple[int, int, float]]:
    """Yield rank, parameters and error of sums of u v^T, while they have fewer parameters than the kernel."""
    for rank, error in enumerate(tails(kernel), start=1):
        if 2 * len(kernel) * rank < kernel.numel():
            yield rank, 2 * len(kernel) * rank, error


def kronecker(kernel: Tensor, outer: int, inner: int) -> Iterator[tuple[int, int, float]]:
    """Yield rank, parameters and error of the nearest sums of A (x) B with A of outer^2 and B of inner^2 numbers."""
    matrix = kernel.reshape(outer, inner, outer, inner).permute(0, 2, 1, 3).reshape(outer**2, inner**2)
    for rank, error in enumerate(tails(matrix), start=1):
        if sum(matrix.shape) * rank < kernel.numel():
            yield rank, sum(matrix.shape) * rank, error


def measure(*, quick: bool) -> list[Fit]:
    """Return all fits; `quick` makes few, from one start."""
    starts, steps = (1, 20) if quick else (STARTS, STEPS)
    fits: list[Fit] = []
    for size, dilations in DILATIONS.items():
        for name, kernel in kernels(size).items():

            def add(form: str, terms: int, parameters: int, error: float, name: str = name, size: int = size) -> None:
                fits.append(Fit(name, size, form, terms, parameters, error))

            for form, counts in (("cascades, added", CASCADES[size]), ("cascade of channels", CHANNELS[size])):
                for terms in counts[: 1 if quick else None]:
                    dense = form == "cascade of channels"
                    weights, error = fit(kernel, dilations, terms, dense=dense, starts=starts, steps=steps)
                    add(form, terms, sum(weight.numel() for weight in weights), error)
            if size == 27:
                for one in kronecker(kernel, 9, 3):
                    add("Kronecker 9 x 9, 3 x 3", *one)
            for one in low_rank(kernel):
                add("low rank", *one)
    return fits


def table(fits: list[Fit]) -> str:
    """Return a line for each form but low rank, beside the low-rank kernel of at most as many parameters."""
    rows: list[tuple[object, ...]] = [
        ("kernel", "size", "form", "terms", "parameters", "error", "low rank", "parameters", "error")
    ]
    for one in fits:
        if one.form == "low rank":
            continue
        lower = [
            other
            for other in fits
            if (other.kernel, other.size, other.form) == (one.kernel, one.size, "low rank")
            and other.parameters <= one.parameters
        ]
        beside = (lower[-1].terms, lower[-1].parameters, f"{lower[-1].error:.3f}") if lower else ("-", "-", "-")
        rows.append((one.kernel, one.size, one.form, one.terms, one.parameters, f"{one.error:.3f}", *beside))
    return aligned(rows)


def paths(dilations: tuple[int, ...]) -> list[list[tuple[int, ...]]]:
    """Return for each pixel along one axis the taps, one of each layer, whose paths lead to it."""
    found: list[list[tuple[int, ...]]] = [[] for _ in range(1 + 2 * sum(dilations))]
    for taps in product(range(3), repeat=len(dilations)):
        found[sum(tap * dilation for tap, dilation in zip(taps, dilations, strict=True))].append(taps)
    return found


def path_counts(dilations: tuple[int, ...]) -> Tensor:
    """Return the number of paths to each pixel of the field, by the footprint of the cascade."""
    cascade = torch.nn.Sequential(*(torch.nn.Conv2d(1, 1, 3, dilation=dilation) for dilation in dilations))
    footprint = trace_footprint(cascade, torch.zeros(1, 1, 32, 32))
    rows, columns = (torch.tensor(list(footprint.taps(axis).values())) for axis in range(2))
    return rows[:, None] * columns


def draw(fits: list[Fit]) -> Figure:
    """Draw the kernels, error against parameters, and the weights behind each pixel of three cascades."""
    figure = Figure(figsize=(16, 17.5), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(10, 7.5))
    grid = top.subplots(3, 5, height_ratios=(0.8, 1, 1))
    for axes, (name, kernel) in zip(grid[0], kernels(27).items(), strict=True):
        most = float(kernel.abs().max())
        axes.imshow(kernel, cmap="RdBu_r", vmin=-most, vmax=most)
        axes.set_title(f"{name}, 27 x 27", fontsize=11)
        axes.set_axis_off()
    for line, size in zip(grid[1:], DILATIONS, strict=True):
        for axes, name in zip(line, kernels(size), strict=True):
            draw_errors(axes, [one for one in fits if (one.kernel, one.size) == (name, size)])
            axes.set_title(f"{name}, {size} x {size}", fontsize=11)
        line[0].set_ylabel("relative error, 0.001 or less at the bottom")
    handles = {h.get_label(): h for axes in grid[1:].flat for h in axes.get_lines() if h.get_label() in STYLES}
    top.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    names = "which weights each pixel multiplies: letters are taps of the first layer, digits of the second"
    bottom.suptitle(names, fontsize=12)
    one, several, many = bottom.subplots(1, 3, width_ratios=(1, 1, 1.1))
    draw_weights(one, (1, 3))
    draw_weights(several, (1, 2))
    draw_counts(many, (1, 2, 4))
    return figure


def draw_errors(axes: Axes, fits: list[Fit]) -> None:
    """Draw error against parameters, one line per form."""
    for form, (style, colour) in STYLES.items():
        points = [(one.parameters, max(one.error, 1e-3)) for one in fits if one.form == form]
        if points:
            axes.plot(*zip(*points, strict=True), style, color=colour, label=form, markersize=4, linewidth=1.2)
    axes.axvline(fits[0].size ** 2, color="black", alpha=0.25, linewidth=0.9)
    axes.set(xscale="log", yscale="log", ylim=(8e-4, 1.3), xlabel="parameters")
    axes.set_xticks([30, 100, 300, 700], ["30", "100", "300", "700"])
    axes.minorticks_off()
    axes.grid(alpha=0.15)


def draw_weights(axes: Axes, dilations: tuple[int, int]) -> None:
    """Draw a cascade of two layers: in each pixel the pairs of taps that it multiplies, all paths added."""
    along, counts = paths(dilations), path_counts(dilations)
    alone = int(counts.max()) == 1
    if alone:  # one path each: the tap of the second layer gives the colour
        axes.imshow([[3 * row[0][1] + column[0][1] for column in along] for row in along], cmap="Pastel1")
    else:
        axes.imshow(counts, cmap="Blues", vmin=0, vmax=14)
    for y, x in np.ndindex(*counts.shape):
        pairs = [
            f"{'abcdefghi'[3 * row[0] + column[0]]}{1 + 3 * row[1] + column[1]}"
            for row in along[y]
            for column in along[x]
        ]
        middle = math.ceil(len(pairs) / 2)
        text = "\n".join(" ".join(part) for part in (pairs[:middle], pairs[middle:]) if part)
        axes.text(x, y, text, ha="center", va="center", fontsize=8)
    words = "one path, a Kronecker product" if alone else f"up to {int(counts.max())} paths, added"
    axes.set_title(f"dilations {dilations[0]}, {dilations[1]}: {words}", fontsize=11)
    axes.set(xticks=[], yticks=[])


def draw_counts(axes: Axes, dilations: tuple[int, ...]) -> None:
    """Draw a deeper cascade: in each pixel the number of paths, at the sides the taps of each axis, layer by layer."""
    counts = path_counts(dilations)
    axes.imshow(counts, cmap="Blues", vmin=0, vmax=14)
    for y, x in np.ndindex(*counts.shape):
        axes.text(x, y, str(int(counts[y, x])), ha="center", va="center", fontsize=8)
    words = [["".join(map(str, taps)) for taps in one] for one in paths(dilations)]
    axes.set_yticks(range(len(words)), ["  ".join(one) for one in words], fontsize=7)
    axes.set_xticks(range(len(words)), ["\n".join(one) for one in words], fontsize=7)
    axes.set_title(f"dilations {', '.join(map(str, dilations))}: number of paths; at the sides their taps", fontsize=11)


def main() -> None:
    """Print the table and write the picture."""
    parser = argparse.ArgumentParser(description="fit cascades of dilated convolutions to kernels")
    parser.add_argument("--out", metavar="FILE", help="write the picture here")
    parser.add_argument("--quick", action="store_true", help="few fits, from one start")
    options = parser.parse_args()
    fits = measure(quick=options.quick)
    print(table(fits))
    if options.out:
        draw(fits).savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
