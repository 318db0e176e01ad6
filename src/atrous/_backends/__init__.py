"""Implementations of one operation under one name: each backend is a translation of the `reference` page."""

from __future__ import annotations

from collections.abc import Callable

import torch

from atrous._backends import aten, reference
from atrous._errors import BackendError

_BACKENDS = {"reference": reference, "aten": aten}

NAMES = tuple(_BACKENDS)
"""The names that `backend=` accepts."""


def choose(operation: str, input: torch.Tensor, ndim: int, backend: str | None) -> Callable[..., torch.Tensor]:
    """Return the implementation of `operation`: the named backend's, or the best one for this input.

    The written table: `aten` for floating and complex tensors with one to three axes, `reference` for the rest (torch
    convolves some integer dtypes on some devices, and none of them with every dilation).

    Raises:
        BackendError: a name that no backend has, or a named backend that cannot run this input.
    """
    if backend is not None and backend not in _BACKENDS:
        raise BackendError(f"{operation}: got backend={backend!r}, expected None or one of {NAMES}")
    reason = _not_for_aten(input, ndim)
    if backend == "aten" and reason:
        raise BackendError(
            f"{operation}: backend 'aten' is for floating and complex tensors of 1 to 3 axes, got {reason}; "
            "leave backend=None or name 'reference'"
        )
    name = backend or ("reference" if reason else "aten")
    implementation: Callable[..., torch.Tensor] = getattr(_BACKENDS[name], operation)
    return implementation


def _not_for_aten(input: torch.Tensor, ndim: int) -> str | None:
    if not (input.is_floating_point() or input.is_complex()):
        return f"{input.dtype} tensors"
    return None if ndim <= 3 else f"{ndim} axes"
