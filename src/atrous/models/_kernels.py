"""Which convolutions look around in a network, by the name of a kernel and the options that belong to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from atrous._errors import GeometryError

Interpolation = Literal["bilinear", "triangle", "gaussian", "bicubic"]


class DclsOptions(TypedDict, total=False):
    """What a network with learned positions may be told about them."""

    kernel_count: int
    dilated_kernel_size: int
    interpolation: Interpolation
    share: bool


class KernelOptions(DclsOptions, total=False):
    """What a network may be told about a kernel of any name."""

    dilation: int


def chosen(
    network: str, kernels: Mapping[str, Mapping[str, Any]], kernel: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options of a kernel: those given, and defaults for the rest.

    Args:
        network: named in errors.
        kernels: name -> its options and their defaults.
        kernel: one of the names.
        given: options by name.

    Raises:
        GeometryError: an unknown kernel, or an option that is not one of its.

    Example:
        >>> chosen("Net", {"plain": {}, "dilated": {"dilation": 2, "size": 7}}, "dilated", {"size": 5})
        {'dilation': 2, 'size': 5}
    """
    if kernel not in kernels:
        raise GeometryError(f"{network}: kernel: got {kernel!r}, expected one of {tuple(kernels)}")
    defaults = kernels[kernel]
    for name, value in given.items():
        if name not in defaults:
            raise GeometryError(
                f"{network}: {name}: got {value!r}, expected only options of kernel={kernel!r} "
                f"({', '.join(defaults) or 'it has none'}); leave it out, or choose another kernel"
            )
    return {**defaults, **given}
