"""What torch asks of an operation: derivatives, maps, casts, shapes; and which implementation has them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from atrous import _backends
from atrous._ops import tap_conv

__all__ = ["implementation"]

# The other implementations are made of torch's operators, which have every contract already.
_CONTRACTS = {("tap_conv", name): tap_conv.tap_conv for name in _backends.TAPS}


def implementation(operation: str, name: str) -> Callable[..., torch.Tensor]:
    """Return the differentiable implementation of `operation` by the backend `name`."""
    return _CONTRACTS.get((operation, name)) or _backends.implementation(operation, name)
