"""Who else follows a call: a compiler, a transform, a mode, autocast."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad

PLAIN = (torch.Tensor, torch.nn.Parameter)
"""The classes of plain tensors."""

# Bound once: in the middle of a network each look into a module costs a miss of the caches.
_transforms = torch._C._are_functorch_transforms_active
_modes = torch._C._len_torch_dispatch_stack
_tracing = torch._C._is_tracing


def transformed() -> bool:
    """Return whether a transform of `torch.func` or forward-mode differentiation follows what runs now.

    Example:
        >>> torch.func.vmap(lambda x: x + transformed())(torch.zeros(2))
        tensor([1., 1.])
    """
    return _transforms() or forward_ad._current_level >= 0


def recorded(*tensors: torch.Tensor | None) -> bool:
    """Return whether a call with these tensors must be differentiable.

    Example:
        >>> x = torch.zeros(1, requires_grad=True)
        >>> with torch.no_grad():
        ...     recorded(x, None)
        False
    """
    if transformed():
        return True
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def unwatched(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Return whether the tensors alone decide how a call runs: eager and plain floats of one dtype, on a CPU or GPU.

    Example:
        >>> x = torch.zeros(1)
        >>> unwatched(x, x, None), unwatched(x, x.double(), None)
        (True, False)
    """
    if torch.compiler.is_compiling():
        return False
    for tensor in (input, weight) if bias is None else (input, weight, bias):
        if type(tensor) not in PLAIN or tensor.dtype is not input.dtype or tensor.layout is not torch.strided:
            return False
    return (
        (input.is_cpu or input.is_cuda)
        and input.is_floating_point()
        and not transformed()
        and not _modes()
        and not _tracing()
        and not torch.is_autocast_enabled("cpu" if input.is_cpu else "cuda")
    )
