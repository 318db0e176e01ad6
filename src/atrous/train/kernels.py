"""Kinds of kernels for a small ConvNeXt, to be compared at equal steps: plain, dilated, dense, and learned ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from atrous.models import ConvNeXt
from atrous.train.data.source import Splits


@dataclass(frozen=True)
class Kernel:
    """One way to look around: what differs from a ConvNeXt with 7x7 kernels.

    Args:
        title: its name for readers.
        network: options of `ConvNeXt`; a 'kernel_count' of None takes as many elements as cost no parameter more.
        recipe: settings of `ClassifyRecipe`.
        decayed: whether positions decay as weights do.

    Example:
        >>> KERNELS["dense17"].network
        {'kernel': 'dense17'}
    """

    title: str
    network: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    decayed: bool = False


def _dcls(title: str, recipe: Mapping[str, Any] | None = None, *, decayed: bool = False, **network: Any) -> Kernel:
    return Kernel(title, {"kernel": "dcls", "kernel_count": None, **network}, recipe or {}, decayed)


KERNELS: dict[str, Kernel] = {
    "plain": Kernel("plain 7x7"),
    "dilated2": Kernel("dilated 7x7, dilation 2", {"kernel": "dilated", "dilation": 2}),
    "dilated3": Kernel("dilated 7x7, dilation 3", {"kernel": "dilated", "dilation": 3}),
    "dense17": Kernel("dense 17x17", {"kernel": "dense17"}),
    "bilinear": _dcls("DCLS bilinear"),
    "triangle": _dcls("DCLS triangle", interpolation="triangle"),
    "gaussian": _dcls("DCLS gaussian", interpolation="gaussian"),
    "bicubic": _dcls("DCLS bicubic", interpolation="bicubic"),
    "unshared": _dcls("DCLS, positions not shared", share=False),
    "decayed": _dcls("DCLS, positions decay", decayed=True),
    "unscaled": _dcls("DCLS, positions' lr x1", {"position_lr_scale": 1.0}),
}
"""Name -> what is compared; those with learned spacings are bilinear, shared by stage, at five times the rate."""


@dataclass(frozen=True)
class Budget:
    """How much the experiment does; the defaults are the published one, tests take less.

    Args:
        depths: blocks of every stage.
        dims: channels of every stage.
        epochs: of a run, after each of which it is validated.
        steps_per_epoch: of a run.
        recipe: settings of `ClassifyRecipe` for all runs.
        lengths: images of 'train', 'val' and 'test' to take at most; None takes all.

    Example:
        >>> Budget(epochs=2).recipe["batch_size"]
        32
    """

    depths: tuple[int, ...] = (2, 2, 2)
    dims: tuple[int, ...] = (8, 16, 32)
    epochs: int = 5
    steps_per_epoch: int = 200
    recipe: Mapping[str, Any] = field(
        default_factory=lambda: {"batch_size": 32, "learning_rate": 4e-3, "drop_path": 0.0}
    )
    lengths: tuple[int, int, int] | None = (40_000, 2_000, 5_000)


def build(kernel: str, splits: Splits, budget: Budget) -> ConvNeXt:
    """Return the network of a kind of kernel, for images and classes like those of a data set.

    Example:
        >>> from atrous.train.data.patches import TexturePatches
        >>> patches = TexturePatches("val", 1)
        >>> net = build("bilinear", Splits(patches, patches), Budget())
        >>> net.stages[0].blocks[0].conv_dw.kernel_count
        24
    """
    options = dict(KERNELS[kernel].network)
    make = partial(ConvNeXt, len(splits.train.classes), splits.train.channels, budget.depths, budget.dims, patch=1)
    if "kernel_count" in options:
        with torch.device("meta"):
            most = size(make())
            fitting = (n for n in range(49, 0, -1) if size(make(**options | {"kernel_count": n})) <= most)
            options["kernel_count"] = next(fitting, 1)
    return make(**options)


def size(network: torch.nn.Module) -> int:
    """Return the number of parameters.

    Example:
        >>> size(torch.nn.Linear(3, 2))
        8
    """
    return sum(parameter.numel() for parameter in network.parameters())
