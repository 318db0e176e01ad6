"""Learn the delays of spiking neurons, and find the true ones again, step for step.

    python examples/spiking_delays.py

A synapse with a delay is a kernel of one element: `Dcls1d` with `kernel_count=1` under causal padding passes a spike on
K - 1 - K // 2 - p steps later, which is K // 2 - p for an odd window K. The delay is learned as any position is: by an
element that is wide at first, so that it feels the whole window, and narrow at the end; at 100 times the learning rate
of weights; clamped after each step; rounded to whole steps when training is over.

Two tasks, with delays that are known:

- **Spikes of a teacher.** Leaky neurons with hidden weights and delays fire on random spikes. A student sees these and
  the answers, and maximises the likelihood of every step's answer, given those before: weights and delays are learned.
- **Patterns.** In every class each input fires once, and classes differ in nothing but the lags between inputs; other
  spikes are noise. Each class has one leaky neuron of fixed, equal weights, and the highest potential of all decides.
  A neuron answers its class best where its delays undo the lags: lag + delay is then the same for all inputs. Only
  differences within a neuron count, so one delay of each is given, in effect, and the others are compared to it.

Legend: B trains, N inputs, M neurons, L steps of time, K steps of the window.

Source: Hammouamri, Khalfaoui-Hassani and Masquelier, Learning delays in spiking neural networks using dilated
convolutions with learnable spacings, ICLR 2024, for learning rate, widths and rounding. The tasks are our own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from atrous._table import aligned
from atrous.nn import Dcls1d
from atrous.recipe import anneal_scales, clamp_after_steps, param_groups, round_positions

WINDOW = 25
"""K: delays are 0 to 24 steps."""

KEPT = 0.8
"""Part of its potential that a neuron keeps from one step to the next."""

THRESHOLD = 1.0
SHARP = 6.0
"""How steeply the chance of a spike grows with the potential, per threshold; the teacher itself is infinitely steep."""

BATCH = 64
ANNEALED = 0.7
"""Part of the training in which elements become narrow."""


@dataclass(frozen=True)
class Found:
    """What was learned.

    Args:
        true: (M, N) delays in steps.
        learned: (M, N) delays in steps.
        score: of the network with rounded delays, on data that it has not seen; from 0 to 1.
    """

    true: Tensor
    learned: Tensor
    score: float

    @property
    def recovered(self) -> int:
        """How many delays are exact."""
        return int((self.true == self.learned).sum())

    def __str__(self) -> str:
        head = ("neuron", "delays", *(f"input {index}" for index in range(self.true.shape[1])))
        rows = [
            (neuron, name, *row.tolist())
            for neuron, both in enumerate(zip(self.true, self.learned, strict=True))
            for name, row in zip(("true", "learned"), both, strict=True)
        ]
        return aligned([head, *rows])


def synapses(inputs: int, neurons: int, interpolation: str) -> Dcls1d:
    """Return one delay and one weight for every pair of an input and a neuron: (B, N, L) to (B, M, L)."""
    options = {"padding": "causal", "dilated_kernel_size": WINDOW, "bias": False}
    return Dcls1d(inputs, neurons, 1, interpolation=interpolation, **options)


def delays(layer: Dcls1d) -> Tensor:
    """Return the delays of a layer, (M, N), in whole steps."""
    return (WINDOW - 1 - WINDOW // 2 - layer.P[0, ..., 0]).round().long()


def potentials(currents: Tensor, spikes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Run leaky neurons, and return their potentials before a spike takes the threshold away, and the spikes.

    Args:
        currents: (B, M, L).
        spikes: (B, M, L), when the neurons are made to spike; without, wherever they reach the threshold.
    """
    potential = torch.zeros_like(currents[..., 0])
    before, fired = [], []
    for step, current in enumerate(currents.unbind(-1)):
        potential = KEPT * potential + current
        before.append(potential)
        fired.append((potential > THRESHOLD).to(potential) if spikes is None else spikes[..., step])
        potential = potential - THRESHOLD * fired[-1]
    return torch.stack(before, -1), torch.stack(fired, -1)


def noise(batch: int, inputs: int, length: int, rate: float) -> Tensor:
    """Return random spikes, `rate` of them per step and input."""
    return (torch.rand(batch, inputs, length) < rate).float()


