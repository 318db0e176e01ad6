"""Networks on disk: one safetensors file that holds the weights and says how to build what they belong to."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch

from atrous import models
from atrous._errors import AtrousError, CheckpointError, DataError
from atrous._files import whole_file

_KEY = "atrous"
_BUILDERS = ("dilation7", "dilation8", "dilation10", "dilation_small")


@dataclass(frozen=True)
class NetworkConfig:
    """Say how to build a network and what its scores mean.

    Args:
        network: name of a builder in `atrous.models`.
        arguments: its arguments.
        classes: name of every class, in the order of the scores.
        context: False for a front end that is not yet followed by its context module.

    Raises:
        CheckpointError: a field of another type.

    Example:
        >>> config = NetworkConfig("dilation_small", {"num_classes": 2, "in_channels": 1}, ("brick", "grass"))
        >>> config.build().front_end.final.out_channels
        2
    """

    network: str
    arguments: Mapping[str, Any]
    classes: tuple[str, ...]
    context: bool = True

    def __post_init__(self) -> None:
        named = isinstance(self.classes, tuple) and all(isinstance(name, str) for name in self.classes)
        spelled = isinstance(self.arguments, Mapping) and all(isinstance(name, str) for name in self.arguments)
        if not (isinstance(self.network, str) and spelled and named and isinstance(self.context, bool)):
            raise CheckpointError(
                f"config: got {self}, expected the name of a network, its arguments by name, a tuple of class names, "
                "and True or False for the context"
            )

    def build(self) -> models.DilatedNet:
        """Return the network, freshly initialised.

        Raises:
            CheckpointError: a builder that does not exist, or arguments that it does not take.
        """
        if self.network not in _BUILDERS:
            raise CheckpointError(f"network: got {self.network!r}, expected one of {_BUILDERS}")
        try:
            network: models.DilatedNet = getattr(models, self.network)(**self.arguments)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise CheckpointError(
                f"network: {self.network} cannot be built from {dict(self.arguments)}: {error}"
            ) from error
        if not self.context:
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


def load_network(path: str | Path) -> tuple[models.DilatedNet, NetworkConfig]:
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
    read = _read_pickle if path.suffix in (".pt", ".pth") else _read_safetensors
    state, fields = read(path)
    try:
        classes = fields["classes"]
        config = NetworkConfig(**{**fields, "classes": tuple(classes) if isinstance(classes, list) else classes})
        with torch.device("meta"):  # no memory is spent before the file is known to fit
            network = config.build()
    except (AtrousError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its config is not one of atrous ({error}); write it by save_network") from error
    _check_fit(path, network, state, config)
    network.load_state_dict(state, assign=True)
    return network.eval(), config


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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on the pickle protocol; the errors below say enough
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds Python code or objects besides tensors, or is damaged; it was not run: "
            "save plain tensors, best as safetensors"
        ) from error
    except Exception as error:  # a damaged file can make the unpickler raise whatever it likes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a whole PyTorch file ({reason}); copy or train it again") from error
    state, fields = (content.get(key) if isinstance(content, dict) else None for key in ("state_dict", "config"))
    if not _are_tensors(state) or not isinstance(fields, dict):
        raise CheckpointError(
            f"{path}: expected a dict of 'state_dict', tensors by name, and 'config', the fields of NetworkConfig"
        )
    return cast(dict[str, torch.Tensor], state), fields


def _are_tensors(state: object) -> bool:
    return isinstance(state, dict) and all(isinstance(entry, torch.Tensor) for entry in state.values())


def _check_fit(path: Path, network: models.DilatedNet, state: Mapping[str, Any], config: NetworkConfig) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in state.items()}
    final = "front_end.final.weight"
    scores = expected[final][0]
    if final in got and got[final][0] != scores:
        raise CheckpointError(f"{path}: weights of {got[final][0]} classes, expected {scores} as its config says")
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
        if tensor.dtype != torch.float32 or not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds {tensor.dtype} or no finite numbers, expected finite float32")
