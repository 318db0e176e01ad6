"""How the numbers of a tensor lie in memory."""

from __future__ import annotations

import torch


def lies_last(tensor: torch.Tensor) -> bool:
    """Return whether channels, the axis after the batch, lie last in memory, and not by chance.

    Example:
        >>> image = torch.zeros(2, 3, 8, 8)
        >>> lies_last(image), lies_last(image.to(memory_format=torch.channels_last))
        (False, True)
    """
    return not tensor.is_contiguous() and tensor.movedim(1, -1).is_contiguous()
