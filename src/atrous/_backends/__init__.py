"""Implementations of one operation under one name: each backend is a translation of the `reference` page."""

from __future__ import annotations

from collections.abc import Callable

import torch

from atrous._backends import aten, cpu, reference
from atrous._errors import BackendError

_BACKENDS = {"reference": reference, "aten": aten, "cpu": cpu}

NAMES = {"conv": ("aten", "reference"), "tap_conv": ("cpu", "reference")}
"""The written table: the names that `backend=` accepts for an operation, the first that can run an input chosen."""


def choose(operation: str, input: torch.Tensor, ndim: int, backend: str | None) -> str:
    """Return the name of the backend that runs `operation`: the named one, or the best one for this input.

    `aten` runs floating and complex tensors with one to three axes (torch convolves some integer dtypes on some
    devices, and none of them with every dilation), `cpu` float32 on a CPU, `reference` everything.

    Raises:
        BackendError: a name that no backend of the operation has, or a named backend that cannot run this input.
    """
    names = NAMES[operation]
    if backend is None:
        return next(name for name in names if not _refusal(name, input, ndim))
    if backend not in names:
        raise BackendError(f"{operation}: got backend={backend!r}, expected None or one of {names}")
    if refusal := _refusal(backend, input, ndim):
        raise BackendError(f"{operation}: backend {backend!r} {refusal}; leave backend=None or name 'reference'")
    return backend


def implementation(operation: str, name: str) -> Callable[..., torch.Tensor]:
    """Return `operation` of the backend `name`."""
    found: Callable[..., torch.Tensor] = getattr(_BACKENDS[name], operation)
    return found


def _refusal(name: str, input: torch.Tensor, ndim: int) -> str | None:
    """Return why a backend cannot run this input, as the end of a sentence, or None."""
    if name == "aten":
        floating = input.is_floating_point() or input.is_complex()
        if floating and ndim <= 3:
            return None
        got = f"{ndim} axes" if floating else f"{input.dtype} tensors"
        return f"is for floating and complex tensors of 1 to 3 axes, got {got}"
    if name == "cpu":
        if cpu.UNAVAILABLE:
            return f"cannot run: {cpu.UNAVAILABLE}; reinstall with a C++ compiler"
        if input.dtype != torch.float32 or input.device.type != "cpu":
            return f"is for torch.float32 tensors on a CPU, got {input.dtype} on {input.device.type}"
    return None
