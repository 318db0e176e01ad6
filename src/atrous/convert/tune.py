"""Choose the backends of a model's convolutions by timing them here, instead of by a written table."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.hub import tqdm  # type: ignore[attr-defined]  # or what stands in where it is missing
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.benchmark import Timer

from atrous._backends import TAPS, measured, runner
from atrous._backends.measured import Call, Example, Timings
from atrous._backends.triton import tiles
from atrous._errors import DataError
from atrous._files import whole_file, writable_folder
from atrous._table import aligned
from atrous.convert.accelerate import refused, to_original, to_twin
from atrous.convert.report import check_model, convolutions
from atrous.convert.rivals import Passes
from atrous.functional.conv import forget
from atrous.functional.routes import rehearse

_ROUNDS = 5
_SECONDS = 0.02
"""How often, and for how long at least, every rival runs before the next one does."""

_FORMAT = 1


@dataclass(frozen=True)
class Timing:
    """Calls of a model that look alike, and how long they take.

    Args:
        names: the modules that make them, '' for the model itself.
        what: the call.
        milliseconds: backend -> forward and backward; 'aten' is torch's own, for learned positions that of their
            dense kernel.
        forward: the backend that runs it from now on.
        backward: the one that runs its derivatives.

    Example:
        >>> from atrous import tune
        >>> tune(torch.nn.Conv1d(3, 3, 5, dilation=11), torch.zeros(1, 3, 99)).rows[0].what
        'conv of (1, 3, 99) by (3, 3, 5), dilation 11'
    """

    names: tuple[str, ...]
    what: str
    milliseconds: Timings
    forward: str
    backward: str


@dataclass(frozen=True)
class Tuning:
    """What `tune` measured; prints as a table.

    Args:
        model: the model, changed.
        rows: one for each class of calls.

    Example:
        >>> from atrous import tune
        >>> str(tune(torch.nn.Identity(), torch.zeros(1)))
        'no convolution that another backend could run'
    """

    model: torch.nn.Module = field(repr=False)
    rows: tuple[Timing, ...]

    def __str__(self) -> str:
        if not self.rows:
            return "no convolution that another backend could run"
        cells: list[tuple[str, ...]] = [("module", "call", "forward", "ms", "backward", "ms")]
        for row in self.rows:
            first, *others = row.names
            times = (
                " ".join(f"{name} {ms[way]:.3g}" for name, ms in sorted(row.milliseconds.items())) for way in (0, 1)
            )
            forward, backward = times
            name = (first or "(the model)") + (f" and {len(others)} more" if others else "")
            cells.append((name, row.what, row.forward, forward, row.backward, backward))
        return aligned(cells)


def tune(model: torch.nn.Module, *args: Any, file: str | Path | None = None, **kwargs: Any) -> Tuning:
    """Time the convolutions of a model on this machine, and run each by the fastest backend from now on.

    `accelerate` reads a table that was measured elsewhere, on CPUs; this measures here, and on GPUs too. The model runs
    once on the shapes of its tensors, which computes nothing, to see which convolutions it makes; then each class of
    calls is timed alone on random numbers, forward and backward, by torch and as sums over taps. On a GPU the kernels
    of the taps try several tiles first. Convolutions of `torch.nn` that are faster as taps become their twins of
    `atrous.nn`, as by `accelerate`; `restore` undoes that.

    What was found holds for this process, for this model and any other: calls with the same channels, kernel, data
    type and layout, and about as many pixels, go to the winner. A winner that cannot run a call leaves it to the rules
    that hold without it. Under `torch.compile`, where sizes are open, the last size that was timed counts. Sums may be
    rounded otherwise than before, as by every change of backend. Call it under the autocast that training has.

    Args:
        model: changed in place.
        args: what the model is called with.
        file: where the timings are kept, JSON: those that it has already are not repeated. It may hold those of several
            machines. None keeps them for this process alone.
        kwargs: named arguments of the model.

    Returns:
        The timings: print them.

    Raises:
        UnsupportedModule: something else than a module.
        DataError: a file that is no such file, or cannot be written.
        AtrousError: whatever the model itself raises for these arguments.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(5, 5, 3, dilation=9, groups=5), torch.nn.ReLU())
        >>> tuning = tune(model, torch.zeros(1, 5, 32, 32))
        >>> [(row.names, sorted(row.milliseconds)) for row in tuning.rows]
        [(('0',), ['aten', 'cpu'])]
    """
    check_model("tune", model)
    path = None if file is None else Path(file)
    if path is not None:
        writable_folder(path.parent)
        _load(path)
    turned = {name: module for name, module in convolutions(model) if refused(module) is None}
    for module in turned.values():
        to_twin(module)
    served: set[str] = set()
    try:
        found = _find(model, args, kwargs)
        todo = [(call, example) for call, (_, example) in found.items() if call not in measured.timings]
        for call, example in tqdm(todo, desc="atrous.tune", disable=not todo):
            measured.add(call, _time(call, example))
        rows = tuple(_row(call, *found[call]) for call in found)
        served = {name for row in rows for name in row.names if {row.forward, row.backward} != {"aten"}}
    finally:
        for name, module in turned.items():
            if name not in served:
                to_original(module)
        forget()
        if path is not None:  # also what was timed before an interruption
            _save(path)
    return Tuning(model, rows)


def _find(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[Call, tuple[tuple[str, ...], Example]]:
    """Return the classes of calls that several backends can run, with the modules that make them."""
    names = {module: name for name, module in model.named_modules()}
    open_modules: list[str] = []
    makers: list[str] = []

    def sign() -> None:
        makers.extend(open_modules[-1:] * (len(calls) - len(makers)))

    def enter(module: torch.nn.Module, *_: Any) -> None:
        sign()
        open_modules.append(names.get(module, ""))

    def leave(*_: Any) -> None:
        sign()
        open_modules.pop()

    with measured.watched() as calls, ExitStack() as hooks:
        hooks.callback(register_module_forward_pre_hook(enter).remove)
        hooks.callback(register_module_forward_hook(leave).remove)
        rehearse(model, *args, **kwargs)
    found: dict[Call, tuple[tuple[str, ...], Example]] = {}
    for maker, (call, example) in zip(makers, calls, strict=True):
        if runner(example.device, example.dtype) is not None:
            others, first = found.get(call, ((), example))
            found[call] = (others if maker in others else (*others, maker)), first
    return found


def _time(call: Call, example: Example) -> Timings:
    """Return what a call takes, by torch and by taps; the taps on a GPU choose their tiles first."""
    taps = runner(example.device, example.dtype) or "aten"  # `_find` leaves out what has no other
    device = example.device.type
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
        passes = {name: Passes(call, example, name) for name in ("aten", taps)}
        if taps == "triton":
            for run in (passes[taps].forward, passes[taps].backward):
                _choose_tiles(run)
        forward = _race({name: each.forward for name, each in passes.items()})
        backward = _race({name: each.backward for name, each in passes.items()})
    return {name: (forward[name], backward[name]) for name in passes}


def _choose_tiles(run: Callable[[], object]) -> None:
    """Let every launch of a run that has no tile of its own yet try those that it may have."""
    with tiles.watched() as launches:
        run()
    for launch in launches:
        if launch not in tiles.won:
            times: dict[tiles.Tile, float] = {}
            for tile in tiles.CANDIDATES[launch.operation, launch.last]:
                tiles.won[launch] = tile
                times |= _race({tile: run})
            tiles.won[launch] = min(times, key=times.__getitem__)


def _race(runs: dict[Any, Callable[[], object]]) -> dict[Any, float]:
    """Return the milliseconds of each run: the median of rounds in which everyone takes turns."""
    timers = {
        name: Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads()) for name, run in runs.items()
    }
    for timer in timers.values():
        timer.timeit(1)  # loads and compiles what it needs
    counts = {name: max(1, int(_SECONDS / timer.timeit(1).mean)) for name, timer in timers.items()}
    rounds = [{name: timer.timeit(counts[name]).mean for name, timer in timers.items()} for _ in range(_ROUNDS)]
    return {name: 1e3 * statistics.median(times[name] for times in rounds) for name in timers}


def _row(call: Call, names: tuple[str, ...], example: Example) -> Timing:
    winner, geometry = measured.won[call], example.geometry
    what = f"{call.operation} of {example.input} by {example.weight}"
    for name, value in (("stride", geometry.stride), ("dilation", geometry.dilation), ("groups", (call.groups,))):
        if set(value) != {1}:
            what += f", {name} {value[0] if len(set(value)) == 1 else value}"
    ways = winner[:2] if call.operation == "conv" else (winner.both, winner.both)  # others take one for both
    return Timing(names, what, measured.timings[call], *ways)


def _machine(device: str) -> str:
    """Return what timings are only true of."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}; torch {torch.__version__}"
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} threads"
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {threads}; torch {torch.__version__}"


