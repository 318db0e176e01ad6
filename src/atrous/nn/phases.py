"""Sequences that run their layers of one dilation in the phases of the input.

Legend: B batch, C channels, S input size, k kernel size, d dilation, N axes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch.nn.utils import parametrize

from atrous import functional
from atrous._errors import GeometryError
from atrous._geometry import Ints, integers
from atrous._watch import recorded, unwatched
from atrous.functional._check import resolve
from atrous.functional.phases import PhaseRow, find_phases
from atrous.nn.chain import make_activation
from atrous.nn.conv import Conv1d, Conv2d, Conv3d

_CONVOLUTIONS: dict[type, Callable[..., torch.Tensor]] = {
    torch.nn.Conv1d: functional.conv1d,
    torch.nn.Conv2d: functional.conv2d,
    torch.nn.Conv3d: functional.conv3d,
    Conv1d: functional.conv1d,
    Conv2d: functional.conv2d,
    Conv3d: functional.conv3d,
}

_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
"""Pointwise in evaluation; in training, their means would count the cells beyond the image."""

_POINTWISE = (
    *_NORMS, torch.nn.CELU, torch.nn.Dropout, torch.nn.ELU, torch.nn.GELU, torch.nn.Hardsigmoid, torch.nn.Hardswish,
    torch.nn.Hardtanh, torch.nn.Identity, torch.nn.LeakyReLU, torch.nn.Mish, torch.nn.PReLU, torch.nn.ReLU,
    torch.nn.ReLU6, torch.nn.SELU, torch.nn.SiLU, torch.nn.Sigmoid, torch.nn.Softplus, torch.nn.Tanh,
)  # fmt: skip

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

Run: TypeAlias = tuple[int, int]
"""The indices of the first layer of a run and of the one behind its last."""


class PhasedSequential(torch.nn.Sequential):
    """Run layers one after another, those of one dilation in the phases of their input where that is faster.

    It computes what `torch.nn.Sequential` computes for every size, up to rounding and to what dropout draws, and holds
    the same parameters under the same names. A run is two convolutions or more of one dilation d > 1 with stride 1, odd
    kernels and zero padding 'same', and what stands between them: activations, dropout, batch norm in evaluation,
    1 x 1 convolutions. `atrous.functional.in_phases` runs it: to the phases once, then convolutions of dilation 1, back
    once. A run may go through plain sequences inside of this one. Layers with hooks or with a forward of their own are
    no part of a run; what they would see are phases.

    Where it is faster is written in `atrous.functional.phases.PHASES`: on one thread of a CPU, for dense layers of 16
    channels or more in float32 with dilations of 4 to 8, contiguous images took 0.6 to 0.95 of the time and volumes 0.3
    to 0.7; with gradients it holds for signals too, and for volumes with dilation 2. Images with channels last are as
    fast one by one. While a compiler or a transform watches and under autocast, layers run one by one.

    Args:
        layers: as of `torch.nn.Sequential`.
        phases: None asks the table at each call, True runs all runs in phases, False none.

    Shape:
        As the layers.

    Source: the documentation of `tf.nn.atrous_conv2d`; exact sizes by `atrous.functional.in_phases`.

    Example:
        >>> layers = [torch.nn.Conv2d(4, 4, 3, padding=2, dilation=2) for _ in range(3)]
        >>> x = torch.randn(1, 4, 13, 13)
        >>> expected = torch.nn.Sequential(*layers)(x)
        >>> torch.testing.assert_close(PhasedSequential(*layers, phases=True)(x), expected)
    """

    # Of the class: `atrous.convert.fuse_same_rate` makes plain sequences such ones.
    phases: bool | None = None

    def __init__(self, *layers: Any, phases: bool | None = None) -> None:
        super().__init__(*layers)
        self.phases = phases

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Run the layers."""
        # Who exports or compiles wants the layers: phases fix sizes, and hide a dilation behind permutations.
        if self.phases is False or torch.compiler.is_compiling():
            return _each(self, input)
        layers, done = list(layers_of(self)), 0
        runs = find_runs(layers)
        if not runs:
            return _each(self, input)
        for start, stop in runs:
            input = self._run(layers[start:stop], _each(layers[done:start], input))
            done = stop
        return _each(layers[done:], input)

    def _run(self, run: Sequence[Any], input: torch.Tensor) -> torch.Tensor:
        ndim = len(run[0].kernel_size)
        fits = input.ndim in (ndim + 1, ndim + 2)  # else the first layer says what it takes
        if not fits or (self.phases is None and not find_row(run, input)):
            return _each(run, input)
        batched = input if input.ndim == ndim + 2 else input[None]
        output = functional.in_phases(batched, [_undilated(layer) for layer in run], run[0].dilation)
        return output if input.ndim == ndim + 2 else output[0]

    def __getitem__(self, index: Any) -> Any:
        """Return one layer, or for a slice a sequence of the same kind, under the same names."""
        if not isinstance(index, slice):
            return super().__getitem__(index)
        return PhasedSequential(OrderedDict(list(self._modules.items())[index]), phases=self.phases)

    def extra_repr(self) -> str:
        """Say how runs are run, if it was said."""
        return "" if self.phases is None else f"phases={self.phases}"


