"""Check what an essay on dilated convolutions and Kronecker products says, each claim by a number, and redraw it.

    python examples/kronecker_essay.py --out pictures

Claims that do not hold as they were written are listed with what holds instead. Everything is in double precision.

Source: Huszar, Dilated Convolutions and Kronecker Factored Convolutions, 2016; Yu and Koltun 2016, figure 1; Zhou, Wu,
Wu and Zhou 2015; Badrinarayanan, Kendall and Cipolla 2017 for SegNet.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import skimage.data
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from atrous import trace_footprint
from atrous._files import whole_file, writable_folder
from atrous._table import aligned
from atrous.analysis import Equivariance, equivariance
from atrous.functional import compose, conv2d, dilate_kernel, kronecker, nearest_kronecker
from atrous.models import SegNet
from atrous.models.segnet import VGG16_BLOCKS

SIDE = 512
"""Pixels of the photograph's side."""
BLOCK = 16
"""Pixels of the side of the fine factor of the photograph."""
TERMS = (1, 2, 4, 8, 16, 32, 64)
"""Kronecker terms of the curve."""
SHOWN = (2, 8, 32)
"""Those of the pictures."""
KERNELS = {"cmap": "gray", "interpolation": "nearest"}


@dataclass(frozen=True)
class Claim:
    """Say what the essay says, what was found, and whether the two agree.

    Args:
        text: of the claim.
        found: the numbers.
        holds: whether it is so; where not, `found` says what is.
    """

    text: str
    found: str
    holds: bool


def draw_kernels(seed: int) -> list[Tensor]:
    """Return three 3 x 3 kernels of normal numbers, finest first."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 3, dtype=torch.float64, generator=generator) for _ in range(3)]


def cascade(image: Tensor, kernels: list[Tensor], dilations: tuple[int, ...]) -> Tensor:
    """Convolve (1, 1, H, W) with one kernel after the other."""
    for kernel, dilation in zip(kernels, dilations, strict=True):
        image = conv2d(image, kernel[None, None], dilation=dilation)
    return image


def stack(dilations: tuple[int, ...]) -> nn.Sequential:
    """Return layers of 3 x 3 kernels."""
    return nn.Sequential(*(nn.Conv2d(1, 1, 3, dilation=dilation) for dilation in dilations))


def relative(one: Tensor, other: Tensor) -> float:
    """Return the largest difference over the largest value of the other."""
    return float((one - other).abs().max() / other.abs().max())


def growth() -> Iterator[Claim]:
    """Check how receptive fields and parameters grow."""
    fields = [trace_footprint(stack((1,) * (layer + 1)), torch.zeros(1, 1, 40, 40)) for layer in range(6)]
    sides = [fp.receptive_field[0] for fp in fields]
    formula = [layer * (3 - 1) + 3 for layer in range(6)]
    yield Claim("plain layers l = 0, 1, ... see l (k - 1) + k pixels", f"k = 3: {sides}", sides == formula)
    doubled = [trace_footprint(stack((1, 2, 4, 8)[:depth]), torch.zeros(1, 1, 40, 40)) for depth in (1, 2, 3, 4)]
    sides = [fp.receptive_field[0] for fp in doubled]
    powers = sides == [2 ** (depth + 1) - 1 for depth in (1, 2, 3, 4)]
    full = all(count > 0 for fp in doubled for count in fp.taps(0).values())
    full &= all(len(fp.taps(0)) == fp.receptive_field[0] for fp in doubled)
    text = "with dilations 1, 2, 4, ... the field grows exponentially, parameters linearly"
    yield Claim(text, f"{sides} pixels, no hole, for {[9 * depth for depth in (1, 2, 3, 4)]} numbers", powers and full)


def algebra() -> Iterator[Claim]:
    """Check what the essay says of Kronecker products."""
    kernels = draw_kernels(0)
    image = torch.randn(1, 1, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    corner = torch.zeros(4, 4, dtype=torch.float64)
    corner[0, 0] = 1
    hollow = kronecker(kernels[0], corner)
    exact = relative(
        conv2d(image, hollow[None, None]), conv2d(image, kernels[0][None, None], dilation=4)[..., :-3, :-3]
    )
    cropped = torch.equal(hollow[:9, :9], dilate_kernel(kernels[0], (4, 4)))
    text = "convolving with dilation l is convolving with K (x) E11"
    found = f"l = 4: largest difference {exact:.0e}; its last l - 1 rows are zeros, which cost as many outputs"
    yield Claim(text, found, exact < 1e-12 and cropped)

    product = kronecker(*reversed(kernels))
    through = cascade(image, kernels, (1, 3, 9))
    right = relative(conv2d(image, product[None, None]), through)
    wrong = relative(conv2d(image, kronecker(*kernels)[None, None]), through)
    text = "dilations 1, a, a^2 of a x a kernels are one kernel, K2 (x) K1 (x) K0"
    found = f"a = 3: difference {right:.0e}; in the other order {wrong:.1f}"
    yield Claim(text, found, right < 1e-12 < wrong)

    missed = {name: best_two_factors(dilations) for name, dilations in (("1, 2, 4", (1, 2, 4)), ("1, 3, 9", (1, 3, 9)))}
    text = "the analogy holds only if dilation and kernel size are the same"
    found = ", ".join(f"dilations {name}: {100 * error:.0f} % is no product" for name, error in missed.items())
    yield Claim(text, found, missed["1, 2, 4"] > 0.1 and missed["1, 3, 9"] < 1e-12)

    one, other = image, image.flip(-1)
    kinked = [relu_cascade(part, kernels) for part in (one + other, one, other)]
    text = "with non-linearities between the layers it is another thing"
    found = f"f(x + y) differs from f(x) + f(y) by {relative(kinked[0], kinked[1] + kinked[2]):.2f}"
    yield Claim(text, found, relative(kinked[0], kinked[1] + kinked[2]) > 1e-3)


def relu_cascade(image: Tensor, kernels: list[Tensor]) -> Tensor:
    """Convolve with one kernel after the other, and cut off below 0 between them."""
    first, second, third = kernels
    image = cascade(image, [first], (1,)).relu()
    return cascade(cascade(image, [second], (3,)).relu(), [third], (9,))


def best_two_factors(dilations: tuple[int, ...]) -> float:
    """Return the share of the norm of a cascade's kernel that is missed by its nearest product of two factors."""
    weights = [(kernel[None, None], dilation) for kernel, dilation in zip(draw_kernels(0), dilations, strict=True)]
    kernel = compose(*weights)[0, 0]
    outer = len(kernel) // 3
    return min(float(nearest_kronecker(kernel, shape, 1)[2] / kernel.norm()) for shape in ((outer, outer), (3, 3)))


