"""Say which versions run here, with how many threads, and which extras are installed."""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `atrous info`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> None:
    """Print the facts."""
    facts = collect()
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {entry}" for key, entry in value.items())
        print(f"{name:>9}  {value}")


def collect() -> dict[str, Any]:
    """Return what `atrous info` prints.

    Example:
        >>> list(collect())
        ['atrous', 'python', 'torch', 'numpy', 'system', 'processor', 'threads', 'devices', 'backends', 'extras']
    """
    import torch

    from atrous import __version__
    from atrous._backends import TAPS, unavailable
    from atrous._extras import EXTRAS, missing

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    extras = {}
    for extra in EXTRAS:
        absent = missing(extra)
        extras[extra] = f"lacks {' '.join(absent)}" if absent else "installed"
    return {
        "atrous": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": _version("numpy"),
        "system": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "devices": ", ".join(["cpu", *devices]),
        "backends": ", ".join(
            ["reference", "aten", *(f"no {one} ({reason})" if (reason := unavailable(one)) else one for one in TAPS)]
        ),
        "extras": extras,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
