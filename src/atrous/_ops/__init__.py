"""What torch asks of an operation: derivatives, maps, casts, shapes; and which implementation has them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from atrous import _backends
from atrous._ops import tap_conv

__all__ = ["dispatch"]

# The other implementations are made of torch's operators, which have every contract already.
_CONTRACTS = {("tap_conv", "cpu"): tap_conv.tap_conv}


def dispatch(operation: str, input: torch.Tensor, ndim: int, backend: str | None) -> Callable[..., torch.Tensor]:
    """Return the differentiable implementation of `operation` for this input: of the named backend, or of the best.

    Raises:
        BackendError: a backend that is unknown or cannot run this input.
    """
    name = _backends.choose(operation, input, ndim, backend)
    return _CONTRACTS.get((operation, name)) or _backends.implementation(operation, name)
