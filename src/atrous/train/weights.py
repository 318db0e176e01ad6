"""Networks on disk: one safetensors file that holds the weights and says how to build what they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch

from atrous import models
from atrous._errors import AtrousError, CheckpointError, DataError
from atrous._files import whole_file
from atrous.convert import load_weights
from atrous.convert.weights import read_pickle

_KEY = "atrous"
_BUILDERS = {
    "segment": ("dilation7", "dilation8", "dilation10", "dilation_small"),
    "regress": ("dense_map",),
    "restore": ("ircnn",),
    "classify": ("convnext_pico", "convnext_tiny", "convnext_small", "convnext_base"),
}
"""Task -> the networks that it may have."""
_NAMED = {"dense_map": "DenseMap", "ircnn": "IRCNN"}
"""Networks whose builder in `atrous.models` has another name."""
_BY_CLASSES = ("context.", "front_end.final.", "head.fc.", "last.")
"""How the layers begin whose shapes hang on the number of classes."""
_LAST = {"segment": "front_end.final.weight", "classify": "head.fc.weight"}
"""Task -> the weight with a row for every class."""


@dataclass(frozen=True)
class NetworkConfig:
    """Say how to build a network, what it is for, and what its outputs mean.

    Args:
        network: name of a builder in `atrous.models`.
        arguments: its arguments.
        classes: name of every class, in the order of the scores; empty where there are none.
        context: False for a front end that is not yet followed by its context module.
        task: 'segment', 'restore', 'regress' or 'classify'.
        colours: RGB of every class, or empty for those of `atrous.plots.palette`.
        settings: what else a prediction has to know: of 'restore' what was undone, of 'regress' the loss.

    Raises:
        CheckpointError: a field of another type.

    Example:
        >>> config = NetworkConfig("dilation_small", {"num_classes": 2, "in_channels": 1}, ("brick", "grass"))
        >>> config.build().front_end.final.out_channels
        2
    """

    network: str
    arguments: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    context: bool = True
    task: str = "segment"
    colours: tuple[tuple[int, int, int], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = isinstance(self.classes, tuple) and all(isinstance(name, str) for name in self.classes)
        spelled = all(
            isinstance(one, Mapping) and all(isinstance(name, str) for name in one)
            for one in (self.arguments, self.settings)
        )
        painted = isinstance(self.colours, tuple) and len(self.colours) in (0, len(self.classes))
        known = isinstance(self.network, str) and isinstance(self.task, str) and self.task in _BUILDERS
        if not (known and spelled and named and painted and isinstance(self.context, bool)):
            raise CheckpointError(
                f"config: got {self}, expected the name of a network, its arguments by name, a tuple of class names, "
                f"True or False for the context, a task of {', '.join(_BUILDERS)}, a colour for every class or none, "
                "and settings by name"
            )

    @property
    def channels(self) -> int:
        """Channels of the images that the network takes."""
        return int(self.arguments.get("channels" if self.task == "restore" else "in_channels", 3))

    def build(self) -> torch.nn.Module:
        """Return the network, freshly initialised.

        Raises:
            CheckpointError: a builder that does not exist, or arguments that it does not take.
        """
        if self.network not in _BUILDERS[self.task]:
            raise CheckpointError(f"network: got {self.network!r}, expected one of {_BUILDERS[self.task]}")
        try:
            network: torch.nn.Module = getattr(models, _NAMED.get(self.network, self.network))(**self.arguments)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise CheckpointError(
                f"network: {self.network} cannot be built from {dict(self.arguments)}: {error}"
            ) from error
        if not self.context and isinstance(network, models.DilatedNet):
            network.context = torch.nn.Identity()
        return network


def save_network(network: torch.nn.Module, config: NetworkConfig, path: str | Path) -> None:
    """Write weights and config as one safetensors file.

    Args:
        network: what `config.build()` builds, trained.
        config: how to build it.
        path: ending in `.safetensors`; appears only when whole.

    Raises:
        DataError: another suffix, or the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> config = NetworkConfig("dilation_small", {"num_classes": 2, "in_channels": 1}, ("brick", "grass"))
        >>> with TemporaryDirectory() as folder:
        ...     save_network(config.build(), config, f"{folder}/net.safetensors")
        ...     load_network(f"{folder}/net.safetensors")[1].classes
        ('brick', 'grass')
    """
    if Path(path).suffix != ".safetensors":
        raise DataError(f"{path}: expected a file name that ends in .safetensors")
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with whole_file(path) as part:
        part.write_bytes(safetensors.torch.save(tensors, {_KEY: json.dumps(asdict(config))}))


def load_network(path: str | Path) -> tuple[torch.nn.Module, NetworkConfig]:
    """Read a weights file and return the network, in eval mode, with its config.

    Args:
        path: written by `save_network`; or a `.pt` or `.pth` file that holds a dict of `state_dict` and
            `config` (the fields of `NetworkConfig`), which is read without running any code in it.

    Raises:
        CheckpointError: a file that is absent, truncated, holds code, lacks the config, or whose weights do not fit
            the network that the config describes (another class count, say); names the file.

    Example:
        >>> load_network("absent.safetensors")
        Traceback (most recent call last):
        ...
        atrous._errors.CheckpointError: absent.safetensors: no such weights file
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file")
    if path.suffix == ".ckpt":
        raise CheckpointError(f"{path}: is a checkpoint of a run; its weights are in weights.safetensors beside it")
    read = _read_pickle if path.suffix in (".pt", ".pth") else _read_safetensors
    state, fields = read(path)
    try:
        config = NetworkConfig(**{name: _tuples(value) for name, value in fields.items()})
        with torch.device("meta"):  # no memory is spent before the file is known to fit
            network = config.build()
    except (AtrousError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its config is not one of atrous ({error}); write it by save_network") from error
    _check_fit(path, network, state, config)
    network.load_state_dict(state, assign=True)
    return network.eval(), config


def start_from(network: torch.nn.Module, path: str | Path) -> str:
    """Put weights of a file into a network wherever names and shapes agree, and say how many did.

    Args:
        network: changed in place, and only if some weights fit.
        path: written by `save_network`, or of another make, see `atrous.convert.load_weights`.

    Raises:
        CheckpointError: a file that is not what it should be, or has nothing that fits.

    Example:
        >>> start_from(torch.nn.Linear(1, 1), "absent.safetensors")
        Traceback (most recent call last):
        ...
        atrous._errors.CheckpointError: absent.safetensors: no such weights file
    """
    path = Path(path)
    if path.is_file() and not _is_ours(path):
        return str(load_weights(network, path, rgb=True))
    state, own = load_network(path)[0].state_dict(), network.state_dict()
    fitting = {name: tensor for name, tensor in state.items() if name in own and own[name].shape == tensor.shape}
    odd = [name for name in state if name in own and name not in fitting and not name.startswith(_BY_CLASSES)]
    if odd or not fitting:
        name = odd[0] if odd else next(iter(state))
        got, wanted = tuple(state[name].shape), tuple(own[name].shape) if name in own else "none"
        raise CheckpointError(f"{path}: does not fit the network: {name} has shape {got}, expected {wanted}")
    network.load_state_dict(fitting, strict=False)
    return f"{path}: {len(fitting)} of {len(own)} weights"


def _is_ours(path: Path) -> bool:
    if path.suffix != ".safetensors":
        return False
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return _KEY in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return True  # `load_network` has the words


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return state, json.loads(metadata[_KEY])
    except KeyError as error:
        raise CheckpointError(
            f"{path}: has no '{_KEY}' entry that says which network it is; write it by save_network"
        ) from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}); copy or train it again") from error