def parameters() -> Iterator[Claim]:
    """Count the numbers that kernels of several forms have."""
    product, column, row = kronecker(*draw_kernels(0)), torch.randn(27, 1).double(), torch.randn(1, 27).double()
    ranks = [int(torch.linalg.matrix_rank(kernel)) for kernel in (product, column @ row, column @ column.mT)]
    text = "27 x 27 kernels of rank 1 have as many parameters, 27, as products of three 3 x 3"
    found = f"u v^T has {column.numel() + row.numel()}, only u u^T {column.numel()}; ranks {ranks}"
    yield Claim(text, found, column.numel() + row.numel() == 27)
    sizes = [3**depth for depth in range(1, 7)]
    numbers = {"Kronecker": [9 * depth for depth in range(1, 7)], "rank 1": [2 * size for size in sizes]}
    text = "parameters of a low rank grow linearly with the side, of a Kronecker product logarithmically"
    found = f"sides {sizes}: {numbers['rank 1']} and {numbers['Kronecker']}"
    counted = sum(kernel.numel() for kernel in draw_kernels(0)) == numbers["Kronecker"][2]
    linear = len({count / size for count, size in zip(numbers["rank 1"], sizes, strict=True)}) == 1
    logarithmic = {count / math.log(size, 3) for count, size in zip(numbers["Kronecker"], sizes, strict=True)}
    yield Claim(text, found, counted and linear and max(logarithmic) - min(logarithmic) < 1e-9)
    same = draw_kernels(3)[0]
    fractal = kronecker(same, same, same)
    blocks = fractal.unflatten(0, (3, 9)).unflatten(2, (3, 9)).permute(0, 2, 1, 3)
    similar = relative(blocks, same[:, :, None, None] * kronecker(same, same))
    yield Claim(
        "products of a kernel with itself are self-similar", f"each block is the whole: {similar:.0e}", similar < 1e-12
    )


@cache
def photograph() -> Tensor:
    """Return a photograph of (512, 512), 0 to 1."""
    return torch.from_numpy(skimage.data.camera()).double() / 255


def quality(image: Tensor) -> float:
    """Return the peak signal-to-noise ratio of an image against the photograph, in dB."""
    return float(-10 * (image - photograph()).square().mean().log10())


