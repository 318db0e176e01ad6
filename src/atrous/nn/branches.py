"""Parallel depthwise convolutions of growing dilation that train as several kernels and fold into one.

Legend: B batch, C channels, H, W size, K size of the large kernel, k and d kernel size and dilation of a branch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_weights

from atrous import functional
from atrous._errors import GeometryError, UnsupportedModule
from atrous._geometry import Geometry, integers
from atrous.nn.conv import Conv2d, convolution

BRANCHES = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}
"""Size of the large kernel -> (kernel size, dilation) of its branches, as in UniRepLKNet."""


class DilatedBranches(torch.nn.Module):
    """Add dilated depthwise convolutions to a large one, each with its own batch norm: one large kernel, once trained.

    `y = norm(large(x)) + sum over branches of norm_i(branch_i(x))`, all with 'same' zero padding. Parameters are named
    as in UniRepLKNet's block (`lk_origin`, `origin_bn`, `dil_conv_k5_1`, `dil_bn_k5_1`, ...), whose weights load.

    Args:
        channels: C.
        kernel_size: K, odd.
        branches: (k, d) for each branch, k odd and each pair once; None for those of UniRepLKNet, which has some for
            K = 5, 7 ... 17. A branch may be wider than the large kernel.
        norm: False leaves the norms out; then `lk_origin` has a bias.
        device: of parameters and buffers.
        dtype: of parameters and buffers.

    Shape:
        (B, C, H, W) to (B, C, H, W).

    Raises:
        GeometryError: sizes below 1, even kernels, a branch twice, or a K for which branches have to be named.

    Source: Ding et al., UniRepLKNet, CVPR 2024, section 3.1 (Dilated Reparam Block).

    Example:
        >>> block = DilatedBranches(8, kernel_size=7).eval()
        >>> image = torch.randn(1, 8, 20, 20)
        >>> torch.testing.assert_close(block.merge()(image), block(image))
        >>> block.merge()
        Conv2d(8, 8, kernel_size=(7, 7), stride=(1, 1), padding=(3, 3), groups=8)
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 17,
        branches: Sequence[tuple[int, int]] | None = None,
        *,
        norm: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.branches = _branches(channels, kernel_size, branches)
        made: dict[str, Any] = {"groups": channels, "padding": "same", "device": device, "dtype": dtype}
        self.lk_origin = Conv2d(channels, channels, kernel_size, bias=not norm, **made)
        self.origin_bn = _norm(channels, norm, device, dtype)
        for size, gap in self.branches:
            branch = Conv2d(channels, channels, size, dilation=gap, bias=False, **made)
            self.add_module(f"dil_conv_k{size}_{gap}", branch)
            self.add_module(f"dil_bn_k{size}_{gap}", _norm(channels, norm, device, dtype))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the sum of all branches."""
        output: torch.Tensor = self.origin_bn(self.lk_origin(input))
        for size, gap in self.branches:
            conv, norm = getattr(self, f"dil_conv_k{size}_{gap}"), getattr(self, f"dil_bn_k{size}_{gap}")
            output = output + norm(conv(input))
        return output

    def merge(self) -> torch.nn.Conv2d:
        """Return the one convolution that computes what this block computes in evaluation mode, up to rounding."""
        return fold("DilatedBranches: merge", self)


def has_branches(module: torch.nn.Module) -> bool:
    """Return whether a module is built like `DilatedBranches`, whoever wrote it."""
    return isinstance(getattr(module, "lk_origin", None), torch.nn.Conv2d) and len(list(_parts(module))) > 1


def fold(where: str, block: torch.nn.Module) -> torch.nn.Conv2d:
    """Return the sum of the branches of a block as one convolution with a bias.

    Raises:
        UnsupportedModule: a branch that is no depthwise convolution which keeps the size, or a norm without statistics.
    """
    branches = list(_parts(block))
    parts = [_folded(f"{where}: {name}", conv, norm) for name, conv, norm in branches]
    sizes = tuple(max(kernel.shape[axis] for kernel, _ in parts) for axis in (2, 3))
    kernels = []
    for kernel, _ in parts:
        rows, columns = ((size - own) // 2 for size, own in zip(sizes, kernel.shape[2:], strict=True))
        kernels.append(F.pad(kernel, (columns, columns, rows, rows)))
    weight, bias = torch.stack(kernels).sum(0), torch.stack([bias for _, bias in parts]).sum(0)
    window = Geometry.resolve(sizes, padding="same", ndim=2)
    merged: torch.nn.Conv2d = convolution(weight, bias, window, weight.shape[0])
    merged.weight.requires_grad_(branches[0][1].weight.requires_grad)
    return merged.train(block.training)


def _parts(block: torch.nn.Module) -> Iterator[tuple[str, Any, torch.nn.Module]]:
    """Yield name, convolution and norm of every branch, the large one first."""
    yield "lk_origin", block.get_submodule("lk_origin"), getattr(block, "origin_bn", torch.nn.Identity())
    for name, conv in block.named_children():
        if name.startswith("dil_conv_"):
            norm = getattr(block, name.replace("dil_conv_", "dil_bn_"), torch.nn.Identity())
            yield name, conv, norm


@torch.no_grad()
def _folded(where: str, conv: Any, norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a branch as dense kernel and bias."""
    if not _keeps_size(conv):
        raise UnsupportedModule(
            f"{where}: got {conv}, expected a depthwise Conv2d of stride 1 with odd kernel sizes and as many zeros "
            "around the image as keep its size"
        )
    weight, bias = conv.weight, torch.zeros_like(conv.weight[:, 0, 0, 0]) if conv.bias is None else conv.bias
    if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None:
        statistics = norm.running_mean, norm.running_var, norm.eps
        weight, bias = fuse_conv_bn_weights(weight, bias, *statistics, norm.weight, norm.bias)
    elif not isinstance(norm, torch.nn.Identity):
        raise UnsupportedModule(
            f"{where}: got {norm} behind it, expected a batch norm with running statistics; without these it is a "
            "different function of every batch"
        )
    return functional.dilate_kernel(weight, conv.dilation), bias


