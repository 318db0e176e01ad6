"""Tell which way and how fast noisy crops of photographs move, by five depthwise convolutions.

    python examples/motion.py --out motion

A clip is a crop that moves over a photograph in one of eight directions at one of three speeds, under noise. The
network is a small X3D. Its depthwise layers are plain or dilated 3 x 3 x 3, or learn where their elements lie: in time
alone (`Dcls3_1d`) or in space and time (`Dcls3d`, from near the centre or from all over the window). All have the same
number of parameters, see the same clips in the same order, and take as many steps. Crops of training and of test come
from different halves of every photograph.

Time is the LAST axis of every tensor, because `Dcls3_1d` learns positions along the last axis.

Legend: B clips, C channels, H, W pixels, T frames.

Source: Feichtenhofer, X3D, CVPR 2020, for the blocks.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from atrous._table import aligned
from atrous.nn import Conv3d, Dcls3_1d, Dcls3d
from atrous.recipe import clamp_after_steps, param_groups, reset_positions

PHOTOGRAPHS = "brick", "camera", "coins", "grass", "gravel", "page"
DIRECTIONS = 8
SPEEDS = 0.25, 0.5, 1.0
"""Pixels a frame."""

SIZE, FRAMES, NOISE = 20, 16, 0.5
"""Pixels of a side, frames, and deviation of the noise over that of the clip."""

BATCH, STEPS, TEST_CLIPS = 16, 300, 960
RATE, DECAY = 4e-3, 0.02
"""Learning rate at its peak, and weight decay."""

VARIANTS = "3 x 3 x 3", "dilated", "Dcls3_1d", "Dcls3d", "Dcls3d, spread"
COLOURS = "#8a8f98", "#1f83c9", "#129a78", "#e0701a", "#b45fa5"
DILATIONS = 1, 2, 4, 1
"""In time, of each block."""

IN_TIME, IN_ALL = (2, 1, 2, 1), (7, 7, 7, 6)
"""Elements of each block: with their positions 27 numbers a channel on average, as in 3 x 3 x 3."""

WINDOW = 9
"""Frames in which an element can lie: the extent of the largest dilation."""


@cache
def photographs(split: str) -> tuple[Tensor, ...]:
    """Return one half of every photograph, all grey: the left one for 'train', the right one for 'test'."""
    found = []
    for name in PHOTOGRAPHS:
        image = np.asarray(getattr(skimage.data, name)(), np.float32)
        # The columns of the page show different things, its rows alike ones.
        middle = image.shape[1] // 2
        half = image[:, :middle] if split == "train" else image[:, middle:]
        found.append(torch.from_numpy(half.copy()))
    return tuple(found)


def velocity(label: int) -> tuple[float, float]:
    """Return how far the crop of this class moves from frame to frame, in pixels down and to the right."""
    angle, speed = 2 * math.pi * (label // len(SPEEDS)) / DIRECTIONS, SPEEDS[label % len(SPEEDS)]
    return speed * math.sin(angle), speed * math.cos(angle)


def crop(photograph: Tensor, top: float, left: float) -> Tensor:
    """Return (H, W) pixels whose first one lies at a real place, by bilinear interpolation."""
    row, column = math.floor(top), math.floor(left)
    down, right = top - row, left - column
    pixels = photograph[row : row + SIZE + 1, column : column + SIZE + 1]
    pixels = torch.lerp(pixels[:-1], pixels[1:], down)
    return torch.lerp(pixels[:, :-1], pixels[:, 1:], right)


def clip(rng: np.random.Generator, photograph: Tensor, label: int) -> Tensor:
    """Return (H, W, T) frames of mean 0 and deviation 1, without noise."""
    moves = velocity(label)
    places = []
    for move, size in zip(moves, photograph.shape, strict=True):
        way = (FRAMES - 1) * move
        start = rng.uniform(max(0, -way), size - SIZE - 1 - max(0, way))
        places.append([start + move * frame for frame in range(FRAMES)])
    frames = torch.stack([crop(photograph, *place) for place in zip(*places, strict=True)], dim=-1)
    return (frames - frames.mean()) / frames.std().clamp(min=1e-3)


def batch(split: str, seed: int, step: int, count: int = BATCH) -> tuple[Tensor, Tensor]:
    """Return clips (B, 1, H, W, T) and labels (B,); a function of the arguments, nothing else."""
    rng = np.random.default_rng([seed, step, split == "test"])
    labels = rng.integers(DIRECTIONS * len(SPEEDS), size=count)
    pieces = photographs(split)
    clips = torch.stack([clip(rng, pieces[rng.integers(len(pieces))], int(label)) for label in labels])
    noise = torch.from_numpy(rng.standard_normal(clips.shape, np.float32))
    return (clips + NOISE * noise)[:, None], torch.from_numpy(labels)


def depthwise(variant: str, channels: int, block: int) -> nn.Module:
    """Return the layer in space and time of a block."""
    if variant in ("3 x 3 x 3", "dilated"):
        dilation = (1, 1, DILATIONS[block] if variant == "dilated" else 1)
        return Conv3d(channels, channels, 3, padding="same", dilation=dilation, groups=channels, bias=False)
    if variant == "Dcls3_1d":
        return Dcls3_1d(
            channels, channels, IN_TIME[block], padding="same", dense_kernel_size=3, dilated_kernel_size=WINDOW,
            groups=channels, bias=False,
        )  # fmt: skip
    layer = Dcls3d(
        channels, channels, IN_ALL[block], padding="same", dilated_kernel_size=(5, 5, WINDOW), groups=channels,
        bias=False,
    )  # fmt: skip
    if variant == "Dcls3d, spread":
        reset_positions(layer, "uniform")
    return layer


class Gate(nn.Module):
    """Scale channels by a function of their means: squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, 8), nn.Linear(8, channels)

    def forward(self, input: Tensor) -> Tensor:
        """Return the scaled channels."""
        scale = self.excite(F.relu(self.squeeze(input.mean((2, 3, 4))))).sigmoid()
        return input * scale[:, :, None, None, None]


