"""Find the layers of one dilation that follow one another in a model, and let them run in phases."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import Any, TypeAlias

import torch

from atrous import nn
from atrous.convert.report import Report, Row, check_model, convolutions, describe
from atrous.footprint import Footprint, trace_footprint
from atrous.footprint.axis import IDENTITY
from atrous.footprint.export import evaluating
from atrous.nn.phases import dilation_of, find_row, find_runs, is_plain, layers_of

_TURNS = 9
"""How often both ways are timed."""

_FASTER = 0.95
"""The share of the time that counts as faster, and not as noise."""

_Run: TypeAlias = tuple[list[torch.nn.Module], torch.Tensor]
"""The layers of a run, and what they get."""

_Verdict: TypeAlias = tuple[bool, str]
"""Whether phases are faster, and why."""


def fuse_same_rate(model: torch.nn.Module, *example_inputs: torch.Tensor, measure: bool = False) -> Report:
    """Let the runs of one dilation in a model run in phases where that is faster, in place.

    A run is two convolutions or more of one dilation d > 1 with stride 1, odd kernels and zero padding 'same', joined
    by pointwise operations alone, each output read by the next and by nothing else. The model's footprint tells where
    they are. Those that stand side by side in a plain `torch.nn.Sequential`, or in plain sequences inside one, can be
    fused: the outermost becomes an `atrous.nn.PhasedSequential`. Nothing else changes: parameters, `state_dict`, hooks,
    names of modules and, up to rounding, results. Other runs are found and kept.

    By default the table decides, which is of dense layers in float32 on a CPU, here for the sizes of the example and
    again for those of each call. With `measure=True` both ways are timed on the example, all runs of a sequence
    together, and what won stays.

    Args:
        model: any module that `torch.export` takes.
        example_inputs: what it takes, in the size and on the device that matter.
        measure: whether to time both ways instead of asking the table; forward only, in evaluation mode.

    Returns:
        What runs in phases now, and why the rest does not: print it.

    Raises:
        UnsupportedModule: something else than a module, or a network whose footprint is not known.
        ShapeError: no example, or one on which the network does not run.

    Source: the documentation of `tf.nn.atrous_conv2d`; `atrous.functional.in_phases` says what makes it exact.

    Example:
        >>> layers = [torch.nn.Conv2d(32, 32, 3, padding=4, dilation=4) for _ in range(2)]
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 1), layers[0], torch.nn.ReLU(), layers[1])
        >>> image = torch.randn(1, 3, 64, 64)
        >>> expected = model(image)
        >>> print(fuse_same_rate(model, image))
        2 of 3 convolutions changed
        changed  1  Conv2d(32, 32, 3, padding=4, dilation=4)  run of 2: phases are faster (4x32x56-k3-d8)
        changed  3  Conv2d(32, 32, 3, padding=4, dilation=4)  run of 2: phases are faster (4x32x56-k3-d8)
        kept     0  Conv2d(3, 32, 1)                          not plain, dilated, of stride 1 and 'same'
        >>> torch.testing.assert_close(model(image), expected, rtol=1e-4, atol=1e-5)
    """
    check_model("fuse_same_rate", model)
    fused: dict[torch.nn.Module, str] = {}
    kept: dict[torch.nn.Module, str] = {}
    for chain in _chains(model, trace_footprint(model, *example_inputs)):
        kept.update(dict.fromkeys(chain, f"its run of {len(chain)} is in no plain torch.nn.Sequential without hooks"))
    with evaluating(model), torch.no_grad():
        for sequence, input in _called(model, example_inputs).items():
            runs = _runs(sequence, input)
            verdicts = _measured(runs) if measure else _looked_up(runs)
            for (layers, _), (faster, reason) in zip(runs, verdicts, strict=True):
                members = [layer for layer in layers if dilation_of(layer)]
                (fused if faster else kept).update(dict.fromkeys(members, f"run of {len(members)}: {reason}"))
            if any(faster for faster, _ in verdicts):
                sequence.__class__ = nn.PhasedSequential
                sequence.phases = measure or None
    found = list(convolutions(model))
    changed = tuple(Row(name, describe(module), fused[module]) for name, module in found if module in fused)
    rest = [(name, module, kept.get(module) or _alone(module)) for name, module in found if module not in fused]
    return Report(model, changed, tuple(Row(name, describe(module), reason) for name, module, reason in rest))


def _alone(module: torch.nn.Module) -> str:
    """Return why a convolution is in no run."""
    return "no neighbour of its dilation" if dilation_of(module) else "not plain, dilated, of stride 1 and 'same'"


def _called(model: torch.nn.Module, example_inputs: tuple[torch.Tensor, ...]) -> dict[Any, torch.Tensor]:
    """Return the plain sequences that the model calls by themselves, not in another such, and what each gets first."""
    inputs: dict[Any, torch.Tensor] = {}
    calls: Counter[Any] = Counter()

    def note(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        calls[module] += 1
        if args:
            inputs.setdefault(module, args[0])

    kinds = torch.nn.Sequential, nn.PhasedSequential
    sequences: list[Any] = [one for one in model.modules() if type(one) in kinds and "forward" not in vars(one)]
    handles = [one.register_forward_pre_hook(note) for one in sequences]
    try:
        model(*example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    within: Counter[Any] = Counter()
    for sequence in sequences:
        within.update({layer: calls[sequence] for layer in sequence if is_plain(layer)})
    return {
        one: input for one, input in inputs.items() if type(one) is torch.nn.Sequential and calls[one] > within[one]
    }


def _runs(sequence: Any, input: torch.Tensor) -> list[_Run]:
    """Return the layers of every run of a sequence, and what they get."""
    layers, done, runs = list(layers_of(sequence)), 0, []
    for start, stop in find_runs(layers):
        for layer in layers[done:start]:
            input = layer(input)
        runs.append((layers[start:stop], input))
        done = start
    return runs


def _looked_up(runs: list[_Run]) -> list[_Verdict]:
    with torch.enable_grad():  # rows that hold in training count too: each call asks again
        rows = [find_row(*run) for run in runs]
    return [(True, f"phases are faster ({row.cell})") if row else (False, "no row of the table") for row in rows]


def _measured(runs: list[_Run]) -> list[_Verdict]:
    """Time all runs of a sequence both ways, in turns."""
    if not runs:
        return []
    ways = [
        [(nn.PhasedSequential(*layers, phases=phases), input) for layers, input in runs] for phases in (False, True)
    ]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_TURNS):
        for way, taken in zip(ways, times, strict=True):
            taken.append(sum(_seconds(*run) for run in way))
    # The first turn warms up.
    apart, phased = (1e3 * median(taken[1:]) for taken in times)
    verdict = phased < _FASTER * apart, f"phases take {phased:.3g} ms, layers {apart:.3g} ms"
    return [verdict] * len(runs)


def _seconds(call: Callable[[torch.Tensor], torch.Tensor], input: torch.Tensor) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call(input)
    if input.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def _chains(model: torch.nn.Module, footprint: Footprint) -> list[list[torch.nn.Module]]:
    """Return the convolutions of one dilation that read one another through nothing but pointwise operations."""
    uses = Counter(id(edge.source) for node in footprint.nodes for edge in node.edges)
    uses.update(map(id, footprint.outputs))
    chains: list[list[torch.nn.Module]] = []
    ends: dict[int, list[torch.nn.Module]] = {}
    for node in footprint.nodes:
        edge = node.edges[0] if len(node.edges) == 1 else None
        chain = ends.get(id(edge.source)) if edge is not None and uses[id(edge.source)] == 1 else None
        layer = model.get_submodule(node.module)
        dilation = dilation_of(layer)
        if dilation is not None and (chain is None or dilation_of(chain[-1]) != dilation):
            chain = []
            chains.append(chain)
        if chain is None or edge is None:
            continue
        if dilation is not None:
            # A convolution may be several nodes: a pad, a sum over taps.
            chain += [] if chain and chain[-1] is layer else [layer]
        elif node.dims != edge.source.dims or any(local != IDENTITY for local in edge.locals):
            continue
        ends[id(node)] = chain
    return [chain for chain in chains if len(chain) > 1]