def _load(path: Path) -> None:
    """Take over what a file knows of this machine, beside what this process knows already."""
    machines = _read(path)
    for device, _ in TAPS.values():
        if device == "cuda" and not torch.cuda.is_available():
            continue
        known = machines.get(_machine(device), {"calls": [], "tiles": []})
        try:
            for fields, timings in known["calls"]:
                entries: list[Any] = [tuple(entry) if isinstance(entry, list) else entry for entry in fields]
                call = Call(*entries)
                if call not in measured.timings:
                    times = {name: (float(forward), float(backward)) for name, (forward, backward) in timings.items()}
                    measured.add(call, times)
            for launch, tile in known["tiles"]:
                tiles.won.setdefault(tiles.Launch(*launch), tiles.Tile(*tile))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise _no_timings(path, f"{type(error).__name__}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); choose another place") from error
    try:
        content = json.loads(text)
        if content["format"] == _FORMAT:
            machines: dict[str, Any] = dict(content["machines"])
            return machines
        reason = f"its format is {content['format']!r}, expected {_FORMAT}"
    except (TypeError, ValueError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise _no_timings(path, reason)


def _no_timings(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: got no timings of atrous.tune ({reason}); name another file, or remove this one")


def _save(path: Path) -> None:
    """Write all that this process knows of this machine into the file, beside what it holds of others."""
    machines = _read(path)
    for device in {call.device for call in measured.timings}:
        calls = [[call, timings] for call, timings in measured.timings.items() if call.device == device]
        won = list(tiles.won.items()) if device == "cuda" else []
        machines[_machine(device)] = {"calls": calls, "tiles": won}
    with whole_file(path) as part:
        part.write_text(json.dumps({"format": _FORMAT, "machines": machines}), encoding="utf-8")