class Block(nn.Module):
    """Widen, convolve every channel in space and time, gate in every other block, narrow, and add the input."""

    def __init__(self, variant: str, width: int, number: int) -> None:
        super().__init__()
        inner = width * 9 // 4
        self.body = nn.Sequential(
            nn.Conv3d(width, inner, 1, bias=False), nn.BatchNorm3d(inner), nn.ReLU(),
            depthwise(variant, inner, number), nn.BatchNorm3d(inner),
            Gate(inner) if number % 2 == 0 else nn.Identity(), nn.SiLU(),
            nn.Conv3d(inner, width, 1, bias=False), nn.BatchNorm3d(width),
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        """Return a tensor like the input."""
        return F.relu(input + self.body(input))


def network(variant: str, width: int = 12) -> nn.Sequential:
    """Return a network from clips (B, 1, H, W, T) to scores (B, classes); frames meet in its blocks alone."""
    blocks = [Block(variant, width, number) for number in range(len(DILATIONS))]
    return nn.Sequential(
        nn.Conv3d(1, width, (3, 3, 1), (2, 2, 1), (1, 1, 0), bias=False), nn.BatchNorm3d(width), nn.ReLU(),
        *blocks,
        nn.Conv3d(width, 4 * width, 1, bias=False), nn.BatchNorm3d(4 * width), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4 * width, DIRECTIONS * len(SPEEDS)),
    )  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What one training reached.

    Args:
        variant: one of `VARIANTS`.
        seed: of the first weights and of the training clips.
        parameters: numbers that learn, positions among them.
        accuracy: of all test clips, 0 to 1.
        by_speed: the same for every speed, slowest first.
        seconds: of a training step, on average.
        frames: how many frames each learned element of all blocks lies before (-) or after the output.
    """

    variant: str
    seed: int
    parameters: int
    accuracy: float
    by_speed: tuple[float, ...]
    seconds: float
    frames: tuple[float, ...]


@dataclass(frozen=True)
class Outcomes:
    """All trainings; prints as a table with means over seeds and standard deviations."""

    steps: int
    runs: tuple[Run, ...]

    def of(self, variant: str) -> list[Run]:
        """Return the trainings of one variant."""
        return [run for run in self.runs if run.variant == variant]

    def __str__(self) -> str:
        """Return the table."""
        heads = (f"{speed} px/frame" for speed in SPEEDS)
        rows: list[tuple[object, ...]] = [("layer", "parameters", "accuracy", "+-", *heads, "s/step")]
        for variant in VARIANTS:
            if runs := self.of(variant):
                scores = [run.accuracy for run in runs]
                spread = f"{statistics.stdev(scores):.3f}" if len(scores) > 1 else "-"
                speeds = (f"{statistics.mean(one):.3f}" for one in zip(*(run.by_speed for run in runs), strict=True))
                seconds = f"{statistics.mean(run.seconds for run in runs):.3f}"
                rows.append((variant, runs[0].parameters, f"{statistics.mean(scores):.3f}", spread, *speeds, seconds))
        return aligned(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain lists and numbers."""
        return asdict(self)


def train(variant: str, seed: int, steps: int, tick: Callable[[], None]) -> tuple[nn.Sequential, float]:
    """Return the trained network and the seconds of a step; `tick` is called after each."""
    torch.manual_seed(seed)
    net = network(variant)
    optimizer = torch.optim.AdamW(param_groups(net, RATE, DECAY))
    clamp_after_steps(net, optimizer)
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, steps, pct_start=0.2)
    seconds = 0.0
    for step in range(steps):
        clips, labels = batch("train", seed, step)
        start = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(net(clips), labels).backward()
        optimizer.step()
        seconds += time.perf_counter() - start
        schedule.step()
        tick()
    return net, seconds / steps


