"""How every definition rounds: in float32 below float32, outside autocast, once."""

from __future__ import annotations

from collections.abc import Callable

import torch

from atrous._autocast import outside


def rounded_once(
    total: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    first: torch.Tensor,
    second: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `total(first, second)`, plus one bias per channel, in the dtype of `first`.

    What is smaller than float32 is summed in float32; autocast is off, so that no product in `total` is lowered.
    """
    dtype = first.dtype
    if dtype in (torch.float16, torch.bfloat16):
        first, second = first.float(), second.float()
    with outside(first):
        result = total(first, second)
    if bias is not None:
        result = result + bias.to(result.dtype).view(-1, *[1] * (result.ndim - 2))
    return result.to(dtype)
