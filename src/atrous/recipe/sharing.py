"""One set of positions for several layers of learned spacings: the blocks of a stage, say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any

import torch

from atrous._errors import GeometryError
from atrous.nn.dcls import _Dcls

_NAMES = ("P", "SIG")


class _Load:
    """Know, while a state is loaded, which layer of those that share has had its entry in it."""

    errors: list[str] | None = None
    """The list of messages of the load that is under way, which no other load has."""
    first: dict[torch.Tensor, tuple[_Dcls, str]]
    """By each parameter before the load: the layer that has loaded it, and the name of its entry."""

    def __init__(self, layers: int) -> None:
        self.layers = self.left = layers

    def __getstate__(self) -> dict[str, Any]:
        return {"layers": self.layers, "left": self.layers}  # a copy of one layer does not bring the others along


def share_positions(model: torch.nn.Module, by: str | Callable[[str], Any] = "stage") -> tuple[tuple[str, ...], ...]:
    """Give layers of learned spacings one `P`, and one `SIG`, in common: those of the first of them.

    Weights stay apart. The gradient is the sum over the layers, an optimizer has the parameter once, and so has the
    state_dict, under the name of the first layer. A state_dict with a copy for every layer loads if the copies are
    equal. Copies, files and moves of the model keep what is shared; but a move to or from the device meta parts all
    shared parameters, which is torch's way. Share before an optimizer is made.

    Args:
        model: any module, changed in place; without such layers nothing happens.
        by: 'stage', runs of consecutive layers of one class, interpolation, shape of `P` and window; or what returns a
            key for the name of a layer: layers of equal keys share, and those of key None stay as they are.

    Returns:
        The names of the layers that share, one tuple for each parameter that they share.

    Raises:
        GeometryError: another word for `by`, or layers of one key that differ in one of the above.
        RuntimeError: later, from load_state_dict, if copies for layers that share differ.

    Source: Khalfaoui-Hassani, Pellegrini and Masquelier, Dilated convolution with learnable spacings, ICLR 2023,
    section 3: synchronised positions.

    Example:
        >>> from atrous.nn import Dcls2d
        >>> widths = 4, 4, 8, 8, 8
        >>> model = torch.nn.Sequential(*(Dcls2d(n, n, 3, dilated_kernel_size=7, groups=n) for n in widths))
        >>> share_positions(model)
        (('0', '1'), ('2', '3', '4'))
        >>> model[3].P is model[2].P, [name for name in model.state_dict() if name.endswith("P")]
        (True, ['0.P', '2.P'])
    """
    named = [(name, module) for name, module in model.named_modules() if isinstance(module, _Dcls)]
    groups: dict[Any, list[tuple[str, _Dcls]]] = {}
    if callable(by):
        for name, layer in named:
            if (key := by(name)) is not None:
                groups.setdefault(key, []).append((name, layer))
    elif by == "stage":
        groups = dict(enumerate(list(run) for _, run in groupby(named, lambda one: _kind(one[1]))))
    else:
        raise GeometryError(f"share_positions: by: got {by!r}, expected 'stage' or a function of a layer's name")
    shared = [group for group in groups.values() if len(group) > 1]
    for group in shared:
        _check(group)
    for group in shared:
        _share([layer for _, layer in group])
    return tuple(tuple(name for name, _ in group) for group in shared)


def _kind(layer: _Dcls) -> tuple[Any, ...]:
    """Return what layers that share have in common."""
    positions = layer.P
    sizes = tuple(positions.shape), layer.dilated_kernel_size
    return type(layer).__name__, layer.interpolation, *sizes, positions.dtype, str(positions.device)


def _check(group: list[tuple[str, _Dcls]]) -> None:
    words = "{} {}, P {}, window {}, {} on {}"
    (first, layer), *others = group
    expected = _kind(layer)
    for name, other in others:
        if (got := _kind(other)) != expected:
            raise GeometryError(
                f"share_positions: {name}: got {words.format(*got)}, expected {words.format(*expected)} as {first}, "
                "which has the same key; give them different keys"
            )


def _share(layers: list[_Dcls]) -> None:
    load = _Load(len(layers))
    for layer in layers:
        for name in _NAMES:
            setattr(layer, name, getattr(layers[0], name))
        layer.register_state_dict_post_hook(_save_once)  # type: ignore[no-untyped-call]
        layer.register_load_state_dict_pre_hook(partial(_load_once, load))  # type: ignore[no-untyped-call]


def _save_once(layer: torch.nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Drop the entries that the state has already, of another layer."""
    for name in _NAMES:
        own = state.get(prefix + name)
        others = (value for key, value in state.items() if key.endswith(f".{name}") and key != prefix + name)
        if own is not None and any(_memory(other) == _memory(own) for other in others):
            del state[prefix + name]


def _memory(tensor: torch.Tensor) -> tuple[Any, ...]:
    # The name of the memory, not its address: tensors of the device meta have none. Parameters that are parts of one
    # long vector have one memory and different places in it.
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride()


def _load_once(
    load: _Load,
    layer: _Dcls,
    state: dict[str, Any],
    prefix: str,
    metadata: Any,
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    """Put in what the first layer of those that share has loaded."""
    if load.errors is not errors:
        load.errors, load.first, load.left = errors, {}, load.layers
    for name in _NAMES:
        parameter, key = getattr(layer, name), prefix + name
        if parameter in load.first:
            first, entry = load.first[parameter]
            loaded = getattr(first, name)
            if key in state and not _equal(state[key], loaded):
                errors.append(
                    f"{key}: got another value than {entry}, expected an equal copy: share_positions has made them one "
                    "parameter; load before you share, or give each layer its own"
                )
            # The very parameter, so that `assign=True` keeps it shared.
            state[key] = loaded
        elif parameter is not None and key in state:
            load.first[parameter] = layer, key
    load.left -= 1
    if not load.left:
        load.errors, load.first = None, {}  # or the parameters before the load would live on


def _equal(given: torch.Tensor, loaded: torch.Tensor) -> bool:
    if given.is_meta or loaded.is_meta:
        return given.shape == loaded.shape
    return torch.equal(given.to(loaded), loaded)