def evaluate(net: nn.Module, clips: Tensor, labels: Tensor) -> tuple[float, tuple[float, ...]]:
    """Return the accuracy on all clips, and on those of every speed."""
    with torch.no_grad():
        scores = torch.cat([net.eval()(part) for part in clips.split(96)])
    right = (scores.argmax(1) == labels).float()
    by_speed = (right[labels % len(SPEEDS) == speed].mean().item() for speed in range(len(SPEEDS)))
    return right.mean().item(), tuple(by_speed)


def learned_frames(net: nn.Module) -> tuple[float, ...]:
    """Return where the elements of all layers with learned positions lie along time, in frames."""
    layers = [module for module in net.modules() if isinstance(module, Dcls3_1d | Dcls3d)]
    return tuple(place for layer in layers for place in layer.P[-1].flatten().tolist())


def compare(seeds: int, steps: int, tests: int, console: Console) -> Iterator[Outcomes]:
    """Train every variant with every seed, and yield what stands after each seed."""
    runs: list[Run] = []
    clips, labels = batch("test", 0, 0, tests)
    with Progress(console=console) as progress:
        for seed in range(seeds):
            for variant in VARIANTS:
                task = progress.add_task(f"seed {seed}, {variant}", total=steps)
                net, seconds = train(variant, seed, steps, partial(progress.advance, task))
                parameters = sum(parameter.numel() for parameter in net.parameters())
                accuracy, by_speed = evaluate(net, clips, labels)
                runs.append(Run(variant, seed, parameters, accuracy, by_speed, seconds, learned_frames(net)))
                progress.console.print(f"seed {seed}, {variant}: accuracy {accuracy:.3f}", highlight=False)
            yield Outcomes(steps, tuple(runs))


def draw(outcomes: Outcomes) -> Figure:
    """Draw the accuracy of every variant, with a dot for each seed, that by speed, and where elements lie in time."""
    figure = Figure(figsize=(14, 3.8), layout="constrained")
    total, speeds, places = figure.subplots(1, 3, width_ratios=(1, 1.3, 1.2))
    for position, (variant, colour) in enumerate(zip(VARIANTS, COLOURS, strict=True)):
        runs = outcomes.of(variant)
        scores = [run.accuracy for run in runs]
        total.bar(position, statistics.mean(scores), color=colour)
        total.plot([position] * len(scores), scores, "ok", markersize=4)
        means = [statistics.mean(one) for one in zip(*(run.by_speed for run in runs), strict=True)]
        speeds.bar([place + 0.16 * (position - 2) for place in range(len(means))], means, 0.16, color=colour)
        if frames := [frame for run in runs for frame in run.frames]:
            edges = [edge - WINDOW / 2 for edge in range(WINDOW + 1)]
            places.hist(frames, edges, density=True, histtype="step", color=colour, linewidth=1.8, label=variant)
    total.set_xticks(range(len(VARIANTS)), [name.replace(", ", ",\n") for name in VARIANTS], fontsize=9)
    total.set_title("Test accuracy, a dot for each seed", loc="left", fontsize=11)
    speeds.set_xticks(range(len(SPEEDS)), [f"{speed} px/frame" for speed in SPEEDS], fontsize=9)
    speeds.set_title("The same by speed", loc="left", fontsize=11)
    places.set_title("Where learned elements lie in time", loc="left", fontsize=11)
    places.set(xlabel="frames before (-) or after (+) the output", ylabel="share of elements a frame")
    places.legend(frameon=False)
    for axes in (total, speeds):
        axes.set_ylim(0, 1)
    for axes in (total, speeds, places):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Print the table, and write it as JSON and as a picture."""
    parser = argparse.ArgumentParser(description="tell the motion of clips by several layers in space and time")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of every variant (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of every training (default: %(default)s)")
    parser.add_argument("--tests", type=int, default=TEST_CLIPS, help="test clips (default: %(default)s)")
    parser.add_argument("--out", metavar="NAME", default="motion", help="writes NAME.json and NAME.png")
    options = parser.parse_args()
    for outcomes in compare(options.seeds, options.steps, options.tests, Console(stderr=True)):
        # After every seed, so that an end before time loses only the last.
        Path(f"{options.out}.json").write_text(json.dumps(outcomes.to_dict(), indent=1) + "\n", encoding="utf-8")
        draw(outcomes).savefig(f"{options.out}.png", dpi=110)
    print(outcomes)


if __name__ == "__main__":
    main()
