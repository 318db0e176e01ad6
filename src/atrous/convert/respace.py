"""Put layers of learned spacings in the places of depthwise convolutions.

Legend: C channels in, D channels out, k kernel size, d dilation, E = d (k - 1) + 1 extent, K window of the positions,
P elements, N axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from itertools import groupby
from typing import Any, NamedTuple

import torch

from atrous import nn
from atrous._errors import GeometryError
from atrous._geometry import Geometry, Ints, integers
from atrous.convert.merge import exchange
from atrous.convert.report import Report, Row, bound, check_model, convolutions, describe, refusal, tied
from atrous.nn.dcls import _Dcls
from atrous.recipe.sharing import _kind, share_positions

_PLAIN = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_SPACED: dict[int, type[_Dcls]] = {1: nn.Dcls1d, 2: nn.Dcls2d, 3: nn.Dcls3d}

_COUNT = 34
"""Elements of the paper's ConvNeXt-T: in 17 x 17 pixels, with shared positions, the parameters of 7 x 7 weights."""


class _Swap(NamedTuple):
    """A convolution, and the layer that takes its place."""

    old: Any
    new: _Dcls


def replace_depthwise(
    model: torch.nn.Module,
    *,
    dilated_kernel_size: Ints = 17,
    kernel_count: int | None = None,
    interpolation: str = "bilinear",
    share: str | Callable[[str], Hashable] | None = "stage",
    init: str = "random",
) -> Report:
    """Turn every depthwise convolution of a model into a layer of learned spacings, in place.

    A `Conv1d`, `Conv2d` or `Conv3d` of `torch.nn` or `atrous.nn` with one channel in a group and more than one tap
    becomes a `Dcls1d`, `Dcls2d` or `Dcls3d`. Stride, bias, padding mode, dtype, device, training mode, `requires_grad`,
    hooks of calls and the name in the model stay, and every input gives an output of the same size. For that the
    padding grows with the window, and position 0 is the centre of the old kernel:

        before' = K // 2 - E // 2 + before        after' = (K - 1 - K // 2) - (E - 1 - E // 2) + after

    Where `padding_mode` is 'reflect' or 'circular', inputs have to be as large as the new padding wants them. What
    holds the old parameters does not know the new ones: make optimizers, or wrappers of parallel training, afterwards.

    'random' draws positions and weights as a new layer does, then scales the weights of each channel such that its
    dense kernel has the norm of the old one. For white input the output has the standard deviation it had; without that
    it would shrink, which a network without norms does not stand. 'keep' makes the old taps the first elements: the
    output is unchanged, and positions learn from there.

    Args:
        model: any module, or a convolution.
        dilated_kernel_size: K in pixels, one integer, or one per axis. An axis with one tap has a window of one pixel.
        kernel_count: P; None for 34, or, with 'keep', for as many as the kernel has taps. More than these start with
            weight 0 at drawn positions.
        interpolation: 'bilinear', 'triangle', 'gaussian' or 'bicubic'.
        share: what has positions in common, as in `atrous.recipe.share_positions`: 'stage', a function from the name of
            a layer to a key, or None for nothing. Frozen layers never share with others and, with 'keep', only those
            do that start from the same taps. Layers that were there already have no part in it.
        init: 'random' or 'keep'.

    Returns:
        What changed, to what, and why the rest did not: print it. Its `model` is the model; of a convolution, what
        stands in its place.

    Raises:
        UnsupportedModule: something else than a module.
        GeometryError: a window smaller than the extent of a kernel; fewer elements than taps, or 'gaussian', with
            'keep'; another argument that cannot be. The model is as it was.

    Source: Khalfaoui-Hassani, Pellegrini and Masquelier, Dilated convolution with learnable spacings, ICLR 2023.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 7, padding=3, groups=8), torch.nn.Conv2d(8, 32, 1))
        >>> image = torch.randn(1, 8, 20, 20)
        >>> before = model(image)
        >>> print(replace_depthwise(model, init="keep"))
        1 of 2 convolutions changed
        changed  0  Conv2d(8, 8, 7, padding=3, groups=8)  Dcls2d with 49 elements in 17x17 pixels
        kept     1  Conv2d(8, 32, 1)                      it is not depthwise
        >>> torch.testing.assert_close(model(image), before)
    """
    check_model("replace_depthwise", model)
    kernel_count = _check(kernel_count, interpolation, share, init)
    swaps: dict[str, _Swap] = {}
    changed, kept = [], []
    shared = tied(model)
    for name, module in convolutions(model):
        what, reason = describe(module), _refusal(module, shared)
        if reason is not None:
            kept.append(Row(name, what, reason))
            continue
        layer = _spaced(name, module, dilated_kernel_size, kernel_count, interpolation, init)
        swaps[name] = _Swap(module, layer)
        window = "x".join(map(str, layer.dilated_kernel_size))
        kind = type(layer).__name__
        changed.append(Row(name, what, f"{kind} with {layer.kernel_count} elements in {window} pixels"))
    model = exchange(model, dict(swaps.values()))
    if share is not None:
        try:
            share_positions(model, _keys(share, swaps, init).get)
        except Exception:
            exchange(model, {new: old for old, new in swaps.values()})
            raise
    if init == "random":
        for old, new in swaps.values():
            _scale(new, old)
    return Report(model, tuple(changed), tuple(kept))


