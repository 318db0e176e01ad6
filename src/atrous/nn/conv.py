"""Convolution modules: torch's own, with the paddings of `atrous.functional`.

Legend: B batch, C channels in, D channels out, P output size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.utils import parametrize

from atrous import functional
from atrous._errors import UnsupportedModule
from atrous._geometry import Geometry, Ints, Padding, plain


def _torch_padding(padding: Padding, kernel_size: Ints, stride: Ints, dilation: Ints, ndim: int) -> Padding:
    """Return `padding` if torch's constructor knows it; else check it and return a stand-in for the constructor."""
    geometry = Geometry.resolve(kernel_size, stride, padding, dilation, ndim=ndim)
    if isinstance(padding, str):
        return padding if padding == "valid" or (padding == "same" and set(geometry.stride) == {1}) else 0
    entries = padding if isinstance(padding, (tuple, list)) else (padding,)
    return padding if all(isinstance(entry, int) for entry in entries) else 0


class _Conv(torch.nn.Module):
    ndim: int
    convolve: Callable[..., torch.Tensor]
    weight: torch.Tensor
    bias: torch.Tensor | None
    stride: Any
    padding: Any
    dilation: Any
    groups: int
    padding_mode: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        padding = plain("padding", padding)
        known = _torch_padding(padding, kernel_size, stride, dilation, self.ndim)
        # The next class in line is torch.nn.Conv{1,2,3}d, whose signature this is.
        super().__init__(
            in_channels, out_channels, kernel_size, stride, known, dilation, groups, bias, padding_mode, device, dtype
        )
        if known is not padding:
            self.padding = padding

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        # torch's own hook for subclasses: whoever replaces the weight on the way keeps our paddings.
        return self.convolve(
            input, weight, bias, self.stride, self.padding, self.dilation, self.groups, padding_mode=self.padding_mode
        )


class Conv1d(_Conv, torch.nn.Conv1d):
    """Apply `atrous.functional.conv1d` with learned weight and bias: `torch.nn.Conv1d` with more paddings.

    Parameters, initialisation, `state_dict` and `isinstance` are those of `torch.nn.Conv1d`.

    Args:
        in_channels: C.
        out_channels: D.
        kernel_size: taps.
        stride: pixels of the input between outputs.
        padding: an integer, 'valid', 'same' (with any stride), 'causal' or `((before, after),)`.
        dilation: pixels of the input between taps.
        groups: channel groups.
        bias: whether to learn a bias.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        (B, C, L) to (B, D, P), or (C, L) to (D, P).

    Raises:
        GeometryError: a stride, padding or dilation that cannot be.
        ShapeError: in the call, an input that does not fit.

    Source: the contract of `torch.nn.Conv1d`.

    Example:
        >>> Conv1d(2, 4, 3, padding="causal", dilation=8)(torch.zeros(1, 2, 100)).shape
        torch.Size([1, 4, 100])
    """

    ndim = 1
    convolve = staticmethod(functional.conv1d)


class Conv2d(_Conv, torch.nn.Conv2d):
    """Apply `atrous.functional.conv2d` with learned weight and bias: `torch.nn.Conv2d` with more paddings.

    Arguments as in `Conv1d`, each one value or one per axis; padding also `((top, bottom), (left, right))`.

    Shape:
        (B, C, H, W) to (B, D, P_h, P_w), or the same without B.

    Raises:
        GeometryError: a stride, padding or dilation that cannot be.
        ShapeError: in the call, an input that does not fit.

    Source: the contract of `torch.nn.Conv2d`.

    Example:
        >>> Conv2d(3, 8, 3, stride=2, padding="same", dilation=4)(torch.zeros(1, 3, 33, 64)).shape
        torch.Size([1, 8, 17, 32])
    """

    ndim = 2
    convolve = staticmethod(functional.conv2d)


class Conv3d(_Conv, torch.nn.Conv3d):
    """Apply `atrous.functional.conv3d` with learned weight and bias: `torch.nn.Conv3d` with more paddings.

    Arguments as in `Conv1d`, each one value or one per axis; `("causal", "same", "same")` is causal in time.

    Shape:
        (B, C, D, H, W) to (B, D', P_d, P_h, P_w), or the same without B.

    Raises:
        GeometryError: a stride, padding or dilation that cannot be.
        ShapeError: in the call, an input that does not fit.

    Source: the contract of `torch.nn.Conv3d`.

    Example:
        >>> Conv3d(1, 2, 3, padding=("causal", "same", "same"))(torch.zeros(1, 1, 4, 8, 8)).shape
        torch.Size([1, 2, 4, 8, 8])
    """

    ndim = 3
    convolve = staticmethod(functional.conv3d)


def check_source(name: str, layer: Any, kinds: Sequence[type[torch.nn.Module]]) -> None:
    """Raise unless a layer is of one of the classes themselves: one derived from them may have a forward of its own."""
    if parametrize.type_before_parametrizations(layer) not in kinds or "forward" in vars(layer):
        raise UnsupportedModule(f"{name}: got a {type(layer).__name__}, expected a torch.nn.{kinds[0].__name__} itself")


def check_factorable(name: str, weight: torch.Tensor) -> None:
    """Raise for a weight whose factors could not be found, or not learn."""
    if weight.is_meta or not weight.isfinite().all() or not weight.any():
        raise UnsupportedModule(
            f"{name}: got a weight without values, with some that are not finite, or of zeros alone, whose factors are "
            "zeros too and never learn; expected finite numbers that are not all 0"
        )


def draw_factors(factors: Sequence[torch.Tensor], bias: torch.Tensor | None, fan_in: int, rank: int) -> None:
    """Fill factors such that a weight of `rank` products of them varies as torch's does at the start, and its bias."""
    # torch's variance is 1 / (3 fan_in). A number in +-b has b^2 / 3, and r products of f such have r (b^2 / 3)^f.
    bound = math.sqrt(3) * (3 * fan_in * rank) ** (-0.5 / len(factors))
    for factor in factors:
        torch.nn.init.uniform_(factor, -bound, bound)
    if bias is not None:
        torch.nn.init.uniform_(bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))


def spelled(layer: Any, first: str) -> str:
    """Return the arguments of a layer with the geometry of a convolution: `first`, and what is not at its default."""
    once, none = (1,) * len(layer.kernel_size), (0,) * len(layer.kernel_size)
    defaults = {"stride": once, "padding": none, "dilation": once, "groups": 1, "padding_mode": "zeros"}
    parts = [f"{name}={getattr(layer, name)!r}" for name, value in defaults.items() if getattr(layer, name) != value]
    return ", ".join([first, *parts, *([] if layer.bias is not None else ["bias=False"])])


TORCH: dict[int, Any] = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
OURS: dict[int, Any] = {1: Conv1d, 2: Conv2d, 3: Conv3d}
"""Number of axes -> convolution."""


def convolution(
    weight: torch.Tensor, bias: torch.Tensor | None, window: Geometry, groups: int = 1, padding_mode: str = "zeros"
) -> Any:
    """Return a convolution with a copy of these parameters: torch's own, or ours if an axis has two different sides."""
    padding = tuple(before for before, _ in window.padding) if window.symmetric else window.padding
    outputs, per_group, *size = weight.shape
    made: Any = (TORCH if window.symmetric else OURS)[window.ndim](
        per_group * groups, outputs, tuple(size), window.stride, padding, window.dilation, groups, bias is not None,
        padding_mode, "meta", weight.dtype,
    )  # fmt: skip
    made.weight = torch.nn.Parameter(weight.detach().clone())
    if bias is not None:
        made.bias = torch.nn.Parameter(bias.detach().clone())
    return made
