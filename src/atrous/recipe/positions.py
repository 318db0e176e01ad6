"""Positions and widths of learned spacings in a training loop: kept inside, drawn, annealed, rounded.

Legend: D channels out, C channels in, P learned elements, M axes with learned positions, K extents of the window.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import torch
from torch.utils.hooks import RemovableHandle

from atrous._errors import GeometryError, UnsupportedModule
from atrous.nn.dcls import _Dcls


def clamp_positions(model: torch.nn.Module) -> None:
    """Move every position outside of its window to the limit, -(K // 2) or K - 1 - K // 2 pixels.

    The output stays as it is: a position outside counts as one at the limit. It is for what averages or counts
    positions, and for `repulsive_loss`.

    Args:
        model: any module, changed in place.

    Example:
        >>> from atrous.nn import Dcls1d
        >>> layer = Dcls1d(1, 1, 2, dilated_kernel_size=5)
        >>> layer.P.data = torch.tensor([[[[-7.0, 1.5]]]])
        >>> clamp_positions(layer)
        >>> layer.P.tolist()
        [[[[-2.0, 1.5]]]]
    """
    for layer in _layers(model):
        layer.clamp_parameters()


def clamp_after_steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> RemovableHandle:
    """Run `clamp_positions` after every step of an optimizer, so before an average of the weights is taken.

    Args:
        model: whose positions.
        optimizer: of the model.

    Returns:
        A handle, whose `remove()` ends it.

    Example:
        >>> from atrous.nn import Dcls1d
        >>> layer = Dcls1d(1, 1, 1, dilated_kernel_size=5)
        >>> optimizer = torch.optim.SGD([layer.P], lr=1.0)
        >>> handle = clamp_after_steps(layer, optimizer)
        >>> layer.P.grad = torch.full_like(layer.P, 9.0)
        >>> optimizer.step()
        >>> layer.P.item()
        -2.0
    """

    def clamp(stepped: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        clamp_positions(model)

    return optimizer.register_step_post_hook(clamp)


def reset_positions(model: torch.nn.Module, distribution: str = "normal") -> None:
    """Draw all positions anew, those that layers share once.

    Where a window is narrow, clamping puts elements on the same spot of its edge. Elsewhere no two of them start
    there, as they must not under `repulsive_loss`, which cannot part what coincides.

    Args:
        model: any module, changed in place.
        distribution: 'normal', of mean 0 and deviation 0.5 pixels, clamped to the window; or 'uniform' over it.

    Raises:
        GeometryError: another distribution.

    Source: Khalfaoui-Hassani, Pellegrini and Masquelier, Dilated convolution with learnable spacings, ICLR 2023.

    Example:
        >>> from atrous.nn import Dcls1d
        >>> layer = Dcls1d(1, 1, 1000, dilated_kernel_size=9)
        >>> reset_positions(layer, "uniform")
        >>> layer.P.min() < -3.5, layer.P.max() > 3.5
        (tensor(True), tensor(True))
    """
    if distribution not in ("normal", "uniform"):
        raise GeometryError(f"reset_positions: distribution: got {distribution!r}, expected 'normal' or 'uniform'")
    with torch.no_grad():
        for layer in {layer.P: layer for layer in _layers(model)}.values():
            for position, limits in zip(layer.P, layer._limits(), strict=True):
                position.uniform_(*limits) if distribution == "uniform" else position.normal_(0, 0.5)
            layer.clamp_parameters()


def anneal_scales(model: torch.nn.Module, progress: float, *, first: float | None = None, last: float = 0.23) -> None:
    """Set the scales `SIG` of all layers with widths to a point of a schedule that narrows them.

        SIG = first (last / first)^progress

    Wide elements feel the whole window at first, and end as narrow as one pixel. Call it before every epoch; the
    schedule of the spiking networks reaches the end after a quarter of the epochs: progress = min(1, 4 epoch / epochs).
    Scales then no longer learn: `requires_grad` is False, since an optimizer would undo the schedule. So call it once,
    with progress 0, before the optimizer is made.

    Args:
        model: any module with layers of interpolation 'triangle' or 'gaussian', changed in place.
        progress: 0 at the start, 1 at the end.
        first: scale at the start, in pixels; None is K // 2 of each axis, but no less than `last`.
        last: scale at the end, in pixels.

    Raises:
        GeometryError: a progress outside of 0 ... 1, or a scale not above 0.
        UnsupportedModule: a model without such a layer.

    Source: Hammouamri, Khalfaoui-Hassani and Masquelier, Learning delays in spiking neural networks using dilated
    convolutions with learnable spacings, ICLR 2024.

    Example:
        >>> from atrous.nn import Dcls1d
        >>> layer = Dcls1d(1, 1, 1, dilated_kernel_size=25, interpolation="gaussian")
        >>> for progress in (0, 0.5, 1):
        ...     anneal_scales(layer, progress)
        ...     print(round(layer.SIG.item(), 3))
        12.0
        1.661
        0.23
    """
    if not 0 <= progress <= 1:
        raise GeometryError(f"anneal_scales: progress: got {progress}, expected 0 to 1")
    for name, scale in (("first", first), ("last", last)):
        if scale is not None and not scale > 0:
            raise GeometryError(f"anneal_scales: {name}: got {scale}, expected above 0 pixels")
    scaled = [(layer, layer.SIG) for layer in _layers(model) if layer.SIG is not None]
    if not scaled:
        raise UnsupportedModule(
            f"anneal_scales: got {type(model).__name__} without a layer that has widths, expected at least one; "
            "build it with interpolation='gaussian' or 'triangle'"
        )
    for layer, scales in scaled:
        scales.requires_grad_(False)
        scales.grad = None  # or an optimizer that has it already would still step
        for axis, size in zip(scales, layer.dilated_kernel_size, strict=True):
            start = max(size // 2, last) if first is None else first
            axis.fill_(start * (last / start) ** progress)


class RoundedPositions:
    """Hold what `round_positions` has changed, until `restore`; as a context manager it restores at the end.

    Example:
        >>> from atrous.nn import Dcls1d
        >>> layer = Dcls1d(1, 1, 1, dilated_kernel_size=5)
        >>> _ = torch.nn.init.constant_(layer.P, 0.75)
        >>> rounded = round_positions(layer)
        >>> layer.P.item()
        1.0
        >>> rounded.restore()
        >>> layer.P.item()
        0.75
    """

    def __init__(self, layers: list[_Dcls]) -> None:
        self._positions = {layer.P: layer.P.detach().clone() for layer in layers}
        self._scaled = [(layer, layer.interpolation, layer.SIG) for layer in layers if layer.SIG is not None]

    def restore(self) -> None:
        """Put positions, scales and interpolations back, bit for bit; a second call changes nothing."""
        with torch.no_grad():
            for position, before in self._positions.items():
                position.copy_(before)
        for layer, interpolation, scales in self._scaled:
            scales.data = scales.data.to(layer.P)  # the model may have moved meanwhile
            layer.interpolation, layer.SIG = interpolation, scales
        self._positions, self._scaled = {}, []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()


def round_positions(model: torch.nn.Module) -> RoundedPositions:
    """Round every position to a pixel of its window, so that each element is one pixel: delays become integers.

    Layers with widths compute as 'bilinear', and their `SIG` is None: a state_dict taken meanwhile has none.

    Args:
        model: any module, changed in place.

    Returns:
        What puts all back: call its `restore()`, or use it in a `with` statement.

    Source: Hammouamri, Khalfaoui-Hassani and Masquelier, Learning delays in spiking neural networks using dilated
    convolutions with learnable spacings, ICLR 2024.

    Example:
        >>> from atrous.nn import Dcls1d
        >>> layer = Dcls1d(1, 1, 1, dilated_kernel_size=5, interpolation="gaussian")
        >>> _ = torch.nn.init.ones_(layer.weight), torch.nn.init.constant_(layer.P, 0.75)
        >>> with round_positions(layer):
        ...     layer.kernel().flatten().tolist()
        [0.0, 0.0, 0.0, 1.0, 0.0]
        >>> layer.interpolation, layer.P.item()
        ('gaussian', 0.75)
    """
    layers = _layers(model)
    rounded = RoundedPositions(layers)
    for layer in layers:
        with torch.no_grad():
            layer.P.round_()
        layer.clamp_parameters()
        if layer.SIG is not None:
            layer.interpolation, layer.SIG = "bilinear", None
    return rounded


def _layers(model: torch.nn.Module) -> list[_Dcls]:
    return [module for module in model.modules() if isinstance(module, _Dcls)]
