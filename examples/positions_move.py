"""Train a small network with learned spacings, and watch the elements of one layer move.

    python examples/positions_move.py --out positions_move.gif

The network says of every pixel of a mosaic which photograph it comes from, under noise. Two of its layers are depthwise
`Dcls2d`: 8 elements per channel in a window of 17 x 17 pixels. All elements start near the centre, and training moves
them: 5 times the learning rate of the weights, no weight decay, clamped after every step. The picture has the elements
of all channels of one layer, as large as their weights, and the mean speed of the elements beside the learning rate. A
second picture, of the same name with .png, has histograms and speeds of both layers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from atrous._files import whole_file
from atrous.analysis.movement import Movement, Snapshot, movement, snapshot
from atrous.nn import Dcls2d
from atrous.plots.movement import movement as draw_movement
from atrous.recipe import clamp_after_steps, param_groups
from atrous.train import Textures

CHANNELS, WINDOW, LR = 24, 17, 0.02
NEGATIVE, POSITIVE, LIMIT = "#e0701a", "#1f83c9", "#8a8f98"


class Block(nn.Module):
    """Add to the input what a depthwise convolution of learned spacings and two pointwise ones make of it."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = Dcls2d(CHANNELS, CHANNELS, 8, padding="same", dilated_kernel_size=WINDOW, groups=CHANNELS)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.mix = nn.Sequential(nn.Conv2d(CHANNELS, 2 * CHANNELS, 1), nn.GELU(), nn.Conv2d(2 * CHANNELS, CHANNELS, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Return an image of the same size."""
        return image + self.mix(self.norm(self.spatial(image)))


def train(frames: int, steps: int, size: int) -> tuple[list[Snapshot], list[Tensor], list[float]]:
    """Train for so many steps per frame, and return positions and weights of each frame, and the learning rates."""
    torch.manual_seed(0)
    data = Textures("train", frames * steps * 4, (size, size), region=64)
    model = nn.Sequential(nn.Conv2d(1, CHANNELS, 3, padding=1), Block(), Block(), nn.Conv2d(CHANNELS, 8, 1))
    optimizer = torch.optim.AdamW(param_groups(model, lr=LR, weight_decay=0.05))
    clamp_after_steps(model, optimizer)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], frames * steps
    )
    batches = iter(torch.utils.data.DataLoader(data, 4))
    seen, weights, rates = [snapshot(model)], [model[2].spatial.weight.detach().clone()], []
    for frame in range(frames):
        losses, used = [], []
        for _ in range(steps):
            image, labels = next(batches)
            loss = nn.functional.cross_entropy(model(image), labels)
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        seen.append(snapshot(model))
        weights.append(model[2].spatial.weight.detach().clone())
        rates.append(float(np.mean(used)))
        print(f"frame {frame + 1} of {frames}: loss {np.mean(losses):.3f}", flush=True)
    return seen, weights, rates


def animate(seen: list[Snapshot], weights: list[Tensor], moved: Movement, path: Path) -> None:
    """Write the movement of the last layer as a GIF."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    window, speed = figure.subplots(1, 2, width_ratios=(1, 1))
    reach = WINDOW // 2
    limits = Rectangle((-reach, -reach), 2 * reach, 2 * reach, fill=False, edgecolor=LIMIT, linestyle="--")
    window.add_patch(limits)
    dots = window.scatter([], [], alpha=0.7, linewidths=0)
    window.set(xlim=(-reach - 1, reach + 1), ylim=(reach + 1, -reach - 1), aspect="equal")
    window.set(xlabel="axis -1, pixels", ylabel="axis -2, pixels")
    layer = moved.layers[-1]
    middles = np.arange(len(layer.speeds)) + 0.5
    (line,) = speed.plot([], [], ".-", color=POSITIVE)
    speed.set(xlim=(0, len(middles)), ylim=(0, 1.08 * max(layer.speeds)), xlabel="frame")
    speed.set_ylabel("mean speed, pixels per frame", color=POSITIVE)
    other = speed.twinx()
    other.plot(middles, moved.learning_rates, "--", color=NEGATIVE)
    other.set(ylim=(0, None))
    other.set_ylabel("learning rate of weights", color=NEGATIVE)
    largest = max(float(one.abs().max()) for one in weights)

    def draw(frame: int) -> None:
        rows, columns = seen[frame].places[-1]
        strengths = weights[frame].flatten().numpy()
        dots.set_offsets(np.stack([columns, rows], 1))
        dots.set_sizes(4 + 60 * np.abs(strengths) / largest)
        dots.set_facecolor([POSITIVE if one > 0 else NEGATIVE for one in strengths])
        window.set_title(f"elements of {CHANNELS} channels, frame {frame}", fontsize=10)
        line.set_data(middles[:frame], layer.speeds[:frame])

    # The last frame stands for a while, before all starts again.
    order = [*range(len(seen)), *[len(seen) - 1] * 12]
    with whole_file(path) as part:
        FuncAnimation(figure, draw, order).save(part, PillowWriter(fps=10), dpi=60)


def main() -> None:
    """Train, print how far the elements moved, and write the animation."""
    parser = argparse.ArgumentParser(description="watch the elements of learned spacings move")
    parser.add_argument("--out", metavar="FILE", type=Path, default="positions_move.gif", help="write the GIF here")
    parser.add_argument("--frames", type=int, default=50, help="of the animation, after the first one")
    parser.add_argument("--steps", type=int, default=6, help="of training for each frame")
    parser.add_argument("--size", type=int, default=64, help="side of a mosaic in pixels")
    options = parser.parse_args()
    seen, weights, rates = train(options.frames, options.steps, options.size)
    moved = movement(seen, rates)
    print(moved)
    animate(seen, weights, moved, options.out)
    with whole_file(options.out.with_suffix(".png")) as part:
        draw_movement(moved).savefig(part, dpi=80)


if __name__ == "__main__":
    main()
