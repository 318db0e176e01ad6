"""Weights of other makes, put into the networks of the papers: other names, other axes, other orders of channels.

Legend: B batch, C classes, D channels.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from atrous._errors import CheckpointError, MissingExtra, UnsupportedModule
from atrous._table import aligned
from atrous.convert.checkpoints import _listed

_CLASSIFIERS = ("final", "fc")
"""Layers that may have another number of classes than the file, and then stay as they are."""

_FAMILIES = ("conv", "bn", "ctx_", "layer")
"""How layers begin of which a file has all or none: with some of them alone a network computes nothing sensible."""

_VGG16 = (
    *("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3"),
    *("conv4_1", "conv4_2", "conv4_3", "conv5_1", "conv5_2", "conv5_3"),
)
_CONTEXT = ("conv1_1", "conv1_2", *(f"conv{number}_1" for number in range(2, 8)), "fc1", "final")

_TORCHVISION_VGG16 = {
    **{
        f"features.{at}": name
        for at, name in zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), _VGG16, strict=True)
    },
    **{f"classifier.{at}": name for at, name in ((0, "fc6"), (3, "fc7"), (6, "final"))},
}
_CAFFE = {
    **{name: name for name in (*_VGG16, "fc6", "fc7", "final")},
    **dict.fromkeys(("fc8", "fc-final"), "final"),
    **{prefix + name: f"ctx_{name}" for prefix in ("ct_", "ctx_") for name in _CONTEXT},
}
_KERAS = re.compile(
    r"(?:.*[./])?block(?P<block>\d)(?:_conv(?P<conv>\d)|[./]layers[./]conv2d(?:_(?P<index>\d))?)"
    r"(?:[./].*)?[./](?:(?P<weight>kernel|weight|0)|bias|1)(?::0)?"
)
_RESNET = re.compile(r"(conv1|bn1|fc|layer\d\.\d+\.(conv\d|bn\d|downsample\.[01]))\.\w+")


@dataclass(frozen=True)
class LoadedWeights:
    """Say what `load_weights` has loaded, entry by entry; prints as a table.

    Args:
        source: the make of the file.
        channels: order of the image's channels that the loaded weights expect, 'RGB' or 'BGR'.
        matched: entries that are loaded, name in the target to name in the file.
        missing: entries of the target that the file lacks; they stay as they were.
        left_over: entries of the file that the target has no place for.
        mismatched: entries of a final classifier that does not fit, which stays as it was: name in the target to name
            in the file, shape there and shape expected.

    Example:
        >>> matched, mismatched = {"conv1.weight": "conv1.weight"}, {"fc.bias": ("fc.bias", (1000,), (5,))}
        >>> print(LoadedWeights("torchvision-resnet", "RGB", matched, ("bn1.bias",), (), mismatched))
        target        torchvision-resnet  result
        conv1.weight  conv1.weight        loaded
        fc.bias       fc.bias             kept: got (1000,), expected (5,)
        bn1.bias      -                   kept: missing in the file
    """

    source: str
    channels: str
    matched: Mapping[str, str]
    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    mismatched: Mapping[str, tuple[str, tuple[int, ...], tuple[int, ...]]]

    def __str__(self) -> str:
        rows = [("target", self.source, "result")]
        rows += [(ours, theirs, "loaded") for ours, theirs in self.matched.items()]
        rows += [(ours, it[0], f"kept: got {it[1]}, expected {it[2]}") for ours, it in self.mismatched.items()]
        rows += [(ours, "-", "kept: missing in the file") for ours in self.missing]
        rows += [("-", theirs, "left over in the file") for theirs in self.left_over]
        return aligned(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the names and shapes as plain objects, for JSON."""
        return asdict(self)