def _read_pickle(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    content: Any = read_pickle(path)
    state, fields = (content.get(key) if isinstance(content, dict) else None for key in ("state_dict", "config"))
    if not _are_tensors(state) or not isinstance(fields, dict):
        raise CheckpointError(
            f"{path}: expected a dict of 'state_dict', tensors by name, and 'config', the fields of NetworkConfig"
        )
    return cast(dict[str, torch.Tensor], state), fields


def _are_tensors(state: object) -> bool:
    return isinstance(state, dict) and all(isinstance(entry, torch.Tensor) for entry in state.values())


def _tuples(value: Any) -> Any:
    """Return what JSON has made of tuples."""
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value


def _check_fit(path: Path, network: torch.nn.Module, state: Mapping[str, Any], config: NetworkConfig) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in state.items()}
    last = _LAST.get(config.task)
    if last is not None:
        scores = expected[last][0]
        if last in got and got[last][0] != scores:
            raise CheckpointError(f"{path}: weights of {got[last][0]} classes, expected {scores} as its config says")
        if len(config.classes) != scores:
            raise CheckpointError(f"{path}: {len(config.classes)} class names for {scores} classes, expected one each")
    wrong = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{path}: {len(wrong)} entries do not fit {config.network}, the first {name}: got {got.get(name, 'none')}, "
            f"expected {expected.get(name, 'none')}"
        )
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if tensor.dtype != torch.float32 or not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds {tensor.dtype} or no finite numbers, expected finite float32")
