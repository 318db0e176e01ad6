"""The file of `tune`: what calls took on a machine, and the tiles that were the fastest there."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from atrous._backends import NAMES, measured
from atrous._backends.measured import Call, Timings
from atrous._backends.triton import tiles
from atrous._errors import DataError
from atrous._files import whole_file

_FORMAT = 1


def machine(device: str) -> str:
    """Return what timings are only true of."""
    versions = f"torch {torch.__version__}; atrous {version('atrous')}"
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}; {versions}"
    capability = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{capability}, {torch.get_num_threads()} of {os.cpu_count()} threads; {versions}"


def load(path: Path) -> None:
    """Take over what a file knows of this machine, beside what this process knows already; all of it or nothing.

    Raises:
        DataError: the file holds something else, or cannot be read.
    """
    calls: dict[Call, Timings] = {}
    launches: dict[tiles.Launch, tiles.Tile] = {}
    content = _read(path)
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        known = content.get(machine(device), {"calls": [], "tiles": []})
        try:
            for fields, times in known["calls"]:
                entries: list[Any] = [tuple(entry) if isinstance(entry, list) else entry for entry in fields]
                calls[Call(*entries)] = {name: (float(forward), float(back)) for name, (forward, back) in times.items()}
            launches |= {tiles.Launch(*launch): tiles.Tile(*tile) for launch, tile in known["tiles"]}
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise _refusal(path, f"{type(error).__name__}: {error}") from error
    names = {name for times in calls.values() for name in times}
    if not names <= {*NAMES["conv"]} or any("aten" not in times for times in calls.values()):
        raise _refusal(path, f"its backends are {sorted(names)}, expected some of {NAMES['conv']}, 'aten' always")
    for call, times in calls.items():
        if call not in measured.timings:
            measured.add(call, times)
    tiles.won |= {launch: tile for launch, tile in launches.items() if launch not in tiles.won}


def save(path: Path) -> None:
    """Write what this process knows into the file, beside what that holds of other calls and machines.

    Raises:
        DataError: the file cannot be written, or holds something else.
    """
    content = _read(path)
    for device in {call.device for call in measured.timings}:
        here = content.setdefault(machine(device), {"calls": [], "tiles": []})
        calls = {call: times for call, times in measured.timings.items() if call.device == device}
        here["calls"] = _merged(here["calls"], calls)
        here["tiles"] = _merged(here["tiles"], tiles.won if device == "cuda" else {})
    with whole_file(path) as part:
        part.write_text(json.dumps({"format": _FORMAT, "machines": content}), encoding="utf-8")


def _merged(pairs: list[Any], known: dict[Any, Any]) -> list[Any]:
    """Return pairs of a file with what is known in their place."""
    new = [json.loads(json.dumps(pair)) for pair in known.items()]
    keys = [key for key, _ in new]
    return [pair for pair in pairs if pair[0] not in keys] + new


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] == _FORMAT:
            machines: dict[str, Any] = dict(content["machines"])
            return machines
        reason = f"its format is {content['format']!r}, expected {_FORMAT}"
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); choose another place") from error
    except (TypeError, ValueError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise _refusal(path, reason)


def _refusal(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: got no timings of atrous.tune ({reason}); name another file, or remove this one")