def load_weights(
    target: torch.nn.Module,
    weights: Mapping[str, Any] | str | Path,
    *,
    source: str | None = None,
    rgb: bool = False,
) -> LoadedWeights:
    """Put weights of another make into a network of `atrous.models`, or into a context module.

    The makes, and the image that a network takes after loading them:

        torchvision-vgg16   features.0.weight ... classifier.0, .3, .6           RGB, 0 to 1, standardised
        torchvision-resnet  conv1.weight, layer1.0.conv1.weight ... fc           RGB, 0 to 1, standardised
        caffe               conv1_1 ... fc6, fc7, fc8 of VGG-16; the published   BGR, 0 to 255, minus a mean
                            dilation7, 8, 10: final or fc-final, ctx_ or ct_
        keras-vgg16         block1_conv1 ..., or block1/layers/conv2d/vars/0     BGR, 0 to 255, minus a mean
                            ... as HED has them; kernels (H, W, in, out)

    Standardised: minus (0.485, 0.456, 0.406), by (0.229, 0.224, 0.225). The mean is that of the images of the training,
    in B, G, R: (103.939, 116.779, 123.68) for VGG-16, (104.00699, 116.66877, 122.67892) for HED, (102.93, 111.36,
    116.52) for dilation8 on VOC, (110.703, 108.778, 105.412) on CamVid, (96.194, 95.551, 91.347) for dilation7 on
    KITTI, (72.39, 82.91, 73.16) for dilation10 on Cityscapes.

    fc6 and fc7 may be matrices. `fc8`, `classifier.6` and `fc-final` are `final`. Nothing is loaded unless everything
    fits; only a final classifier of another size stays as it is. A file for more than the target, a whole dilation8
    for a `FrontEnd` say, is fine.

    Args:
        target: `FrontEnd`, `DilatedNet`, `ContextModule`, `ResNet`.
        weights: tensors or arrays by name; a name may also hold [weight, bias], or a dict of its own. Or a file:
            `.safetensors`, `.pt` or `.pth` (read without running any code in it), `.h5` (needs h5py).
        source: the make; None recognises it by the names.
        rgb: turn round the channels of the first layer of a BGR make, so that the network takes RGB (its mean too).

    Returns:
        What was loaded, what is missing and what is left over: print it.

    Raises:
        UnsupportedModule: a target that is not a module.
        MissingExtra: a file whose reader is not installed.
        CheckpointError: a file that is absent, damaged or holds code; entries that are not numbers; an unknown make, or
            names that fit none, another or two; a network of another depth, or shapes that do not fit.

    Source: the names of torchvision, of the models of fyu/dilation and of Keras.

    Example:
        >>> from atrous.models import FrontEnd
        >>> net = FrontEnd(2, width=1 / 64)
        >>> weights = {name: tensor.numpy() for name, tensor in FrontEnd(3, width=1 / 64).state_dict().items()}
        >>> found = load_weights(net, weights)
        >>> found.source, found.channels, len(found.matched), list(found.mismatched)
        ('caffe', 'BGR', 30, ['final.weight', 'final.bias'])
    """
    if not isinstance(target, torch.nn.Module):
        raise UnsupportedModule(f"load_weights: target: got a {type(target).__name__}, expected a torch.nn.Module")
    if source is not None and source not in _MAKES:
        raise CheckpointError(f"load_weights: source: got {source!r}, expected None or one of {tuple(_MAKES)}")
    where, content = (str(weights), _read(Path(weights))) if isinstance(weights, (str, Path)) else ("weights", weights)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{where}: got a {type(content).__name__}, expected a dict of tensors by name")
    entries = dict(_flat(where, content))
    source = _recognised(where, entries, source)
    own = target.state_dict()
    names = _matched(where, own, entries, _MAKES[source].ours)
    values = {name: _converted(name, entries[theirs], own[name], source, rgb) for name, theirs in names.items()}
    mismatched = {
        name: (names[name], tuple(values[name].shape), tuple(own[name].shape)) for name in _misfits(where, own, values)
    }
    _check_numbers(where, {names[name]: value for name, value in values.items()})
    matched = {name: theirs for name, theirs in names.items() if name not in mismatched}
    target.load_state_dict({name: values[name] for name in matched}, strict=False)
    missing = tuple(name for name in own if name not in names)
    used = set(names.values())
    left_over = tuple(theirs for theirs in entries if theirs not in used)
    channels = "RGB" if rgb else _MAKES[source].channels
    return LoadedWeights(source, channels, matched, missing, left_over, mismatched)


