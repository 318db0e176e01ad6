"""Fold the parallel dilated branches of a model into one large kernel each, in place."""

from __future__ import annotations

import torch

from atrous._errors import UnsupportedModule
from atrous.convert.merge import exchange
from atrous.convert.report import check_model
from atrous.nn.branches import fold, has_branches


def merge_dilated_branches(model: torch.nn.Module) -> torch.nn.Module:
    """Turn every block of parallel dilated branches of a model into one depthwise convolution, for deployment.

    A block is an `atrous.nn.DilatedBranches`, or a module built like it: of UniRepLKNet and of what borrowed its block.
    It is known by the names of its parts (`lk_origin`, `dil_conv_...`, and behind each a batch norm `origin_bn`,
    `dil_bn_...` or nothing), and its forward is taken to be their sum. Branches become dense kernels, norms become
    scales and a bias, and all of them one `torch.nn.Conv2d`; `atrous.accelerate` works on it. The model computes the
    same up to rounding in evaluation mode, where norms use their running statistics. Hooks of calls of a block, names
    and training mode stay. To go on training, merge a deep copy. UniRepLKNet's own `reparameterize` does not know what
    is left.

    Args:
        model: any module, changed in place, or such a block.

    Returns:
        The model; of a block, its convolution.

    Raises:
        UnsupportedModule: something else than a module, or one without such a block; a branch that is no depthwise
            convolution of stride 1, odd size and 'same' zero padding; a norm without running statistics. The model is
            as it was.

    Source: Ding et al., UniRepLKNet, CVPR 2024, section 3.1.

    Example:
        >>> from atrous.nn import DilatedBranches
        >>> merge_dilated_branches(torch.nn.Sequential(DilatedBranches(8, 13), torch.nn.GELU()))
        Sequential(
          (0): Conv2d(8, 8, kernel_size=(13, 13), stride=(1, 1), padding=(6, 6), groups=8)
          (1): GELU(approximate='none')
        )
    """
    check_model("merge_dilated_branches", model)
    made: dict[torch.nn.Module, torch.nn.Module] = {
        block: fold(f"merge_dilated_branches: {name or 'the model'}", block)
        for name, block in model.named_modules()
        if has_branches(block)
    }
    if not made:
        raise UnsupportedModule(
            f"merge_dilated_branches: got a {type(model).__name__} without a block of dilated branches, expected at "
            "least one, such as atrous.nn.DilatedBranches"
        )
    return exchange(model, made)
