"""How every definition rounds: in float32 below float32, outside autocast, once; and what autocast converts before."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch


def as_autocast(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return tensors in the dtype to which autocast, if it is on, converts the inputs of a convolution."""
    device = tensors[0].device.type
    if not (_castable(device) and torch.is_autocast_enabled(device)):
        return tensors
    low = torch.get_autocast_dtype(device)
    eligible = (torch.float32, torch.float16, torch.bfloat16)  # autocast leaves all other dtypes alone
    return tuple(tensor.to(low) if tensor.dtype in eligible else tensor for tensor in tensors)


def rounded_once(
    total: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    first: torch.Tensor,
    second: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `total(first, second)`, plus one bias per channel, in the dtype of `first`.

    What is smaller than float32 is summed in float32; autocast is off, so that no product in `total` is lowered.
    """
    dtype, device = first.dtype, first.device.type
    if dtype in (torch.float16, torch.bfloat16):
        first, second = first.float(), second.float()
    with torch.autocast(device, enabled=False) if _castable(device) else nullcontext():
        result = total(first, second)
    if bias is not None:
        result = result + bias.to(result.dtype).view(-1, *[1] * (result.ndim - 2))
    return result.to(dtype)


def _castable(device: str) -> bool:
    # Dynamo of torch 2.11 does not trace the second question.
    return torch.compiler.is_compiling() or torch.amp.is_autocast_available(device)
