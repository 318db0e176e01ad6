"""Compress a VGG on Fashion-MNIST by Kronecker products, by low rank and by fewer channels, at equal parameters.

    python examples/compress.py --out compressed

A network of six convolutions and three linear layers is trained. `atrous.convert.factorise` then divides its parameters
by 3.6 and by 10 in each way, and what is left is trained on, as is the whole network. Thinner networks of the same form
and no more parameters learn from the start, for all epochs together. All take the same images in the same order. A
second call goes on where the first one stopped.

Source: Zhou, Wu, Wu and Zhou, Exploiting local structures with the Kronecker layer in convolutional networks, 2015, for
the question; Simonyan and Zisserman 2015 for the form of the network.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning
import torch
from matplotlib.figure import Figure
from torch import nn

from atrous._errors import DataError
from atrous._files import whole_file, writable_folder
from atrous._table import aligned
from atrous.convert import factorise
from atrous.train.build import open_data
from atrous.train.config import ClassifyRecipe
from atrous.train.data.batches import Batched
from atrous.train.data.source import Splits
from atrous.train.loop import Hardware, evaluate, fit
from atrous.train.tasks import Classify

WIDTHS, HIDDEN = (16, 32, 64), 512
"""Channels of each pair of convolutions, and of the two hidden linear layers."""
DIVISORS = 3.6, 10.0
METHODS = "kronecker", "separable", "cp"
EPOCHS, TUNING = 8, 4
"""Of the first training, and of what follows compression."""
RATE, TUNING_RATE = 2e-3, 1e-3
"""Learning rates at their highest."""
COLOURS = {"kronecker": "#1f83c9", "separable": "#129a78", "cp": "#b45fa5", "thinner": "#e0701a", "whole": "#000000"}


@dataclass(frozen=True)
class Score:
    """Say what one network reached.

    Args:
        method: one of `METHODS`, 'thinner' or 'whole'.
        divisor: by how much its parameters were to be divided.
        parameters: that it has.
        before: accuracy before it was trained on; None if it was trained from the start.
        after: accuracy at the end.
    """

    method: str
    divisor: float
    parameters: int
    before: float | None
    after: float


@dataclass(frozen=True)
class Lab:
    """Hold what all runs have in common.

    Args:
        out: the folder.
        splits: images and classes.
        data: their name.
        seed: of weights and order.
        epochs: of the first training.
        tuning: epochs of what follows.
        steps: of an epoch at most; None takes all images.
    """

    out: Path
    splits: Splits
    data: str
    seed: int = 0
    epochs: int = EPOCHS
    tuning: int = TUNING
    steps: int | None = None

    def train(self, name: str, network: nn.Module, epochs: int, rate: float) -> float:
        """Train a network, unless it has been, and return its accuracy on the test images."""
        folder = writable_folder(self.out / name)
        weights, score = folder / "weights.pt", folder / "score.json"
        what = {"data": self.data, "seed": self.seed, "epochs": epochs, "rate": rate, "parameters": size(network)}
        if score.is_file():
            found = json.loads(score.read_text(encoding="utf-8"))
            if found["of"] != what:
                raise DataError(f"{folder}: holds a run of {found['of']}, expected {what}; choose another folder")
            network.load_state_dict(torch.load(weights, weights_only=True))
            return float(found["accuracy"])
        task = self.task(network, epochs, rate)
        hardware = Hardware(devices=1)
        batches = Batched(self.splits, task.recipe)
        fit(task, batches, folder, hardware=hardware, steps_per_epoch=self.steps, resume=True)
        accuracy = self.judge(network)
        with whole_file(weights) as part:
            torch.save(network.state_dict(), part)
        with whole_file(score) as part:
            part.write_text(json.dumps({"of": what, "accuracy": accuracy}), encoding="utf-8")
        return accuracy

    def judge(self, network: nn.Module) -> float:
        """Return the accuracy of a network on the test images."""
        task = self.task(network, 1, RATE)
        return evaluate(task, Batched(self.splits, task.recipe), Hardware(devices=1))["accuracy"].item()

    def task(self, network: nn.Module, epochs: int, rate: float) -> Classify:
        """Return the task that trains a network."""
        recipe = ClassifyRecipe(epochs=max(1, epochs), seed=self.seed, learning_rate=rate, warmup_epochs=0)
        return Classify(network, len(self.splits.train.classes), recipe)


def vgg(classes: int, factor: float = 1.0) -> nn.Sequential:
    """Return pairs of convolutions, each followed by batch norm, with pools between, and three linear layers.

    Args:
        classes: to tell apart, of images of 28 x 28 pixels.
        factor: on every hidden channel count.
    """
    layers: list[nn.Module] = []
    before = 1
    for width in (round(factor * width) for width in WIDTHS):
        for _ in range(2):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    before *= 3 * 3
    for _ in range(2):
        width = round(factor * HIDDEN)
        layers += [nn.Linear(before, width), nn.ReLU(), nn.Dropout(0.3)]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, classes))


def size(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def thinner(classes: int, most: int) -> nn.Sequential:
    """Return the widest network of the same form with at most so many parameters."""
    with torch.device("meta"):
        fitting = (share / 400 for share in range(400, 0, -1) if size(vgg(classes, share / 400)) <= most)
        factor = next(fitting)
    return vgg(classes, factor)


def compare(lab: Lab) -> Iterator[Score]:
    """Train and compress; yield a score after each run."""
    classes = len(lab.splits.train.classes)
    lightning.seed_everything(lab.seed, verbose=False)
    whole = vgg(classes)
    before = lab.train("whole", whole, lab.epochs, RATE)
    again = copy.deepcopy(whole)
    yield Score("whole", 1.0, size(whole), before, lab.train("whole_tuned", again, lab.tuning, TUNING_RATE))
    for divisor in DIVISORS:
        budget = int(size(whole) / divisor)
        for method in METHODS:
            network = copy.deepcopy(whole)
            factorise(network, budget, method=method)
            start = lab.judge(network)
            after = lab.train(f"{method}_{divisor:g}", network, lab.tuning, TUNING_RATE)
            yield Score(method, divisor, size(network), start, after)
        lightning.seed_everything(lab.seed, verbose=False)
        network = thinner(classes, budget)
        after = lab.train(f"thinner_{divisor:g}", network, lab.epochs + lab.tuning, RATE)
        yield Score("thinner", divisor, size(network), None, after)


def table(scores: list[Score]) -> str:
    """Return a line for each network, beside the whole one."""
    whole = scores[0]
    rows: list[tuple[object, ...]] = [("network", "parameters", "divided by", "before", "after", "lost, points")]
    for one in scores:
        before = "-" if one.before is None else f"{one.before:.4f}"
        lost = "-" if one is whole else f"{100 * (whole.after - one.after):.2f}"
        rows.append(
            (one.method, one.parameters, f"{whole.parameters / one.parameters:.2f}", before, f"{one.after:.4f}", lost)
        )
    return aligned(rows)


def draw(scores: list[Score]) -> Figure:
    """Draw accuracy against parameters."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    for method, colour in COLOURS.items():
        points = [(one.parameters, 100 * one.after) for one in scores if one.method == method]
        if method == "whole":
            axes.axhline(points[0][1], color=colour, linewidth=0.8, alpha=0.5)
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=method, linewidth=1)
    axes.set(xscale="log", xlabel="parameters", ylabel="accuracy on test images, %")
    axes.grid(alpha=0.15)
    axes.legend(frameon=False)
    return figure


def main() -> None:
    """Run everything that is not done yet; write scores and a picture, and print the table."""
    parser = argparse.ArgumentParser(description="compress a VGG by Kronecker products, low rank and fewer channels")
    parser.add_argument(
        "--data", metavar="NAME", default="fashion-mnist", help="images of 28 x 28 (default: %(default)s)"
    )
    parser.add_argument("--out", metavar="FOLDER", required=True, help="for runs and results; goes on with its runs")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of weights and order (default: 0)")
    options = parser.parse_args()
    out = writable_folder(options.out)
    scores = list(compare(Lab(out, open_data(options.data, "classify"), options.data, options.seed)))
    with whole_file(out / "scores.json") as part:
        part.write_text(json.dumps([asdict(one) for one in scores], indent=2), encoding="utf-8")
    with whole_file(out / "scores.png") as part:
        draw(scores).savefig(part, dpi=110)
    print(table(scores))


if __name__ == "__main__":
    main()
