"""What a network costs, call by call: multiply-accumulates, parameters, bytes, and taps that fall on padding.

Legend: B batch, C in, D out, *S input size, *P output size, N axes, T taps; n pixels, k taps, d channels.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from atrous._errors import ShapeError
from atrous._table import aligned
from atrous.footprint.call import Call
from atrous.footprint.export import arguments, constants, export, module_of, operator_of, short_name

aten = torch.ops.aten


@dataclass(frozen=True)
class LayerCost:
    """Say what one call of an operator costs.

    Args:
        module: dotted name of the module that calls; '' is the network itself.
        operator: what is called.
        shape: of its result.
        macs: multiply-accumulates.
        parameters: of the network, each counted where it is used first.
        bytes: of all that is read (inputs, weights) and written.
        padding: share of the taps that fall on zeros outside of the input; None for what is no convolution.

    Example:
        >>> from atrous.analysis import cost
        >>> layer = cost(torch.nn.Conv1d(1, 1, 3, padding=1), torch.zeros(1, 1, 9)).layers[0]
        >>> layer.macs, layer.padding
        (27, Fraction(2, 27))
    """

    module: str
    operator: str
    shape: tuple[int, ...]
    macs: int
    parameters: int
    bytes: int
    padding: Fraction | None

    @property
    def name(self) -> str:
        """The module and the operator."""
        return f"{self.module}.{self.operator}".lstrip(".")

    @property
    def intensity(self) -> float:
        """MACs per byte."""
        return self.macs / self.bytes if self.bytes else 0.0


@dataclass(frozen=True)
class Cost:
    """Say what a network costs for one example, layer by layer and in total. `cost` makes it.

    Args:
        layers: one entry per call of an operator, in order; views cost nothing and are left out.

    Example:
        >>> from atrous.analysis import cost
        >>> print(cost(torch.nn.Conv1d(1, 1, 3, padding=1), torch.zeros(1, 1, 9)))
        layer   output  MACs  parameters  bytes  MACs/byte  on padding
        conv1d  1x1x9     27           4     88        0.3        7.4%
        total             27           4     88        0.3        7.4%
    """

    layers: tuple[LayerCost, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layers."""
        return sum(layer.macs for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Parameters that are used."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Bytes read and written by all layers, each by itself."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def intensity(self) -> float:
        """MACs per byte."""
        return self.macs / self.bytes if self.bytes else 0.0

    @property
    def padding(self) -> Fraction | None:
        """Share of the MACs of all convolutions that fall on padding; None without a convolution."""
        found = [(layer.macs, layer.padding) for layer in self.layers if layer.padding is not None]
        macs = sum(macs for macs, _ in found)
        return sum((macs * share for macs, share in found), Fraction(0)) / macs if macs else None

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain objects, for JSON."""
        layers = [{"name": layer.name, "shape": list(layer.shape), **_numbers(layer)} for layer in self.layers]
        return {"layers": layers, "total": _numbers(self)}

    def __str__(self) -> str:
        head = ("layer", "output", "MACs", "parameters", "bytes", "MACs/byte", "on padding")
        rows = [(layer.name, "x".join(map(str, layer.shape)), *_cells(layer)) for layer in self.layers]
        return aligned([head, *rows, ("total", "", *_cells(self))])


def cost(model: torch.nn.Module | ExportedProgram, *example_inputs: torch.Tensor) -> Cost:
    """Return what a network costs for the example: MACs, parameters, bytes, and the share of taps on padding.

    Layers are calls of operators in the exported network, so functional calls count like modules. Convolutions,
    matrix products and attention have MACs; all others have 0. Bytes are those of every tensor that a call reads or
    writes, as if nothing stayed in a cache. The network is not run.

    A convolution with k taps (9 for 3x3) from d channels to d channels at n pixels takes n k d^2 MACs: d is the number
    of channels. Dilation is not in the formula; it moves taps, and those that it moves off the image multiply zeros. A
    'same' 3x3 convolution of dilation r on n x n pixels has the share ((1 + 2 max(0, n - r) / n) / 3)^2 of its taps on
    the image. What another layer has padded before, as reflection does, counts as pixels.

    Args:
        model: any module, or an exported program, which needs no example.
        example_inputs: what the network takes; their shapes and types count.

    Raises:
        UnsupportedModule: a network that cannot be exported.
        ShapeError: an example that the network does not take, or a program for open sizes.

    Source: for the share of taps, Chen et al. 2017, section 3.3 and figure 4.

    Example:
        >>> stack = torch.nn.Sequential(*[torch.nn.Conv2d(8, 8, 3, padding=r, dilation=r) for r in (1, 16)])
        >>> found = cost(stack, torch.zeros(1, 8, 32, 32))
        >>> found.macs == 2 * (32 * 32) * 9 * 8**2
        True
        >>> print(found)
        layer     output        MACs  parameters   bytes  MACs/byte  on padding
        0.conv2d  1x8x32x32   589824         584   67872        8.7        4.1%
        1.conv2d  1x8x32x32   589824         584   67872        8.7       55.6%
        total                1179648        1168  135744        8.7       29.8%
    """
    program = export("cost", model, example_inputs)
    fixed, inputs = constants(program)
    _check_sizes(program, inputs)
    parameters = program.graph_signature.inputs_to_parameters
    waiting = {id(fixed[name]): fixed[name].numel() for name in parameters}
    layers = []
    for node in program.graph.nodes:
        if node.op == "call_function" and not _free(node):
            held = {id(fixed[one]) for one in map(_origin, node.all_input_nodes) if one in fixed}
            count = sum(waiting.pop(one, 0) for one in held)
            layers.append(_layer(node, fixed, count))
    return Cost(tuple(layers))


def _check_sizes(program: ExportedProgram, inputs: Sequence[str]) -> None:
    for node in program.graph.nodes:
        shape = tuple(getattr(node.meta.get("val"), "shape", ()))
        if node.name in inputs and not all(type(size) is int for size in shape):
            sizes = ", ".join(map(str, shape))
            raise ShapeError(
                f"cost: got a program for open sizes ({sizes}), expected fixed ones; export it for one image"
            )


def _layer(node: torch.fx.Node, fixed: dict[str, torch.Tensor], parameters: int) -> LayerCost:
    values = [value for value in tree_leaves(node.meta["val"]) if isinstance(value, torch.Tensor)]
    shapes = [tuple(value.shape) for value in values]
    name = short_name(operator_of(node))
    call = Call(name, arguments(node, {}, fixed), shapes, 0, 0, module_of(node))
    tensors = [*values, *(one.meta["val"] for one in node.all_input_nodes)]
    size = sum(one.numel() * one.element_size() for one in tensors if isinstance(one, torch.Tensor))
    taps = _taps(call)
    share = None if taps is None else _on_padding(*taps)
    return LayerCost(call.module, name, shapes[0], _macs(node), parameters, size, share)


def _free(node: torch.fx.Node) -> bool:
    """Return whether a call moves nothing: a view, one of several results, or a dropout in evaluation mode."""
    if node.target is aten.clone.default:
        return "memory_format" not in node.kwargs  # with one, it is a copy into another layout
    view = node.target in (operator.getitem, aten._unsafe_view.default) or getattr(node.target, "is_view", False)
    # A switch of autocast has no value at all.
    return bool(view) or not any(isinstance(value, torch.Tensor) for value in tree_leaves(node.meta.get("val")))


def _origin(node: torch.fx.Node) -> str:
    """Return the name of what a tensor is a view of: a weight that is cut or transposed is still that weight."""
    while node.op == "call_function" and _free(node):
        node = node.all_input_nodes[0]
    return node.name


def _macs(node: torch.fx.Node) -> int:
    """Return half of the operations that torch's formulas count for one call."""
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda one: one.meta["val"])
    with tree_leaves(node.meta["val"])[0].fake_mode, FlopCounterMode(display=False) as counter:
        node.target(*args, **kwargs)  # type: ignore[operator]
    return int(counter.get_total_flops()) // 2


