"""How far each layer of a network sees, and the network as a whole, per axis.

Legend: *S input size, p output index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch.export import ExportedProgram

from atrous._table import aligned
from atrous.footprint import Footprint, trace_footprint


@dataclass(frozen=True)
class LayerField:
    """Say what the outputs of one layer see of the network's input, per axis.

    Args:
        module: dotted name of the module; '' is the network itself.
        operator: what it calls.
        receptive_field: pixels from the first to the last that one output reads, both counted; where global, all.
        stride: input pixels from one output to the next; None where there is no one rate.
        offset: the first pixel that output 0 reads; below 0 it is minus the padding of all layers together.
        size: outputs; 1 along an axis that the layer has no more.
        globals: whether each output reads the whole axis.
        changes: whether no tensor that the layer reads has the same numbers.

    Example:
        >>> from atrous.analysis import receptive_field
        >>> layer = receptive_field(torch.nn.Conv1d(1, 1, 3, dilation=2), torch.zeros(1, 1, 9)).layers[-1]
        >>> layer.operator, layer.receptive_field, layer.size
        ('conv1d', (5,), (5,))
    """

    module: str
    operator: str
    receptive_field: tuple[int, ...]
    stride: tuple[Fraction | None, ...]
    offset: tuple[int, ...]
    size: tuple[int, ...]
    globals: tuple[bool, ...]
    changes: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain objects, for JSON; strides as text, such as '1/2'."""
        return {
            "module": self.module,
            "operator": self.operator,
            "receptive_field": list(self.receptive_field),
            "stride": [None if rate is None else str(rate) for rate in self.stride],
            "offset": list(self.offset),
            "size": list(self.size),
            "global": list(self.globals),
            "changes": self.changes,
        }


@dataclass(frozen=True)
class ReceptiveFields:
    """Say what each layer of a network sees of its input, and what its output sees. `receptive_field` makes it.

    Printed, it leaves out the layers that change nothing against what they read, as batch norm. One number stands for
    all axes where they agree.

    Args:
        layers: one for each call of an operator, in order, the input first.
        whole: the output.

    Example:
        >>> from atrous.analysis import receptive_field
        >>> print(receptive_field(torch.nn.Conv1d(1, 1, 3, dilation=2), torch.zeros(1, 1, 9)))
        module  operator  receptive field  stride  offset  size
                input                   1       1       0     9
                conv1d                  5       1       0     5
                output                  5       1       0     5
    """

    layers: tuple[LayerField, ...]
    whole: LayerField

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain objects, for JSON."""
        return {"layers": [layer.to_dict() for layer in self.layers], "whole": self.whole.to_dict()}

    def __str__(self) -> str:
        head = ("module", "operator", "receptive field", "stride", "offset", "size")
        rows = [_row(layer.module, layer.operator, layer) for layer in self.layers if layer.changes]
        return aligned([head, *rows, _row("", "output", self.whole)])


def receptive_field(
    model: torch.nn.Module | ExportedProgram | Footprint, *example_inputs: torch.Tensor
) -> ReceptiveFields:
    """Return the receptive field, stride and offset of every layer of a network, and of the whole, per axis.

    A field is that of an output far from every border; holes in it count as seen. Let the example be large: of a layer
    of `atrous` whose dilation exceeds its map, the outer taps read nothing, and are left out.

    Args:
        model: any module or exported program, as `trace_footprint` takes it, or a footprint, which needs no example
            and whose output is the whole.
        example_inputs: what the network takes; the first is (B, C, *S).

    Raises:
        UnsupportedModule: a network that cannot be traced.
        ShapeError: inputs that do not fit, see `trace_footprint`.

    Source: Araujo, Norris and Sim 2019.

    Example:
        >>> from torch import nn
        >>> stack = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(1, 1, (3, 5)))
        >>> print(receptive_field(stack, torch.zeros(1, 1, 32, 32)))
        module  operator    receptive field  stride  offset   size
                input                     1       1       0     32
             0  conv2d                    3       1      -1     32
             2  max_pool2d                4       2      -1     16
             3  conv2d                 8x12       2      -1  14x12
                output                 8x12       2      -1  14x12
    """
    footprint = model if isinstance(model, Footprint) else trace_footprint(model, *example_inputs)
    seen: dict[int, tuple[object, ...]] = {}
    layers = []
    for layer in footprint.layers:
        node = layer.node
        numbers = (layer.receptive_field, layer.stride, layer.offset, layer.output_size, layer.globals)
        changes = all(seen[id(edge.source)] != numbers for edge in node.edges)
        seen[id(node)] = numbers
        layers.append(LayerField(node.module, node.operator, *numbers, changes))
    whole = layers[footprint.nodes.index(footprint.node)]
    return ReceptiveFields(tuple(layers), whole)


def _row(module: str, operator: str, layer: LayerField) -> tuple[str, ...]:
    fields = [
        "all" if everything else extent for extent, everything in zip(layer.receptive_field, layer.globals, strict=True)
    ]
    strides = ["-" if rate is None else rate for rate in layer.stride]
    return (module, operator, _joined(fields), _joined(strides), _joined(layer.offset), _joined(layer.size))


def _joined(numbers: Sequence[object]) -> str:
    """Return one number where all axes agree, else all of them."""
    texts = [str(number) for number in numbers]
    return texts[0] if len(set(texts)) == 1 else "x".join(texts)
