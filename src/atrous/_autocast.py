"""What `torch.autocast` does to the tensors of a convolution."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

CONVERTED = (torch.float32, torch.float16, torch.bfloat16)
"""The dtypes that autocast converts; it leaves all others alone."""


def autocasts(tensor: torch.Tensor) -> bool:
    """Return whether autocast is on where `tensor` lies.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     autocasts(torch.zeros(1))
        True
    """
    device = tensor.device.type
    # Dynamo of torch 2.11 does not trace the first question.
    available = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device)
    return available and torch.is_autocast_enabled(device)


def computed_dtype(tensor: torch.Tensor) -> torch.dtype:
    """Return the dtype in which a convolution of `tensor` computes.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     computed_dtype(torch.zeros(1)), computed_dtype(torch.zeros(1, dtype=torch.float64))
        (torch.bfloat16, torch.float64)
    """
    if tensor.dtype in CONVERTED and autocasts(tensor):
        return torch.get_autocast_dtype(tensor.device.type)
    return tensor.dtype


def converted(tensor: torch.Tensor) -> torch.Tensor:
    """Return `tensor` as autocast gives it to a convolution; itself, where it changes nothing.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     converted(torch.ones(1)).dtype
        torch.bfloat16
    """
    dtype = computed_dtype(tensor)
    return tensor if tensor.dtype is dtype else tensor.to(dtype)


def all_converted(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return the tensors of a convolution as autocast gives them to it.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     [None if t is None else t.dtype for t in all_converted(torch.ones(1), torch.ones(1), None)]
        [torch.bfloat16, torch.bfloat16, None]
    """
    return converted(input), converted(weight), None if bias is None else converted(bias)


def outside(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast is off where `tensor` lies.

    Example:
        >>> x = torch.zeros(1)
        >>> with torch.autocast("cpu", torch.bfloat16), outside(x):
        ...     autocasts(x)
        False
    """
    return torch.autocast(tensor.device.type, enabled=False) if autocasts(tensor) else nullcontext()