def _taps(call: Call) -> tuple[torch.Tensor, Sequence[int], Sequence[int], Sequence[int], Sequence[int]] | None:
    """Return (offsets (T, N), stride, upsample, S, P) of a convolution: p reads (p stride + offset) / upsample."""
    if call.operator == "tap_conv":
        offsets = call.value("offsets").cpu()
        ndim = offsets.shape[-1]
        sizes = call.shape_of("input")[-ndim:], call.shape[-ndim:]
        return offsets.reshape(-1, ndim), call["stride"], call["upsample"], *sizes
    if not call.operator.startswith("conv"):
        return None
    kernel = call.shape_of("weight")[2:]
    ndim = len(kernel)
    stride, dilation = call.per_axis("stride", ndim), call.per_axis("dilation", ndim)
    if isinstance(call["padding"], str):
        same = call["padding"] == "same"
        before = [d * (k - 1) // 2 if same else 0 for k, d in zip(kernel, dilation, strict=True)]
    else:
        before = call.per_axis("padding", ndim)
    along = [torch.arange(k) * d - b for k, d, b in zip(kernel, dilation, before, strict=True)]
    offsets = torch.cartesian_prod(*along).reshape(-1, ndim)
    sizes = call.shape_of("input")[-ndim:], call.shape[-ndim:]
    if "transpose" in call.operator or call.get("transposed"):
        return -offsets, [1] * ndim, stride, *sizes
    return offsets, stride, [1] * ndim, *sizes


def _on_padding(
    offsets: torch.Tensor, stride: Sequence[int], upsample: Sequence[int], size: Sequence[int], outputs: Sequence[int]
) -> Fraction:
    """Return the share of all reads that lie outside of the input, counted in integers."""
    reads = inside = torch.ones(len(offsets), dtype=torch.int64)
    for axis, along in enumerate(offsets.T):
        places = torch.arange(outputs[axis])[:, None] * stride[axis] + along
        read = places % upsample[axis] == 0
        reads = reads * read.sum(0)
        inside = inside * (read & (places >= 0) & (places < size[axis] * upsample[axis])).sum(0)
    total = int(reads.sum())
    return 1 - Fraction(int(inside.sum()), total) if total else Fraction(0)


def _numbers(one: LayerCost | Cost) -> dict[str, Any]:
    padding = None if one.padding is None else float(one.padding)
    return {
        "macs": one.macs,
        "parameters": one.parameters,
        "bytes": one.bytes,
        "intensity": one.intensity,
        "padding": padding,
    }


def _cells(one: LayerCost | Cost) -> tuple[object, ...]:
    padding = "-" if one.padding is None else f"{100 * float(one.padding):.1f}%"
    return one.macs, one.parameters, one.bytes, f"{one.intensity:.1f}", padding