def by_products(terms: int) -> Tensor:
    """Return the photograph as the sum of so many Kronecker products, coarse (x) fine."""
    coarse, fine, _ = nearest_kronecker(photograph(), (SIDE // BLOCK, SIDE // BLOCK), terms)
    return sum((kronecker(a, b) for a, b in zip(coarse, fine, strict=True)), torch.zeros(()))


def by_rank(rank: int) -> Tensor:
    """Return the nearest image of a rank."""
    left, values, right = torch.linalg.svd(photograph())
    return left[:, :rank] * values[:rank] @ right[:rank]


def curve() -> list[tuple[int, float, float]]:
    """Return (numbers, dB by products, dB by a rank of no fewer numbers) for every entry of `TERMS`."""
    each = (SIDE // BLOCK) ** 2 + BLOCK**2
    return [(terms * each, quality(by_products(terms)), quality(by_rank(equal_rank(terms)))) for terms in TERMS]


def equal_rank(terms: int) -> int:
    """Return the least rank that has at least as many numbers as so many products."""
    return math.ceil(terms * ((SIDE // BLOCK) ** 2 + BLOCK**2) / (2 * SIDE))


def naturalness() -> Iterator[Claim]:
    """Compare the two ways to write a photograph."""
    points = curve()
    text = "Kronecker products suit pictures better than a low rank of as many numbers"
    found = "; ".join(f"{n} numbers: {one:.1f} and {other:.1f} dB" for n, one, other in points[1:6:2])
    yield Claim(text, found, all(one > other for _, one, other in points))


def networks() -> dict[str, nn.Module]:
    """Return a dilated stack and a SegNet, drawn and not trained: the claim is about what they are made of."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for index, dilation in enumerate((1, 1, 2, 4, 8, 16, 1)):
        layers += [nn.Conv2d(8 if index else 1, 8, 3, padding=dilation, dilation=dilation), nn.ReLU()]
    return {
        "dilated stack": nn.Sequential(*layers, nn.Conv2d(8, 1, 1)),
        "SegNet": SegNet(1, 1, 1 / 4, blocks=VGG16_BLOCKS[:3]),
    }


@cache
def shifts() -> dict[str, Equivariance]:
    """Return what shifts by 1 to 2 pixels do to each network, by the name of it."""
    image = photograph()[None, None, 100:400, 100:400]
    return {name: equivariance(network, image, 2) for name, network in networks().items()}


def moved() -> Iterator[Claim]:
    """Check what a shift by a pixel does, and how far borders reach."""
    found = shifts()
    pixel = {name: max(one.relative for one in result.shifts if max(one.shift) == 1) for name, result in found.items()}
    text = "a shift by one pixel shifts the output of dilated layers, not of SegNet"
    numbers = f"largest change {pixel['dilated stack']:.0e} and {pixel['SegNet']:.2f}; SegNet repeats after "
    numbers += f"{found['SegNet'].period[0]} pixels"
    yield Claim(text, numbers, found["dilated stack"].exact and pixel["SegNet"] > 0.01)
    reach = {
        name: trace_footprint(stack(dilations), torch.zeros(1, 1, 40, 40)).receptive_field[0] // 2
        for name, dilations in (("plain", (1, 1, 1)), ("dilated", (1, 2, 4)))
    }
    share = {name: 100 * (1 - (64 - 2 * margin) ** 2 / 64**2) for name, margin in reach.items()}
    text = "padding is a bigger problem for dilated layers"
    numbers = (
        f"three layers on 64 x 64: it reaches {share['plain']:.0f} % of the outputs, dilated {share['dilated']:.0f} %"
    )
    yield Claim(text, numbers, share["dilated"] > share["plain"])


def check() -> list[Claim]:
    """Return every claim, in the order of the essay."""
    return [claim for part in (growth, algebra, parameters, naturalness, moved) for claim in part()]


def draw_growth() -> Figure:
    """Draw what one output reads after one, two and three layers of dilations 1, 2, 4, by the number of paths."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, depth in zip(figure.subplots(1, 3), (1, 2, 3), strict=True):
        fp = trace_footprint(stack((1, 2, 4)[:depth]), torch.zeros(1, 1, 40, 40))
        along = torch.tensor(list(fp.taps(0).values()))
        counts = torch.zeros(17, 17)
        first = (17 - len(along)) // 2
        counts[first : first + len(along), first : first + len(along)] = along[:, None] * along
        axes.imshow(counts.where(counts > 0, math.nan).numpy(), cmap="YlGnBu", vmin=0, vmax=16)
        axes.set_xticks([position + 0.5 for position in range(16)], minor=True)
        axes.set_yticks([position + 0.5 for position in range(16)], minor=True)
        axes.grid(which="minor", color="0.85", linewidth=0.6)
        axes.set(xticks=[], yticks=[], title=f"{depth} layer{'s' * (depth > 1)}: {len(along)} x {len(along)} pixels")
        axes.tick_params(which="both", length=0)
        for y, x in counts.nonzero().tolist():
            axes.text(x, y, f"{int(counts[y, x])}", ha="center", va="center", fontsize=6)
    figure.suptitle("what one output reads, and by how many paths; dilations 1, 2, 4")
    return figure


def draw_grid(title: str, kernels: list[Tensor]) -> Figure:
    """Draw two rows of kernels."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for axes, kernel in zip(figure.subplots(2, len(kernels) // 2).flat, kernels, strict=True):
        axes.imshow(kernel.numpy(), **KERNELS)
        axes.set_axis_off()
    figure.suptitle(title)
    return figure


def draw_ranks() -> list[Tensor]:
    """Return ten kernels of rank 1: five u v^T, then five u u^T."""
    generator = torch.Generator().manual_seed(0)
    columns = [torch.randn(27, 1, dtype=torch.float64, generator=generator) for _ in range(15)]
    return [a @ b.mT for a, b in zip(columns[:5], columns[5:10], strict=True)] + [a @ a.mT for a in columns[10:]]


def draw_photograph() -> Figure:
    """Draw the photograph by products and by rank, and the quality of both against their numbers."""
    figure = Figure(figsize=(12, 6.2), layout="constrained")
    grid = figure.add_gridspec(2, 5, width_ratios=(1, 1, 1, 0.15, 1.3))
    for column, terms in enumerate(SHOWN):
        for row, (name, image) in enumerate(
            ((f"{terms} products", by_products(terms)), (f"rank {equal_rank(terms)}", by_rank(equal_rank(terms))))
        ):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1)
            axes.set_title(f"{name}: {quality(image):.1f} dB", fontsize=10)
            axes.set_axis_off()
    axes = figure.add_subplot(grid[:, 4])
    counts, products, ranks = zip(*curve(), strict=True)
    axes.plot(counts, products, "o-", color="#1f83c9", label=f"products, fine factor {BLOCK} x {BLOCK}")
    axes.plot(counts, ranks, "s--", color="#e0701a", label="low rank")
    axes.set(xscale="log", xlabel="numbers", ylabel="PSNR in dB")
    axes.grid(alpha=0.2)
    axes.legend(frameon=False)
    return figure


def draw_shift() -> Figure:
    """Draw what is left of the difference between shifting the image and shifting the output, by one pixel."""
    image = photograph()[None, None, 100:389, 100:389]
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    panels[0].imshow(image[0, 0, 64:-64, 64:-64].numpy(), cmap="gray")
    panels[0].set_title("photograph")
    for axes, (name, network) in zip(panels[1:], networks().items(), strict=True):
        with torch.no_grad():
            network = network.double().eval()
            here, there = network(image[..., :-1])[0, 0], network(image[..., 1:])[0, 0]
        change = (here[64:-64, 65:-64] - there[64:-64, 64:-65]).abs() / here.abs().max()
        shown = axes.imshow(change.numpy(), cmap="magma", vmin=0, vmax=1)
        axes.set_title(f"{name}: at most {float(change.max()):.1g}")
    figure.colorbar(shown, ax=panels[2], label="change over the largest output", shrink=0.8)
    for axes in panels:
        axes.set_axis_off()
    return figure


def pictures() -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of every picture of the page."""
    yield "growth", draw_growth()
    products = [kronecker(*reversed(draw_kernels(seed))) for seed in range(10)]
    yield "products", draw_grid("27 x 27 kernels, products of three random 3 x 3: 27 numbers each", products)
    fractals = [kronecker(*[draw_kernels(seed)[0]] * 4) for seed in range(10)]
    title = "81 x 81 kernels, a 3 x 3 kernel times itself: 9 numbers each, drawn as signed square roots"
    yield "fractals", draw_grid(title, [kernel.sign() * kernel.abs().sqrt() for kernel in fractals])
    yield "ranks", draw_grid("27 x 27 kernels of rank 1: above u v^T, 54 numbers; below u u^T, 27", draw_ranks())
    yield "photograph", draw_photograph()
    yield "shift", draw_shift()


def main() -> None:
    """Print the claims and write the pictures."""
    parser = argparse.ArgumentParser(description="check the essay on dilated convolutions and Kronecker products")
    parser.add_argument("--out", metavar="FOLDER", help="write the pictures there")
    options = parser.parse_args()
    rows = [("claim", "holds", "found"), *((one.text, "yes" if one.holds else "no", one.found) for one in check())]
    print(aligned(rows))
    if options.out:
        folder = writable_folder(options.out)
        for name, figure in pictures():
            with whole_file(Path(folder) / f"{name}.png") as part:
                figure.savefig(part, dpi=100)


if __name__ == "__main__":
    main()