def train(student: Dcls1d, loss: Callable[[], Tensor], steps: int, lr: float) -> None:
    """Train a layer of delays by the recipe: narrowing widths, faster positions, clamping."""
    anneal_scales(student, 0)  # first of all: from here on widths do not learn
    optimizer = torch.optim.Adam(param_groups(student, lr, weight_decay=0, position_lr_scale=100))
    clamp_after_steps(student, optimizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        anneal_scales(student, min(1, step / (ANNEALED * steps)))
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()


def from_spikes(inputs: int = 10, neurons: int = 6, length: int = 100, steps: int = 600, seed: int = 0) -> Found:
    """Learn weights and delays from the spikes of a teacher; the score is the share of spikes at the right step."""
    torch.manual_seed(seed)
    teacher = synapses(inputs, neurons, "bilinear").requires_grad_(False)
    teacher.P.copy_(torch.randint(WINDOW, teacher.P.shape) - WINDOW // 2)
    # None is so weak that its delay would not matter; every third inhibits, so that no neuron is silent.
    teacher.weight.uniform_(0.3, 0.6)
    teacher.weight[:, 2::3] *= -1

    student = synapses(inputs, neurons, "gaussian")
    torch.nn.init.normal_(student.P)
    torch.nn.init.normal_(student.weight, 0, 0.01)

    def loss() -> Tensor:
        trains = noise(BATCH, inputs, length, 0.06)
        _, answers = potentials(teacher(trains))
        # Made to spike as the teacher does, so that one wrong spike does not spoil all that follows.
        found, _ = potentials(student(trains), answers)
        return F.binary_cross_entropy_with_logits(SHARP * (found - THRESHOLD), answers)

    train(student, loss, steps, lr=0.02)
    with torch.no_grad(), round_positions(student):
        trains = noise(BATCH, inputs, length, 0.06)
        found, answers = (potentials(layer(trains))[1] for layer in (student, teacher))
        score = (found * answers).sum() / torch.maximum(found, answers).sum()
        return Found(delays(teacher), delays(student), score.item())


def from_patterns(inputs: int = 12, classes: int = 5, length: int = 80, steps: int = 600, seed: int = 0) -> Found:
    """Learn delays from labels alone; the score is the accuracy.

    True delays are those that undo the lags of the class, up to a shift that all inputs of a neuron share.
    """
    torch.manual_seed(seed)
    # Half of the window at most, so that the shift has room.
    lags = torch.randint(WINDOW // 2 + 1, (classes, inputs))
    neurons = synapses(inputs, classes, "gaussian")
    neurons.weight.requires_grad_(False).fill_(1)
    # Short at first: the part that all delays of a neuron share grows while elements are wide.
    torch.nn.init.normal_(neurons.P, WINDOW // 4, 0.5)

    def patterns(batch: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(classes, (batch,))
        starts = torch.randint(length - 2 * WINDOW, (batch, 1))
        trains = noise(batch, inputs, length, 0.15)
        return trains.scatter(2, (starts + lags[labels]).unsqueeze(-1), 1), labels

    def scores(trains: Tensor) -> Tensor:
        # No spikes here: the neurons only integrate.
        currents = neurons(trains)
        return potentials(currents, torch.zeros_like(currents))[0].amax(-1)

    def loss() -> Tensor:
        trains, labels = patterns(BATCH)
        return F.cross_entropy(scores(trains), labels)

    train(neurons, loss, steps, lr=0.005)
    with torch.no_grad(), round_positions(neurons):
        trains, labels = patterns(500)
        learned = delays(neurons)
        shift = (learned + lags).mode(1, keepdim=True).values
        return Found(shift - lags, learned, (scores(trains).argmax(1) == labels).float().mean().item())


def main() -> None:
    """Print both tables."""
    for title, learn, score in (
        ("Spikes of a teacher", from_spikes, "spikes at the right step, with rounded delays"),
        ("Patterns that differ in lags alone", from_patterns, "accuracy with rounded delays"),
    ):
        started = time.monotonic()
        found = learn()
        print(f"{title}\n{found}")
        print(f"{found.recovered} of {found.true.numel()} delays recovered exactly; {score}: {found.score:.1%}")
        print(f"{time.monotonic() - started:.0f} seconds\n", flush=True)


if __name__ == "__main__":
    main()