class _Make(NamedTuple):
    """One way to name weights: our name of each of its names, and our names that tell it, one of these groups."""

    channels: str
    ours: Callable[[str], str | None]
    telling: tuple[frozenset[str], ...]


def _by_layer(table: Mapping[str, str]) -> Callable[[str], str | None]:
    def ours(name: str) -> str | None:
        layer, _, kind = name.rpartition(".")
        return f"{table[layer]}.{kind}" if layer in table and kind in ("weight", "bias") else None

    return ours


def _of_keras(name: str) -> str | None:
    found = _KERAS.fullmatch(name)
    if found is None:
        return None
    number = found["conv"] or 1 + int(found["index"] or 0)
    return f"conv{found['block']}_{number}.{'weight' if found['weight'] else 'bias'}"


def _of_resnet(name: str) -> str | None:
    return name if _RESNET.fullmatch(name) else None


_MAKES = {
    "torchvision-vgg16": _Make("RGB", _by_layer(_TORCHVISION_VGG16), (frozenset(f"{name}.weight" for name in _VGG16),)),
    "torchvision-resnet": _Make("RGB", _of_resnet, (frozenset({"conv1.weight", "layer1.0.conv1.weight"}),)),
    "caffe": _Make("BGR", _by_layer(_CAFFE), (frozenset({"conv1_1.weight"}), frozenset({"ctx_conv1_1.weight"}))),
    "keras-vgg16": _Make("BGR", _of_keras, (frozenset({"conv1_1.weight"}),)),
}