def _check(kernel_count: int | None, interpolation: str, share: object, init: str) -> int | None:
    if init not in ("random", "keep"):
        raise GeometryError(f"replace_depthwise: init: got {init!r}, expected 'random' or 'keep'")
    if init == "keep" and interpolation == "gaussian":
        raise GeometryError(
            "replace_depthwise: interpolation: got 'gaussian' with init='keep', expected one whose elements can be a "
            "single pixel; use 'triangle', which starts so and learns its widths too, or 'bilinear'"
        )
    if not (share in (None, "stage") or callable(share)):
        raise GeometryError(f"replace_depthwise: share: got {share!r}, expected 'stage', a function of a name, or None")
    return None if kernel_count is None else integers("replace_depthwise: kernel_count", kernel_count, 1, 1)[0]


def _refusal(module: Any, shared: set[torch.Tensor]) -> str | None:
    """Return why a convolution stays, or None."""
    if getattr(module, "transposed", False):
        return "it is transposed"
    if reason := refusal(module, _PLAIN):
        return reason
    if not module.groups == module.in_channels > 1:
        return "it is not depthwise"
    if math.prod(module.kernel_size) == 1:
        return "it has one tap"
    return bound(module, shared)


def _spaced(
    name: str, module: Any, dilated_kernel_size: Ints, kernel_count: int | None, interpolation: str, init: str
) -> _Dcls:
    """Return the layer that takes the place of a convolution."""
    where = f"replace_depthwise: {name or 'the model'}"
    old = Geometry.resolve(
        module.kernel_size, module.stride, module.padding, module.dilation, ndim=len(module.kernel_size)
    )
    window = _window(where, old, dilated_kernel_size)
    taps = math.prod(old.kernel)
    if kernel_count is None:
        kernel_count = taps if init == "keep" else _COUNT
    layer = _SPACED[old.ndim](
        module.in_channels, module.out_channels, kernel_count, old.stride, _padding(module.padding, old, window),
        window, module.groups, False, module.padding_mode, interpolation=interpolation, device=module.weight.device,
        dtype=module.weight.dtype,
    )  # fmt: skip
    if init == "keep":
        if kernel_count < taps:
            raise GeometryError(
                f"{where}: kernel_count: got {kernel_count} for a kernel of {taps} taps, which init='keep' makes "
                f"elements; expected at least {taps}, or None for as many"
            )
        _keep(layer, module, old)
    for parameter in layer.parameters():
        parameter.requires_grad_(module.weight.requires_grad)
    layer.bias = module.bias
    return layer


def _window(where: str, old: Geometry, dilated_kernel_size: Ints) -> tuple[int, ...]:
    wanted = integers(f"{where}: dilated_kernel_size", dilated_kernel_size, old.ndim, 1)
    window = tuple(1 if taps == 1 else size for taps, size in zip(old.kernel, wanted, strict=True))
    if any(size < extent for size, extent in zip(window, old.extent, strict=True)):
        raise GeometryError(
            f"{where}: dilated_kernel_size: got {wanted} for a kernel that extends over {old.extent} pixels, expected "
            "at least that; enlarge it"
        )
    return window


def _padding(was: Any, old: Geometry, window: tuple[int, ...]) -> Any:
    """Return the padding that keeps the size of the output, and position 0 at the centre of the old kernel."""
    if was == "same" and all(extent % 2 for extent in old.extent):
        return "same"
    sides = [
        (size // 2 - extent // 2 + before, (size - 1) // 2 - (extent - 1) // 2 + after)
        for size, extent, (before, after) in zip(window, old.extent, old.padding, strict=True)
    ]
    return tuple(before if before == after else (before, after) for before, after in sides)


def _positions(old: Geometry) -> torch.Tensor:
    """Return where the taps of a convolution lie from its centre, (N, taps), in the order of its weight."""
    columns = zip(old.kernel, old.dilation, old.extent, strict=True)
    axes = [torch.arange(k) * d - extent // 2 for k, d, extent in columns]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)


def _keys(share: str | Callable[[str], Hashable], swaps: dict[str, _Swap], init: str) -> dict[str, Hashable]:
    """Return what the layers by name have to have alike to share positions; other layers have no part in it."""

    def start(name: str) -> Hashable:
        old = swaps[name].old
        # Positions in common would move the taps of one, or thaw what is frozen.
        taps = (old.kernel_size, old.dilation) if init == "keep" else None
        return old.weight.requires_grad, taps

    if callable(share):
        return {name: None if (key := share(name)) is None else (key, start(name)) for name in swaps}
    runs = groupby(swaps, lambda name: (_kind(swaps[name].new), start(name)))
    return {name: number for number, (_, run) in enumerate(runs) for name in run}


def _keep(layer: _Dcls, module: Any, old: Geometry) -> None:
    """Make the first elements of a layer the taps of a convolution, the others nothing."""
    taps = math.prod(old.kernel)
    with torch.no_grad():
        layer.weight[..., :taps] = module.weight.flatten(2)
        layer.weight[..., taps:] = 0
        layer.P[..., :taps] = _positions(old)[:, None, None]


def _scale(layer: _Dcls, module: Any) -> None:
    """Give the dense kernel of every channel the norm of the one that it replaces."""
    with torch.no_grad():
        norms = [kernel.flatten(1).norm(dim=1) for kernel in (module.weight.to(layer.P.dtype), layer.kernel())]
        layer.weight.mul_((norms[0] / norms[1])[:, None, None])
