"""Choose the backends of a model's convolutions by timing them here, instead of by a written table."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.hub import tqdm  # type: ignore[attr-defined]  # or what stands in where it is missing
from torch.nn.modules.lazy import LazyModuleMixin

from atrous._backends import aten, measured, runner
from atrous._backends.measured import Call, Example, Timings
from atrous._backends.triton import tiles
from atrous._errors import DataError, UnsupportedModule
from atrous._files import writable_folder
from atrous._table import aligned
from atrous.convert.accelerate import refused, to_original, to_twin
from atrous.convert.report import check_model, convolutions
from atrous.convert.rivals import Passes
from atrous.convert.timings import load, machine, save
from atrous.functional.conv import forget
from atrous.functional.routes import rehearse

_ROUNDS = 5
_SECONDS = 0.02
"""How often, and for how long at least, every rival runs before the next one does."""

_machines: tuple[str, ...] = ()
"""What all timings of this process are true of."""


@dataclass(frozen=True)
class Timing:
    """Calls of a model that look alike, and how long they take.

    Args:
        names: the modules that make them, '' for the model itself.
        what: the call.
        milliseconds: backend -> forward and backward; 'aten' is torch's operator, for learned positions their dense
            kernel on what is best for that.
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

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows as plain data, without the model."""
        return {"rows": [asdict(row) for row in self.rows]}


def tune(model: torch.nn.Module, /, *args: Any, file: str | Path | None = None, **kwargs: Any) -> Tuning:
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
        UnsupportedModule: something else than a module, a lazy one before its first call, or one that reads values to
            decide what it does.
        DataError: a file that is no such file, or cannot be written.
        AtrousError: whatever the model itself raises for these arguments.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(5, 5, 3, dilation=9, groups=5), torch.nn.ReLU())
        >>> tuning = tune(model, torch.zeros(1, 5, 32, 32))
        >>> [(row.names, sorted(row.milliseconds)) for row in tuning.rows]
        [(('0',), ['aten', 'cpu'])]
    """
    _check(model)
    path = None if file is None else Path(file)
    _stay_on_this_machine()
    if path is not None:
        writable_folder(path.parent)
        load(path)
    turned = {name: module for name, module in convolutions(model) if refused(module) is None}
    for module in turned.values():
        to_twin(module)
    kept: set[str] = set()
    try:
        rows, kept = _measure(model, args, kwargs)
    except BaseException:
        if path is not None:
            with suppress(DataError):  # which would hide what happened
                save(path)
        raise
    finally:
        for name, module in turned.items():
            if name not in kept and "" not in kept - {*turned}:  # a call whose maker is not known may be anyone's
                to_original(module)
        forget()
    if path is not None:
        save(path)
    return Tuning(model, rows)


def forget_timings() -> None:
    """Forget what `tune` measured in this process: calls go where the written table sends them; files stay.

    Example:
        >>> forget_timings()
    """
    measured.clear()
    tiles.won.clear()
    forget()


def _check(model: torch.nn.Module) -> None:
    check_model("tune", model)
    for name, module in model.named_modules():
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            raise UnsupportedModule(
                f"tune: {name or 'the model'}: got a {type(module).__name__} whose channels are not known before its "
                "first call; call the model once, then tune"
            )


def _measure(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Timing, ...], set[str]]:
    """Time what was not timed yet; return the rows, and the modules that run in another way than torch's own."""
    found = _find(model, args, kwargs)
    while todo := [call for call in found if call not in measured.timings]:
        # Learned positions last: their dense kernel competes as the convolution that it is.
        todo.sort(key=lambda call: call.operation == "dcls")
        for call in tqdm(todo, desc="atrous.tune"):
            measured.add(call, _time(call, found[call][1]))
        found = _find(model, args, kwargs)  # what was measured may change which calls are made
    rows = tuple(_row(call, *found[call]) for call in found)
    ours = (row for row, (_, example) in zip(rows, found.values(), strict=True) if _is_ours(row, example))
    return rows, {name for row in ours for name in row.names}


def _stay_on_this_machine() -> None:
    """Forget what was timed with other threads, or on another GPU."""
    global _machines
    machines = tuple(machine(device) for device in ("cpu", "cuda") if device == "cpu" or torch.cuda.is_available())
    if machines != _machines:
        forget_timings()
    _machines = machines


def _find(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[Call, tuple[tuple[str, ...], Example]]:
    """Return the classes of calls that several backends can run, with the modules that make them."""
    open_modules: list[str] = []
    makers: list[str] = []

    def sign() -> None:
        maker = open_modules[-1] if open_modules else ""
        makers.extend([maker] * (len(calls) - len(makers)))

    def enter(name: str, *_: Any) -> None:
        sign()
        open_modules.append(name)

    def leave(*_: Any) -> None:
        sign()
        open_modules.pop()

    with measured.watched() as calls, ExitStack() as hooks:
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule) and not hasattr(module, "_orig_mod"):
                hooks.callback(module.register_forward_pre_hook(partial(enter, name)).remove)
                hooks.callback(module.register_forward_hook(leave, always_call=True).remove)
        rehearse(model, *args, **kwargs)
        sign()
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
        with torch.random.fork_rng([example.device] if device == "cuda" else []):
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
            for tile in tiles.CANDIDATES[launch.kernel, launch.last]:
                with tiles.forced(launch, tile):
                    try:
                        times |= _race({tile: run})
                    except Exception as error:  # Triton's own may be missing here
                        if type(error).__name__ != "OutOfResources":
                            raise
            if times:
                tiles.won[launch] = min(times, key=times.__getitem__)


def _race(runs: dict[Any, Callable[[], object]]) -> dict[Any, float]:
    """Return the milliseconds of each run: the median of rounds in which everyone takes turns."""
    from torch.utils.benchmark import Timer  # which takes an eighth of a second to import

    timers = {
        name: Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads()) for name, run in runs.items()
    }
    for timer in timers.values():
        timer.timeit(1)  # loads and compiles what it needs
    counts = {name: max(1, int(_SECONDS / timer.timeit(1).mean)) for name, timer in timers.items()}
    rounds = [{name: timer.timeit(counts[name]).mean for name, timer in timers.items()} for _ in range(_ROUNDS)]
    return {name: 1e3 * statistics.median(times[name] for times in rounds) for name in timers}


def _is_ours(row: Timing, example: Example) -> bool:
    """Return whether a call runs in another way than torch's own module would run it."""
    if {row.forward, row.backward} != {"aten"}:
        return True
    widened = aten.widening(example.dtype, example.geometry) or aten.pads_slowly(example.geometry)
    return example.device.type == "cpu" and bool(widened)


def _row(call: Call, names: tuple[str, ...], example: Example) -> Timing:
    winner, geometry = measured.won[call], example.geometry
    what = f"{call.operation} of {example.input} by {example.weight}"
    for name, value in (("stride", geometry.stride), ("dilation", geometry.dilation), ("groups", (call.groups,))):
        if set(value) != {1}:
            what += f", {name} {value[0] if len(set(value)) == 1 else value}"
    ways = winner[:2] if call.operation == "conv" else (winner.both, winner.both)  # others take one for both
    return Timing(names, what, measured.timings[call], *ways)
