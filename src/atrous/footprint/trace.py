"""From a module to its footprint: export, then one rule per operator.

Legend: N axes, *S input size.
"""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any, cast

import torch
from torch.export import ExportedProgram

import atrous.footprint.products
import atrous.footprint.shapes  # noqa: F401 - both register their rules
from atrous._errors import ShapeError
from atrous.footprint.call import Call
from atrous.footprint.export import arguments, constants, export, module_of, operator_of, short_name
from atrous.footprint.footprint import Footprint
from atrous.footprint.graph import INPUT, Edge, Node
from atrous.footprint.rules import find


def trace_footprint(model: torch.nn.Module | ExportedProgram, *example_inputs: torch.Tensor) -> Footprint:
    """Return what the outputs of a network read of its first input, exactly.

    The network is exported (`torch.export`) in evaluation mode, where batch norm is pointwise; it is left as it was.
    The axes are the dims of the first input behind batch and channels. Sizes are those of the example.

    Args:
        model: any module, or an exported program, which needs no example.
        example_inputs: what the network takes; the first is (B, C, *S).

    Raises:
        UnsupportedModule: a network that cannot be exported (control flow that depends on values), or an operator
            without a rule; `rule` adds one.
        ShapeError: a first input without a spatial axis, or an output that does not depend on it.

    Source: Araujo, Norris and Sim 2019, for chains; here for graphs, with holes, phases and borders.

    Example:
        >>> stack = torch.nn.Sequential(*[torch.nn.Conv2d(1, 1, 3, dilation=2) for _ in range(3)])
        >>> footprint = trace_footprint(stack, torch.zeros(1, 1, 32, 32))
        >>> footprint.receptive_field, len(footprint.taps(0))
        ((13, 13), 7)
    """
    program = export("trace_footprint", model, example_inputs)
    fixed, inputs = constants(program)
    first = next(node for node in program.graph.nodes if node.name == inputs[0])
    shape = tuple(first.meta["val"].shape)
    if len(shape) < 3:
        raise ShapeError(f"trace_footprint: got a first input of shape {shape}, expected (B, C, *S) with spatial axes")
    if not all(type(size) is int for size in shape):
        raise ShapeError(
            f"trace_footprint: got a program for open sizes {shape}, expected fixed ones; export it for one image"
        )
    axes = len(shape) - 2
    dims = ((), (), *((axis,) for axis in range(axes)))
    known: dict[str, Node | dict[str, Any]] = {first.name: Node(first.name, INPUT, "", shape, dims, shape[2:], ())}
    for node in program.graph.nodes:
        if node.op == "call_function" and (found := _follow(node, known, fixed, axes)) is not None:
            known[node.name] = found
    outputs = [one for name in program.graph_signature.user_outputs if isinstance(one := known.get(str(name)), Node)]
    if not outputs:
        raise ShapeError("trace_footprint: no output depends on the first input; expected a network that reads it")
    return Footprint(outputs[0], tuple(outputs), tuple(node for node in known.values() if isinstance(node, Node)))


def _follow(
    node: torch.fx.Node, known: dict[str, Node | dict[str, Any]], fixed: dict[str, torch.Tensor], axes: int
) -> Node | dict[str, Any] | None:
    """Return the node of a call, or its arguments if it has several results, or None if it depends on no input."""
    if node.target is operator.getitem:
        source, index = cast(tuple[torch.fx.Node, int], node.args)
        maker = known.get(source.name)
        return _node(node, source, index, maker, axes) if isinstance(maker, dict) else None
    value = node.meta.get("val")
    if value is None:
        return None  # an assertion
    named = arguments(node, known, fixed)
    values = [one for value in named.values() for one in (value if isinstance(value, (list, tuple)) else [value])]
    if not any(isinstance(one, Node) for one in values) or _creates(node):
        return None
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        # A number out of a tensor, as `item()` makes: all of it decides.
        edges = tuple(Edge(one, (None,) * axes) for one in values if isinstance(one, Node))
        return Node(node.name, short_name(operator_of(node)), module_of(node), (), (), (1,) * axes, edges)
    if isinstance(value, torch.Tensor):
        return _node(node, node, 0, named, axes)
    return named


def _creates(node: torch.fx.Node) -> bool:
    """Return whether a call takes from its arguments their shape alone."""
    name = str(node.target).split(".")[-2:][0]
    return name.endswith("_like") or name.startswith(("new_", "sym_"))


def _node(node: torch.fx.Node, caller: torch.fx.Node, index: int, named: dict[str, Any], axes: int) -> Node:
    """Return the node of one result of a call."""
    values = caller.meta["val"]
    values = [values] if isinstance(values, torch.Tensor) else values
    module = module_of(caller)
    name = operator_of(caller)
    shapes = [tuple(value.shape) for value in values]
    call = Call(name, named, shapes, index, axes, module)
    rule = find(caller.target)
    if rule is None:
        raise call.unsupported()
    edges = rule(call)
    # What the rule did not name may still decide: a weight that another part of the network makes, or the input itself.
    told = Counter(id(edge.source) for edge in edges)
    given = Counter(id(source) for source in call.sources)
    edges += [Edge(source, (None,) * axes) for source in call.sources if given[id(source)] > told[id(source)]]
    sizes = tuple(_size(axis, call, edges) for axis in range(axes))
    return Node(node.name, short_name(name), module, call.shape, call.dims, sizes, tuple(edges))


def _size(axis: int, call: Call, edges: list[Edge]) -> int:
    """Return how many pixels a result has along an axis."""
    for dim, held in enumerate(call.dims):
        if held == (axis,):
            return call.shape[dim]
        if axis in held:
            return next((edge.source.sizes[axis] for edge in edges if edge.source.sizes[axis] > 1), 1)
    return 1
