"""Convolution modules that learn where the elements of their kernels lie.

Legend: B batch, C channels in, D channels out, P learned elements, M axes with learned positions, N axes in all,
k extents of the other axes (a dense window), K extents of the learned ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch

from atrous import functional
from atrous._errors import GeometryError
from atrous._geometry import Ints, Padding, integers, plain
from atrous._watch import PLAIN, recorded, transformed
from atrous.functional._check import check_padding_mode
from atrous.functional.dcls import Plan, build, convolve, window
from atrous.functional.interpolation import INTERPOLATIONS, LEAST_WIDTHS
from atrous.nn.conv import convolution

_VERSIONS = {"v0": "bilinear", "v1": "bilinear", "max": "triangle", "gauss": "gaussian"}
_FIRST_SCALES = {"triangle": 0.0, "gaussian": 0.23}


class _Kept(NamedTuple):
    """What evaluation built last."""

    made_of: Any
    built: tuple[torch.Tensor, torch.Tensor | None]
    held: Any


class _Dcls(torch.nn.Module):
    ndim: int
    learned: int
    dense_kernel_size: tuple[int, ...] = ()
    weight: torch.Tensor
    P: torch.Tensor
    SIG: torch.Tensor | None
    bias: torch.Tensor | None
    _kept: _Kept | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_count: int,
        stride: Ints = 1,
        padding: Padding = 0,
        dilated_kernel_size: Ints | None = None,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        version: str | None = None,
        *,
        interpolation: str | None = None,
        dilation: Ints = 1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        _check_channels(name, in_channels, out_channels, kernel_count, groups)
        check_padding_mode(name, padding_mode)
        if dilated_kernel_size is None:
            raise GeometryError(f"{name}: dilated_kernel_size: got None; it is required, in pixels")
        self.in_channels, self.out_channels, self.kernel_count = in_channels, out_channels, kernel_count
        self.dilated_kernel_size = integers("dilated_kernel_size", dilated_kernel_size, self.learned, 1)
        self.stride = integers("stride", stride, self.ndim, 1)
        self.padding = plain("padding", padding)
        self.dilation = integers("dilation", dilation, self.ndim, 1)
        self.groups, self.padding_mode = groups, padding_mode
        self.interpolation = _interpolation(name, version, interpolation)
        window(self._kernel_size(), self.stride, self.padding, self.dilation, self.ndim)
        self._make_parameters(bias, device, dtype)
        self.reset_parameters()

    def _kernel_size(self) -> tuple[int, ...]:
        return (*self.dense_kernel_size, *self.dilated_kernel_size)

    def _make_parameters(self, bias: bool, device: Any, dtype: torch.dtype | None) -> None:
        shape = self.out_channels, self.in_channels // self.groups, *self.dense_kernel_size, self.kernel_count
        dtype = torch.get_default_dtype() if dtype is None else dtype
        fine = torch.promote_types(dtype, torch.float32)
        scales = (self.learned, *shape) if self.interpolation in LEAST_WIDTHS else None
        shapes = ("weight", shape, dtype), ("P", (self.learned, *shape), fine), ("SIG", scales, fine)
        for name, sizes, kind in (*shapes, ("bias", (self.out_channels,) if bias else None, dtype)):
            made = None if sizes is None else torch.nn.Parameter(torch.empty(sizes, device=device, dtype=kind))
            self.register_parameter(name, made)

    def reset_parameters(self) -> None:
        """Draw weight and bias as `torch.nn.Conv2d` would for as many taps, positions at random, and reset scales."""
        bound = 1 / math.sqrt(math.prod(self.weight.shape[1:]))
        torch.nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            torch.nn.init.uniform_(self.bias, -bound, bound)
        if self.SIG is not None:
            torch.nn.init.constant_(self.SIG, _FIRST_SCALES[self.interpolation])
        with torch.no_grad():
            for position, limits in zip(self.P, self._limits(), strict=True):
                position.uniform_(*limits) if self.dense_kernel_size else position.normal_(0, 0.5)
        self.clamp_parameters()

    def clamp_parameters(self) -> None:
        """Move positions outside of the window to its edge: -(K // 2) and K - 1 - K // 2; after an optimizer's step.

        Not needed for a result: such a position counts as one at the edge. It is for what averages or counts positions.
        """
        with torch.no_grad():
            for position, (low, high) in zip(self.P, self._limits(), strict=True):
                position.clamp_(low, high)

    def _limits(self) -> list[tuple[int, int]]:
        return [(-(size // 2), size - 1 - size // 2) for size in self.dilated_kernel_size]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution of `input`."""
        tensors = input, self.weight, self.P, self.SIG, self.bias
        sizes = self.dilated_kernel_size, self.interpolation, self.stride, self.padding, self.dilation
        return convolve(self.ndim, *tensors, *sizes, self.groups, self.padding_mode, None, self._build)

    def kernel(self) -> torch.Tensor:
        """Return the dense kernel, (D, C/groups, *k, *K), float32 at least, differentiable in the parameters."""
        options: Any = {"dilated_kernel_size": self.dilated_kernel_size, "interpolation": self.interpolation}
        return functional.dcls_kernel(self.weight, self.P, self.SIG, **options)

    def merge(self) -> torch.nn.Module:
        """Return a `torch.nn.Conv1d`, `Conv2d` or `Conv3d` with the dense kernel as it is now: for export, without us.

        Where the two sides of an axis are padded differently ('causal', or 'same' with an even K), it is the module of
        `atrous.nn` of that name, which is a torch.nn one too. Its output is that of this layer, but for rounding.
        """
        geometry = window(self._kernel_size(), self.stride, self.padding, self.dilation, self.ndim)
        with torch.no_grad():
            kernel = self.kernel().to(self.weight.dtype)
        merged: torch.nn.Module = convolution(kernel, self.bias, geometry, self.groups, self.padding_mode)
        return merged.train(self.training)

    def extra_repr(self) -> str:
        """Return the arguments that are not at their defaults, and those without any."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_count={self.kernel_count}"]
        if self.dense_kernel_size:
            parts.append(f"dense_kernel_size={self.dense_kernel_size}")
        parts.append(f"dilated_kernel_size={self.dilated_kernel_size}, interpolation={self.interpolation!r}")
        once = (1,) * self.ndim
        defaults = {"stride": once, "padding": 0, "dilation": once, "groups": 1, "padding_mode": "zeros"}
        parts += [f"{name}={getattr(self, name)!r}" for name, value in defaults.items() if getattr(self, name) != value]
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join(parts)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation, and forget what evaluation has kept."""
        self._kept = None
        return super().train(mode)

    def _build(
        self, weight: torch.Tensor, positions: torch.Tensor, scales: torch.Tensor | None, plan: Plan
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Build taps or kernel, or return those of the last call in evaluation, blind to changes by `.data`."""
        sources = [tensor for tensor in (weight, positions, scales) if tensor is not None]
        if self.training or not _may_keep(*sources):
            if not torch.compiler.is_compiling():
                self._kept = None  # fused optimizers change parameters without a trace
            return build(weight, positions, scales, plan)
        made_of = plan, [(id(tensor), tensor.data_ptr(), tensor._version) for tensor in sources]
        kept = self._kept
        if kept is None or kept.made_of != made_of:
            # What inference mode makes could not be saved for the gradient of some later input.
            with torch.inference_mode(False), torch.no_grad():
                # The sources are held, with their memory, so that nothing else has their names.
                held = [(tensor, tensor.detach()) for tensor in sources]
                kept = self._kept = _Kept(made_of, build(weight, positions, scales, plan), held)
        return kept.built

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        self._kept = None
        fine = [tensor for one in (self.P, self.SIG) if one is not None for tensor in (one, one.grad)]

        def keep_fine(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            if not any(tensor is one for one in fine):
                return moved
            # 16 bits would round positions, and no layout of images suits them.
            fitting = torch.promote_types(moved.dtype, torch.float32)
            return (moved if moved.dtype == fitting else tensor.to(moved.device, fitting)).contiguous()

        super()._apply(keep_fine, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}


class _DenseDcls(_Dcls):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_count: int,
        stride: Ints = 1,
        padding: Padding = 0,
        dense_kernel_size: Ints = 1,
        *arguments: Any,
        **options: Any,
    ) -> None:
        # The others as in the layers without a dense window, in their order.
        self.dense_kernel_size = integers("dense_kernel_size", dense_kernel_size, self.ndim - self.learned, 1)
        super().__init__(in_channels, out_channels, kernel_count, stride, padding, *arguments, **options)


class Dcls1d(_Dcls):
    """Apply `atrous.functional.dcls_conv1d` with learned weights and positions.

    The kernel has P elements, of weights `weight` (D, C/groups, P), at the positions `P` (1, D, C/groups, P), in steps
    of `dilation` pixels from the pixel K // 2 of the window. 'triangle' and 'gaussian' learn widths too, `SIG`, of the
    shape of `P`. In evaluation, while autograd records nothing of the parameters, what is built of them is kept for
    the next call; `train()`, `eval()` and a changed parameter drop it.

    Args:
        in_channels: C.
        out_channels: D.
        kernel_count: P, elements for each pair of channels.
        stride: pixels of the input between outputs.
        padding: as in `atrous.functional.dcls_conv1d`: an integer, 'valid', 'same', 'causal' or `((before, after),)`.
        dilated_kernel_size: K, pixels of the window of the positions; required.
        groups: channel groups.
        bias: whether to learn a bias.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        version: the name of an interpolation in the `dcls` package: 'v0', 'v1' (bilinear), 'max' (triangle), 'gauss'.
        interpolation: 'bilinear', if neither is given, 'triangle', 'gaussian' or 'bicubic'.
        dilation: pixels of the input between pixels of the window.
        device: of the parameters.
        dtype: of weight and bias; `P` and `SIG` have float32 at least, and keep it in `.to(torch.bfloat16)`.

    Shape:
        (B, C, L) to (B, D, P_out), or (C, L) to (D, P_out), as a convolution with K taps.

    Raises:
        GeometryError: an argument that cannot be, or no dilated_kernel_size.
        ShapeError: in the call, an input that does not fit.

    Source: Khalfaoui-Hassani, Pellegrini and Masquelier, Dilated convolution with learnable spacings, ICLR 2023.

    Example:
        >>> layer = Dcls1d(2, 4, kernel_count=3, padding="causal", dilated_kernel_size=25)
        >>> layer(torch.zeros(1, 2, 100)).shape
        torch.Size([1, 4, 100])
    """

    ndim = 1
    learned = 1


class Dcls2d(_Dcls):
    """Apply `atrous.functional.dcls_conv2d` with learned weights and positions.

    The rest is as in `Dcls1d`, sizes one value or one per axis; `P` is (2, D, C/groups, P), in the order H, W.

    Shape:
        (B, C, H, W) to (B, D, P_h, P_w), or the same without B.

    Example:
        >>> layer = Dcls2d(96, 96, 34, padding="same", dilated_kernel_size=17, groups=96)
        >>> layer(torch.zeros(1, 96, 14, 14)).shape, layer.weight.shape, layer.P.shape
        (torch.Size([1, 96, 14, 14]), torch.Size([96, 1, 34]), torch.Size([2, 96, 1, 34]))
    """

    ndim = 2
    learned = 2


class Dcls3d(_Dcls):
    """Apply `atrous.functional.dcls_conv3d` with learned weights and positions.

    The rest is as in `Dcls1d`, sizes one value or one per axis; `P` is (3, D, C/groups, P), in the order D, H, W.

    Shape:
        (B, C, D, H, W) to (B, D', P_d, P_h, P_w), or the same without B.

    Example:
        >>> layer = Dcls3d(1, 2, 4, padding="same", dilated_kernel_size=(5, 7, 7))
        >>> layer(torch.zeros(1, 1, 4, 8, 8)).shape
        torch.Size([1, 2, 4, 8, 8])
    """

    ndim = 3
    learned = 3


class Dcls2_1d(_DenseDcls):  # noqa: N801
    """Apply `atrous.functional.dcls_conv2d` with positions along W and a dense window along H.

    The rest is as in `Dcls1d`, with `dense_kernel_size`, by default 1, before `dilated_kernel_size`. Every row of the
    window has elements of its own: `weight` is (D, C/groups, k, P) and `P` (1, D, C/groups, k, P).

    Shape:
        (B, C, H, W) to (B, D, P_h, P_w), or the same without B.

    Example:
        >>> layer = Dcls2_1d(2, 4, 3, padding="same", dense_kernel_size=3, dilated_kernel_size=9)
        >>> layer(torch.zeros(1, 2, 8, 20)).shape, layer.weight.shape
        (torch.Size([1, 4, 8, 20]), torch.Size([4, 2, 3, 3]))
    """

    ndim = 2
    learned = 1


class Dcls3_1d(_DenseDcls):  # noqa: N801
    """Apply `atrous.functional.dcls_conv3d` with positions along W and a dense window along D and H.

    The rest is as in `Dcls2_1d`; `weight` is (D, C/groups, k_d, k_h, P) and `P`
    (1, D, C/groups, k_d, k_h, P).

    Shape:
        (B, C, D, H, W) to (B, D', P_d, P_h, P_w), or the same without B.

    Example:
        >>> layer = Dcls3_1d(1, 2, 2, padding="same", dense_kernel_size=(3, 5), dilated_kernel_size=9)
        >>> layer(torch.zeros(1, 1, 8, 8, 20)).shape, layer.P.shape
        (torch.Size([1, 2, 8, 8, 20]), torch.Size([1, 2, 1, 3, 5, 2]))
    """

    ndim = 3
    learned = 1


class Dcls3_2d(_DenseDcls):  # noqa: N801
    """Apply `atrous.functional.dcls_conv3d` with positions along H and W and a dense window along D.

    The rest is as in `Dcls2_1d`; `weight` is (D, C/groups, k, P) and `P` (2, D, C/groups, k, P), in the order H, W.

    Shape:
        (B, C, D, H, W) to (B, D', P_d, P_h, P_w), or the same without B.

    Example:
        >>> layer = Dcls3_2d(1, 2, 4, padding="same", dense_kernel_size=3, dilated_kernel_size=(7, 9))
        >>> layer(torch.zeros(1, 1, 4, 8, 8)).shape, layer.P.shape
        (torch.Size([1, 2, 4, 8, 8]), torch.Size([2, 2, 1, 3, 4]))
    """

    ndim = 3
    learned = 2


def _check_channels(name: str, inputs: int, outputs: int, count: int, groups: int) -> None:
    for what, value in (
        ("in_channels", inputs),
        ("out_channels", outputs),
        ("kernel_count", count),
        ("groups", groups),
    ):
        integers(f"{name}: {what}", value, 1, 1)
    if inputs % groups or outputs % groups:
        raise GeometryError(
            f"{name}: groups: got {groups} for {inputs} channels in and {outputs} out, expected a divisor of both"
        )


def _interpolation(name: str, version: str | None, interpolation: str | None) -> str:
    """Return the interpolation that is meant, by our name or by that of a version of the `dcls` package."""
    if version is not None and version not in tuple(_VERSIONS):
        raise GeometryError(f"{name}: version: got {version!r}, expected None or one of {tuple(_VERSIONS)}")
    if interpolation is not None and interpolation not in INTERPOLATIONS:
        raise GeometryError(f"{name}: interpolation: got {interpolation!r}, expected None or one of {INTERPOLATIONS}")
    meant = interpolation if version is None else _VERSIONS[version]
    if meant is None:
        return "bilinear"
    if interpolation not in (None, meant):
        raise GeometryError(
            f"{name}: got version={version!r}, which is {meant!r}, and interpolation={interpolation!r}, "
            "expected one of them or both alike"
        )
    return meant


def _may_keep(*tensors: torch.Tensor) -> bool:
    """Return whether what is built of these parameters serves later calls: nobody follows this one."""
    if torch.compiler.is_compiling() or recorded(*tensors) or transformed():
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._is_tracing():
        return False
    return all(type(tensor) in PLAIN and not tensor.is_inference() for tensor in tensors)
