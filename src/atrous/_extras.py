"""The optional dependencies: which extra brings which module."""

from __future__ import annotations

from importlib.util import find_spec

from atrous._errors import MissingExtra

EXTRAS = {
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "plots": ("matplotlib", "PIL"),
    "train": (
        *("lightning", "PIL", "pydantic", "rich", "safetensors", "skimage", "tensorboard", "tifffile", "torchmetrics"),
    ),
}
"""Extra -> the modules that it brings."""


def missing(extra: str) -> list[str]:
    """Return the modules of `extra` that are not installed."""
    return [module for module in EXTRAS[extra] if find_spec(module) is None]


def need(extra: str, room: str) -> None:
    """Raise unless every module of `extra` is installed.

    Raises:
        MissingExtra: names the modules and the command that installs them.
    """
    absent = missing(extra)
    if absent:
        raise MissingExtra(f"{room} needs {', '.join(absent)}; install them by: pip install 'atrous[{extra}]'")
