"""What `atrous.tune` measured on this machine: above the written table, for calls like those that it timed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from atrous._autocast import computed_dtype
from atrous._geometry import Geometry
from atrous._layout import lies_last


class Call(NamedTuple):
    """A class of calls that one measurement serves: all that speed depends on, but for the exact number of pixels."""

    operation: str
    """'conv', 'conv_transpose', or 'dcls': elements at learned positions, by taps or as a dense kernel."""
    device: str
    dtype: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    inputs: int
    outputs: int
    groups: int
    last: bool
    """Whether channels lie last in memory."""
    taps: int
    """Of 'dcls', for every pair of channels; else 0."""
    pixels: int | None
    """Of all samples of the output, rounded to a power of two; None while a compiler leaves sizes open."""


class Example(NamedTuple):
    """A call that can be made again, of other numbers."""

    input: tuple[int, ...]
    weight: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    geometry: Geometry


class Winner(NamedTuple):
    """The fastest backends of a call; of 'dcls' that of the taps, or 'aten' for the dense kernel."""

    forward: str
    backward: str
    both: str
    """The fastest one where a call takes one for both directions."""


Timings = dict[str, tuple[float, float]]
"""Backend -> milliseconds of forward and backward."""

MARGIN = 0.95
"""Another backend than torch's has to take less than this part of its time."""

timings: dict[Call, Timings] = {}
won: dict[Call, Winner] = {}

_calls: list[tuple[Call, Example]] | None = None


def consulted() -> bool:
    """Return whether there is anything to find, or anybody who wants to know what is sought."""
    return bool(won) or _calls is not None


def find(
    operation: str, input: torch.Tensor, weight: torch.Tensor, geometry: Geometry, groups: int, taps: int = 0
) -> Winner | None:
    """Return what was measured for calls like this one, or None; `weight` is that of the operator."""
    compiling = torch.compiler.is_compiling()
    if not compiling and any(type(size) is not int for size in (*input.shape, *weight.shape)):
        return None  # a tracer leaves sizes open
    transposed = operation == "conv_transpose"
    channels, outputs = input.shape[-geometry.ndim - 1], weight.shape[1] * groups if transposed else weight.shape[0]
    call = Call(
        operation,
        input.device.type,
        str(computed_dtype(input)).removeprefix("torch."),
        geometry.kernel,
        geometry.stride,
        geometry.dilation,
        channels,
        outputs,
        groups,
        input.ndim == geometry.ndim + 2 and lies_last(input),
        taps,
        None if compiling else _pixels(input, geometry, transposed),
    )
    if _calls is not None:
        shapes = tuple(input.shape), tuple(weight.shape)
        _calls.append((call, Example(*shapes, computed_dtype(input), input.device, geometry)))
    return won.get(call)


def add(call: Call, times: Timings) -> None:
    """Send calls of a class to the fastest backends from now on."""
    forward, backward = (_fastest({name: ways[way] for name, ways in times.items()}) for way in (0, 1))
    winner = Winner(forward, backward, _fastest({name: sum(ways) for name, ways in times.items()}))
    timings[call] = times
    won[call] = won[call._replace(pixels=None)] = winner


def clear() -> None:
    """Forget everything that was measured."""
    timings.clear()
    won.clear()


def _fastest(times: dict[str, float]) -> str:
    name = min(times, key=times.__getitem__)
    return name if times[name] < MARGIN * times["aten"] else "aten"


@contextmanager
def watched() -> Iterator[list[tuple[Call, Example]]]:
    """Yield what collects the calls of a block, in order."""
    global _calls
    _calls = []
    try:
        yield _calls
    finally:
        _calls = None


def _pixels(input: torch.Tensor, geometry: Geometry, transposed: bool) -> int:
    sizes: Sequence[int] = input.shape[-geometry.ndim :]
    if not transposed:
        sizes = geometry.output_size(sizes)
    pixels = math.prod(sizes) * (input.shape[0] if input.ndim == geometry.ndim + 2 else 1)
    return 1 << round(math.log2(max(1, pixels)))
