"""Rules of products: matrices, einsum and attention, each as labels for the dims of its tensors.

A label that the result has too is a dim that is kept; all others are summed over, and read as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch

from atrous.footprint.call import Call
from atrous.footprint.graph import Edge, Local, Node
from atrous.footprint.rules import rule

aten = torch.ops.aten

Labels: TypeAlias = Sequence[str | int]
"""One for each dim: letters, and below 0 those that are broadcast, counted from the last one."""


def _product(call: Call, operands: Iterable[tuple[Any, Labels]], result: Labels) -> list[Edge]:
    parts = []
    for operand, labels in operands:
        if isinstance(operand, Node):
            lies: list[tuple[int, ...]] = [()] * len(result)
            summed: dict[int, Local] = {}
            for dim, (label, size) in enumerate(zip(labels, operand.shape, strict=True)):
                at = result.index(label) if label in result else None
                if at is not None and size == call.shape[at]:
                    lies[at] = operand.dims[dim]
                elif size > 1:  # also heads of keys that several heads of queries share
                    summed[dim] = None
            parts.append((call.edge(operand, summed), tuple(lies)))
    return call.joined(parts)


def _broadcast(ndim: int) -> list[str | int]:
    return list(range(-max(ndim, 0), 0))


def _last(labels: Labels, tensor: Any) -> Labels:
    """Return the labels of a tensor that may lack the first ones."""
    return labels[len(labels) - len(tensor.shape) :]


@rule(aten.matmul, aten.mm, aten.bmm, aten.mv, aten.dot, aten.addmm, aten.addmv, aten.baddbmm)
def _matmul(call: Call) -> list[Edge]:
    *added, first, second = call.tensors
    rows, columns = len(first.shape), len(second.shape)
    left = [*_broadcast(rows - 2), "row", "sum"][-rows:]
    right = [*_broadcast(columns - 2), "sum", "column"] if columns > 1 else ["sum"]
    batch = _broadcast(max(rows, columns) - 2)
    result = [*batch, *["row"][: rows - 1], *["column"][: columns - 1]]
    return _product(call, [(first, left), (second, right), *((one, _last(result, one)) for one in added)], result)


@rule(aten.scaled_dot_product_attention)
def _attention(call: Call) -> list[Edge]:
    batch = _broadcast(len(call.shape) - 2)
    named: dict[str, Labels] = {
        "query": [*batch, "target", "feature"],
        "key": [*batch, "source", "feature"],
        "value": [*batch, "source", "channel"],
        "attn_mask": [*batch, "target", "source"],
    }
    operands = [(call[name], _last(labels, call[name])) for name, labels in named.items() if call.is_source(name)]
    return _product(call, operands, [*batch, "target", "channel"])


@rule(aten.einsum)
def _einsum(call: Call) -> list[Edge]:
    inputs, arrow, output = call["equation"].replace(" ", "").partition("->")
    tensors = call["tensors"]
    if not arrow:  # what comes once, in the order of the alphabet
        output = "..." + "".join(sorted(letter for letter in set(inputs) - {".", ","} if inputs.count(letter) == 1))
    terms = [_labels(term, tensor) for term, tensor in zip(inputs.split(","), tensors, strict=True)]
    if any(len(set(term)) < len(term) for term in terms):
        return call.everything_of_all()  # a diagonal holds two axes in one dim
    return _product(call, zip(tensors, terms, strict=True), _labels(output, call))


def _labels(term: str, tensor: Any) -> Labels:
    before, _, after = term.partition("...")
    return [*before, *_broadcast(len(tensor.shape) - len(before) - len(after)), *after]