def _flat(where: str, content: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield tensors by name, of dicts in dicts and of [weight, bias] too."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(where, value, f"{name}.")
        elif isinstance(value, (list, tuple)) and len(value) == 2:
            yield from _flat(where, dict(zip(("weight", "bias"), value, strict=True)), f"{name}.")
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
            yield name, torch.tensor(value)
        elif isinstance(value, torch.Tensor):
            yield name, value
        else:
            raise CheckpointError(
                f"{where}: {name}: got a {type(value).__name__}, expected a tensor, an array of numbers or "
                "[weight, bias]; pass the weights alone"
            )


def _recognised(where: str, entries: Mapping[str, torch.Tensor], source: str | None) -> str:
    """Return the make whose names these are."""
    found = []
    for make, (_, ours, telling) in _MAKES.items():
        places = {ours(name) for name in entries}
        if any(group <= places for group in telling):
            found.append(make)
    if source in found:
        return source
    if source is not None or not found:
        expected = source or f"one of {tuple(_MAKES)}"
        raise CheckpointError(
            f"{where}: got {_listed(list(entries))}, expected the names of {expected}; "
            "weights of atrous itself load by load_state_dict"
        )
    if len(found) > 1:
        raise CheckpointError(f"{where}: has the names of {' and '.join(found)}; say which by source")
    return found[0]


def _place(name: str) -> str:
    """Return the name of an entry in its part of the network."""
    return name.removeprefix("front_end.").removeprefix("context.")


def _matched(
    where: str,
    own: Mapping[str, torch.Tensor],
    entries: Mapping[str, torch.Tensor],
    ours: Callable[[str], str | None],
) -> dict[str, str]:
    """Return the name in the file of every entry of the target that the file has."""
    places: dict[str, str] = {}
    for theirs in entries:
        place = ours(theirs)
        if place is None:
            continue
        if place in places:
            raise CheckpointError(f"{where}: {places[place]} and {theirs} are both {place}; take one out")
        places[place] = theirs
    names = {name: places[_place(name)] for name in own if _place(name) in places}
    if not names:
        raise CheckpointError(
            f"{where}: none of its {_listed(list(entries))} has a place in the target, which has {_listed(list(own))}; "
            "expected the network of the file, or a part of it"
        )
    for family in _FAMILIES:
        here, there = (
            [name for name in some if name.startswith(family) and not name.endswith("num_batches_tracked")]
            for some in (map(_place, own), places)
        )
        if here and there and set(here) != set(there):
            missing, more = [name for name in here if name not in there], [name for name in there if name not in here]
            raise CheckpointError(
                f"{where}: {_listed(missing)} missing, {_listed(more)} without a place in the target; build the target "
                "as deep as the network of the file"
            )
    return names


def _converted(name: str, value: torch.Tensor, own: torch.Tensor, source: str, rgb: bool) -> torch.Tensor:
    """Return a tensor of the file in the axes and the order of channels of ours."""
    if source == "keras-vgg16" and value.ndim == 4:
        value = value.permute(3, 2, 0, 1)
    if value.ndim == 2 and own.ndim == 4 and value.shape[1] == own[0].numel():
        value = value.reshape(-1, *own.shape[1:])  # a fully connected layer: its inputs are channels, rows, columns
    if rgb and _MAKES[source].channels == "BGR" and _place(name) == "conv1_1.weight":
        value = value.flip(1)
    return value


def _misfits(where: str, own: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the entries of a classifier of another size; raise if another layer does not fit."""
    layers = {name: _place(name).rpartition(".")[0] for name in values}
    wrong = [name for name, value in values.items() if value.shape != own[name].shape]
    inner = [name for name in wrong if layers[name] not in _CLASSIFIERS]
    if inner:
        few = [f"{name}: got {tuple(values[name].shape)}, expected {tuple(own[name].shape)}" for name in inner[:3]]
        raise CheckpointError(
            f"{where}: {len(inner)} entries do not fit, {'; '.join(few)}; build the target with the width, the "
            "channels and, if it has a context module, the classes of the file"
        )
    kept = {layers[name] for name in wrong}
    return [name for name, layer in layers.items() if layer in kept]


def _check_numbers(where: str, values: Mapping[str, torch.Tensor]) -> None:
    for name, value in values.items():
        if not name.endswith("num_batches_tracked") and not (value.is_floating_point() and value.isfinite().all()):
            raise CheckpointError(f"{where}: {name} holds {value.dtype} or no finite numbers, expected finite ones")


def _read(path: Path) -> object:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file")
    if path.suffix not in _READERS:
        raise CheckpointError(
            f"{path}: got a {path.suffix or 'name without suffix'}, expected one of {tuple(_READERS)}"
        )
    return _READERS[path.suffix](path)


def _read_safetensors(path: Path) -> object:
    package = _reader("safetensors.torch", path)
    try:
        return package.load_file(path)
    except (import_module("safetensors").SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}); copy it again") from error


def read_pickle(path: Path) -> object:
    """Return what a file of `torch.save` holds, without running any code in it.

    Raises:
        CheckpointError: a file that is damaged or holds code; names it.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile(suffix=".pt") as file:
        ...     torch.save({"step": 3}, file.name)
        ...     read_pickle(Path(file.name))
        {'step': 3}
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on the pickle protocol; the errors below say enough
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds Python code or objects besides tensors, or is damaged; it was not run: "
            "save plain tensors, best as safetensors"
        ) from error
    except Exception as error:  # a damaged file can make the unpickler raise whatever it likes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a whole PyTorch file ({reason}); copy it again") from error


def _read_h5(path: Path) -> object:
    package = _reader("h5py", path)
    found: dict[str, Any] = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, package.Dataset) and item.dtype.kind == "f" and item.shape:
            found[name] = item[()]

    try:
        with package.File(path, "r") as file:
            file.visititems(add)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a whole HDF5 file ({error}); copy it again") from error
    return found


_READERS = {
    ".safetensors": _read_safetensors,
    ".pt": read_pickle,
    ".pth": read_pickle,
    ".h5": _read_h5,
}


def _reader(module: str, path: Path) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingExtra(f"{path}: needs {package} to be read; install it by: pip install {package}") from error