class DilatedStack(PhasedSequential):
    """Stack convolutions of one dilation, with an activation between them, that keep the size.

    Modules 0, 2, 4, ... are plain `atrous.nn` convolutions with zero padding 'same'; see `PhasedSequential` for how
    they run.

    Args:
        channels: C, in and out of every layer.
        kernel_size: k, odd; one integer, or one per axis.
        layers: how many convolutions, at least 1.
        dilation: d, one integer, or one per axis.
        ndim: axes of the input, 1, 2 or 3.
        activation: makes the module between two convolutions.
        groups: channel groups.
        bias: whether to learn biases.
        phases: None asks the table at each call, True runs in phases, False layer by layer.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        (B, C, *S) or (C, *S), to the same.

    Raises:
        GeometryError: an even kernel size, or another argument that cannot be.
        UnsupportedModule: an activation that makes no module.
        ShapeError: in the call, an input that does not fit.

    Source: the documentation of `tf.nn.atrous_conv2d`; exact sizes by `atrous.functional.in_phases`.

    Example:
        >>> DilatedStack(8, 3, layers=2, dilation=4, ndim=1)
        DilatedStack(
          (0): Conv1d(8, 8, kernel_size=(3,), stride=(1,), padding=same, dilation=(4,))
          (1): ReLU()
          (2): Conv1d(8, 8, kernel_size=(3,), stride=(1,), padding=same, dilation=(4,))
        )
    """

    def __init__(
        self,
        channels: int,
        kernel_size: Ints,
        layers: int,
        dilation: Ints,
        *,
        ndim: int = 2,
        activation: Callable[[], torch.nn.Module] = torch.nn.ReLU,
        groups: int = 1,
        bias: bool = True,
        phases: bool | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        kinds = {1: Conv1d, 2: Conv2d, 3: Conv3d}
        if ndim not in kinds:
            raise GeometryError(f"DilatedStack: ndim: got {ndim!r}, expected 1, 2 or 3")
        (count,) = integers("DilatedStack: layers", layers, 1, 1)
        if any(size % 2 == 0 for size in integers("DilatedStack: kernel_size", kernel_size, ndim, 1)):
            raise GeometryError(
                f"DilatedStack: kernel_size: got {kernel_size}, expected odd sizes, whose outputs have one phase each"
            )
        made: list[torch.nn.Module] = []
        for _ in range(count):
            made += [make_activation("DilatedStack", activation)] if made else []
            made.append(
                kinds[ndim](channels, channels, kernel_size, 1, "same", dilation, groups, bias, "zeros", device, dtype)
            )
        super().__init__(*made, phases=phases)


def _each(layers: Iterable[Callable[[torch.Tensor], torch.Tensor]], input: torch.Tensor) -> torch.Tensor:
    """Run layers one after another."""
    for layer in layers:
        input = layer(input)
    return input


def is_plain(module: torch.nn.Module) -> bool:
    """Return whether a module is a sequence of torch that nobody looks at: what it does is what its layers do."""
    return type(module) is torch.nn.Sequential and not _is_watched(module)


def layers_of(sequence: Iterable[torch.nn.Module]) -> Iterator[torch.nn.Module]:
    """Yield the layers of a sequence, and in the place of plain sequences inside it theirs."""
    for layer in sequence:
        yield from layers_of(layer) if is_plain(layer) else (layer,)  # type: ignore[arg-type]


def find_runs(layers: Sequence[torch.nn.Module]) -> list[Run]:
    """Return the runs of a sequence: as many layers as can run in phases, from a dilated convolution to another."""
    runs: list[Run] = []
    start = stop = count = 0
    for at, layer in enumerate(layers):
        dilation = dilation_of(layer)
        if dilation is not None and count and dilation == dilation_of(layers[start]):
            count, stop = count + 1, at + 1
            continue
        if count and dilation is None and _is_pointwise(layer):
            continue
        runs += [(start, stop)] if count > 1 else []
        start, stop, count = at, at + 1, int(dilation is not None)
    return [*runs, (start, stop)] if count > 1 else runs


def dilation_of(layer: Any) -> tuple[int, ...] | None:
    """Return the dilation of a convolution that runs in phases, or None for everything else."""
    if parametrize.type_before_parametrizations(layer) not in _CONVOLUTIONS or _is_watched(layer):
        return None
    window = resolve(layer.kernel_size, layer.stride, layer.padding, layer.dilation, len(layer.kernel_size))
    same = tuple((d * (k // 2),) * 2 for k, d in zip(window.kernel, window.dilation, strict=True))
    odd = all(k % 2 for k in window.kernel)
    dilated = any(d > 1 and k > 1 for k, d in zip(window.kernel, window.dilation, strict=True))
    stays = set(window.stride) == {1} and odd and window.padding == same and layer.padding_mode == "zeros"
    return window.dilation if dilated and stays else None


def find_row(run: Sequence[Any], input: torch.Tensor) -> PhaseRow | None:
    """Return the row of the table that says that a run is faster in phases for an input, or None."""
    convolutions = [layer for layer in run if dilation_of(layer)]
    first = convolutions[0]
    if input.dtype != torch.float32 or not unwatched(input, first.weight, first.bias) or not input.is_contiguous():
        return None
    if any(layer.groups != 1 for layer in convolutions):
        return None
    channels = {count for layer in convolutions for count in (layer.in_channels, layer.out_channels)}
    size = input.shape[-len(first.kernel_size) :]
    return find_phases(tuple(channels), size, first.dilation, recorded(input, first.weight))


def _is_pointwise(layer: Any) -> bool:
    if _is_watched(layer):
        return False
    kind = parametrize.type_before_parametrizations(layer)
    if kind in _CONVOLUTIONS:
        points = {*layer.kernel_size, *layer.stride} == {1}
        return points and layer.padding in (0, (0,) * len(layer.kernel_size), "valid", "same")
    return kind in _POINTWISE and not (kind in _NORMS and (layer.training or layer.running_mean is None))


def _is_watched(layer: torch.nn.Module) -> bool:
    """Return whether somebody looks at the calls of a layer, or runs another forward, as its own `compile` does."""
    other = "forward" in vars(layer) or layer._compiled_call_impl is not None
    return other or any(getattr(layer, name) for name in _HOOKS)


def _undilated(layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what a layer of a run is on phases."""
    convolve = _CONVOLUTIONS.get(parametrize.type_before_parametrizations(layer))
    if convolve is None:
        return layer  # type: ignore[no-any-return]
    return partial(convolve, weight=layer.weight, bias=layer.bias, padding="same", groups=layer.groups)