def _keeps_size(conv: Any) -> bool:
    if not isinstance(conv, torch.nn.Conv2d) or not conv.in_channels == conv.out_channels == conv.groups:
        return False
    window = Geometry.resolve(conv.kernel_size, conv.stride, conv.padding, conv.dilation, ndim=2)
    same = Geometry.resolve(conv.kernel_size, 1, "same", conv.dilation, ndim=2)
    return window == same and all(size % 2 for size in window.kernel) and conv.padding_mode == "zeros"


def _norm(channels: int, norm: bool, device: Any, dtype: torch.dtype | None) -> torch.nn.Module:
    return torch.nn.BatchNorm2d(channels, device=device, dtype=dtype) if norm else torch.nn.Identity()


def _branches(
    channels: int, kernel_size: int, branches: Sequence[tuple[int, int]] | None
) -> tuple[tuple[int, int], ...]:
    """Return (k, d) of every branch, or raise for what cannot be."""
    integers("DilatedBranches: channels", channels, 1, 1)
    if branches is None and kernel_size not in BRANCHES:
        raise GeometryError(
            f"DilatedBranches: kernel_size: got {kernel_size} without branches, expected one of {tuple(BRANCHES)}; "
            "or name the branches"
        )
    pairs = BRANCHES[kernel_size] if branches is None else tuple((size, gap) for size, gap in branches)
    for what, value in (("kernel_size", kernel_size), *(("branches", side) for pair in pairs for side in pair)):
        integers(f"DilatedBranches: {what}", value, 1, 1)
    if kernel_size % 2 == 0 or any(size % 2 == 0 for size, _ in pairs) or len(set(pairs)) < len(pairs):
        raise GeometryError(
            f"DilatedBranches: got a kernel of {kernel_size} and branches {pairs}, expected odd kernel sizes and each "
            "branch once"
        )
    return pairs
