"""Load what the `dcls` package has saved, whose positions come in another order of axes and from other centres.

Legend: M axes with learned positions, K extents of the window, in the order (D,)H,W.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from atrous._errors import CheckpointError, UnsupportedModule
from atrous._table import aligned
from atrous.functional.interpolation import LEAST_WIDTHS
from atrous.nn.dcls import _VERSIONS, _Dcls

_ORDERS = {1: (0,), 2: (1, 0), 3: (2, 1, 0)}
"""By M: the index in the package of every axis of ours."""

_ORDERS_V0 = {1: (0,), 2: (0, 1), 3: (0, 2, 1)}

_LEAST_WIDTH_2_1D = 1.0
"""Width in pixels of the package's gaussian `Dcls2_1d` at scale 0; all its other gaussian layers have ours."""

_CACHED = ("DCK.IDX", "DCK.lim")
"""What the package's `Dcls2_1d` saves besides its parameters: pixels and extents."""


@dataclass(frozen=True)
class LoadedDcls:
    """Say what `load_dcls` has loaded, layer by layer; prints as a table.

    Args:
        version: of the file.
        elements: how many kernel elements each layer has, by its name in the target, '' for the target itself.
        outside: how many of them lie outside of the window.

    Example:
        >>> print(LoadedDcls("v0", {"stem": 340, "head": 68}, {"stem": 2, "head": 0}))
        layer  version  elements  outside
        stem   v0            340        2
        head   v0             68        0
    """

    version: str
    elements: Mapping[str, int]
    outside: Mapping[str, int]

    def __str__(self) -> str:
        head = ("layer", "version", "elements", "outside")
        rows = [(name or "(the layer)", self.version, n, self.outside[name]) for name, n in self.elements.items()]
        return aligned([head, *rows])

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain objects, for JSON."""
        return asdict(self)


def load_dcls(target: torch.nn.Module, state_dict: Mapping[str, Any], *, version: str) -> LoadedDcls:
    """Load weights of the `dcls` package into a layer of learned spacings, or into a model that holds some.

    The layer then computes what the package's layer did, whatever the shape of its window. The package keeps P and SIG
    in an order that depends on the version, W first in most, and counts a position from the centre of another axis:

        p[a] = P[o] + K[o] // 2 - K[a] // 2     o = axis a in the order of the version

    Its gaussian `Dcls2_1d` is wider, so SIG becomes |SIG| + 0.73. All other entries load as they are. Nothing is loaded
    unless everything fits.

    An element outside of the window is loaded as it is, and counted: here it counts as one at the edge, while the
    package drops what of it lies outside (v0, v1, max). Layers of the target that share a parameter need equal copies
    of it in the file; files of ConvNeXt hold one for every block of a stage.

    Args:
        target: `Dcls1d`, `Dcls2d`, `Dcls3d`, `Dcls2_1d`, `Dcls3_1d`, or a module that holds some, by the names of the
            file.
        state_dict: tensors by name, or a dict that has them as its entry 'model'.
        version: what the file was trained with, which it does not say itself: 'v0', 'v1', 'max' or 'gauss'.

    Returns:
        The elements of each layer, and how many lie outside of the window: print it.

    Raises:
        UnsupportedModule: a target without such a layer, or with a `Dcls3_2d`, which the package does not have.
        CheckpointError: an unknown version, one that a layer does not interpolate as, entries that are missing, not
            expected or of another shape, or different copies of one parameter.

    Source: the kernels of `dcls` 0.1.1, and of its `Dcls2_1d`, which is in no release.

    Example:
        >>> from atrous.nn import Dcls2d
        >>> layer = Dcls2d(1, 1, 1, dilated_kernel_size=(3, 5), bias=False, version="v1")
        >>> state = {"weight": torch.ones(1, 1, 1), "P": torch.tensor([3.0, -1.0]).view(2, 1, 1, 1)}  # W, H
        >>> print(load_dcls(layer, state, version="v1"))
        layer        version  elements  outside
        (the layer)  v1              1        0
        >>> layer.P.flatten().tolist()
        [0.0, 2.0]
    """
    layers = _layers(target, version)
    state = _state(state_dict, layers)
    own = target.state_dict(keep_vars=True)
    # The package saves copies of what layers share; a target of `share_positions` names it once.
    own.update((_prefix(name) + key, value) for name, layer in layers.items() for key, value in _places(layer))
    tensors = {name: tensor for name, tensor in own.items() if isinstance(tensor, torch.Tensor)}
    _check_names(own.keys(), state.keys())
    _check_shapes(tensors, state)
    for name, layer in layers.items():
        state.update(_converted(layer, _prefix(name), state, version))
    _check_copies(tensors, state)
    target.load_state_dict(state)
    elements = {name: layer.weight.numel() for name, layer in layers.items()}
    return LoadedDcls(version, elements, {name: _outside(layer) for name, layer in layers.items()})


def _layers(target: torch.nn.Module, version: str) -> dict[str, _Dcls]:
    """Return the layers by all their names, or raise where one cannot have come from such a file."""
    if version not in tuple(_VERSIONS):
        raise CheckpointError(f"load_dcls: version: got {version!r}, expected one of {tuple(_VERSIONS)}")
    if not isinstance(target, torch.nn.Module):
        raise UnsupportedModule(f"load_dcls: target: got a {type(target).__name__}, expected a torch.nn.Module")
    named = target.named_modules(remove_duplicate=False)
    layers = {name: module for name, module in named if isinstance(module, _Dcls)}
    if not layers:
        raise UnsupportedModule(
            f"load_dcls: target: got a {type(target).__name__} that holds no layer of learned spacings; "
            "load it by its load_state_dict"
        )
    for name, layer in layers.items():
        where, kind = f"load_dcls: {name or 'target'}", type(layer).__name__
        if 1 < layer.learned < layer.ndim:
            raise UnsupportedModule(f"{where}: got a {kind}, which the dcls package does not have; load it by itself")
        if layer.interpolation != _VERSIONS[version]:
            raise CheckpointError(
                f"{where}: got a {kind} with interpolation {layer.interpolation!r}, expected {_VERSIONS[version]!r} "
                f"for version {version!r}; build it with version={version!r}, or name the version of the file"
            )
    return layers


def _state(state_dict: Mapping[str, Any], layers: Mapping[str, _Dcls]) -> dict[str, Any]:
    """Return the entries of the file without those that are no parameters."""
    state = state_dict.get("model", state_dict) if isinstance(state_dict, Mapping) else state_dict
    if not isinstance(state, Mapping):
        raise CheckpointError(
            f"load_dcls: state_dict: got a {type(state).__name__}, expected a dict of tensors by name; "
            "read a file by torch.load(path, weights_only=True)"
        )
    cached = {_prefix(name) + what for name in layers for what in _CACHED}
    return {name: value for name, value in state.items() if name not in cached}


def _places(layer: _Dcls) -> list[tuple[str, torch.Tensor]]:
    return [(name, value) for name, value in (("P", layer.P), ("SIG", layer.SIG)) if value is not None]


def _prefix(name: str) -> str:
    return f"{name}." if name else ""


def _check_names(expected: Collection[str], got: Collection[str]) -> None:
    missing = [name for name in expected if name not in got]
    unexpected = [name for name in got if name not in expected]
    if missing or unexpected:
        raise CheckpointError(
            f"load_dcls: state_dict: {_listed(missing)} missing, {_listed(unexpected)} not expected; build the target "
            "as the network of the file, whose version has SIG if it is 'max' or 'gauss' and none otherwise"
        )


def _listed(names: Sequence[str]) -> str:
    """Return how many names there are, and the first few."""
    few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} entries" + (f" ({few})" if names else "")


def _check_shapes(expected: Mapping[str, torch.Tensor], got: Mapping[str, Any]) -> None:
    for name, tensor in expected.items():
        value = got[name]
        if not isinstance(value, torch.Tensor) or value.shape != tensor.shape:
            found = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
            raise CheckpointError(
                f"load_dcls: {name}: got {found}, expected a tensor of shape {tuple(tensor.shape)}; "
                "build the target as the network of the file"
            )


def _converted(
    layer: _Dcls, prefix: str, state: Mapping[str, torch.Tensor], version: str
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what has another meaning in the package, by name, as ours."""
    order = (_ORDERS_V0 if version == "v0" else _ORDERS)[layer.learned]
    centres = [size // 2 for size in layer.dilated_kernel_size]
    # In the dtype of ours before they move: 16 bits would round the sum.
    positions = state[f"{prefix}P"].detach().to(layer.P.dtype)
    moved = [positions[at] + (centres[at] - centre) for at, centre in zip(order, centres, strict=True)]
    yield f"{prefix}P", torch.stack(moved)
    if layer.SIG is not None:
        scales = state[f"{prefix}SIG"].detach().to(layer.SIG.dtype)[list(order)]
        if version == "gauss" and (layer.ndim, layer.learned) == (2, 1):
            scales = scales.abs() + (_LEAST_WIDTH_2_1D - LEAST_WIDTHS["gaussian"])
        yield f"{prefix}SIG", scales


def _check_copies(tensors: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
    """Raise if the file has different values for names of one tensor, of which the last would win."""
    names: dict[int, str] = {}
    for name, tensor in tensors.items():
        first = names.setdefault(id(tensor), name)
        if first != name and not torch.equal(state[first], state[name]):
            raise CheckpointError(
                f"load_dcls: {name}: got another value than {first}, expected an equal copy: they are one parameter of "
                "the target; give each layer its own"
            )


def _outside(layer: _Dcls) -> int:
    """Return how many elements lie outside of the window along some axis, or nowhere at all."""
    positions = layer.P.detach()
    inside = [(low <= axis) & (axis <= high) for axis, (low, high) in zip(positions, layer._limits(), strict=True)]
    return int((~torch.stack(inside).all(0)).sum())
