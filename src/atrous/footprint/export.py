"""A module as a graph of operators: exported without in-place operations, its constants and its arguments by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_map

from atrous._errors import ShapeError, UnsupportedModule


def export(
    verb: str, model: torch.nn.Module | ExportedProgram, example_inputs: tuple[torch.Tensor, ...]
) -> ExportedProgram:
    """Return a network in evaluation mode as a graph without in-place operations, and with all others as they are.

    Raises:
        ShapeError: no example input, one on which the network does not run, or one beside an exported program.
        UnsupportedModule: a network that cannot be exported.
    """
    if isinstance(model, ExportedProgram) and example_inputs:
        raise ShapeError(
            f"{verb}: got an exported program and {len(example_inputs)} example inputs, expected the program alone, "
            "whose sizes are those of its export; leave them out, or give the module itself"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own
        program = model if isinstance(model, ExportedProgram) else _exported(verb, model, example_inputs)
        try:
            functional: ExportedProgram = program.run_decompositions({})
            return functional
        except Exception as error:
            raise UnsupportedModule(
                f"{verb}: the exported program cannot be made functional: {_first_line(error)}; give the module itself"
            ) from error


def _exported(verb: str, model: torch.nn.Module, example_inputs: tuple[torch.Tensor, ...]) -> ExportedProgram:
    if not isinstance(model, torch.nn.Module):
        raise UnsupportedModule(f"{verb}: got {type(model).__name__}, expected a torch.nn.Module; wrap it in one")
    if not example_inputs or not isinstance(example_inputs[0], torch.Tensor):
        got = type(example_inputs[0]).__name__ if example_inputs else "no example input"
        raise ShapeError(f"{verb}: got {got}, expected a tensor (B, C, *S) such as the network takes")
    with evaluating(model):
        try:
            return torch.export.export(model, example_inputs, strict=False)
        except Exception as error:
            _check_runs(verb, model, example_inputs)
            raise UnsupportedModule(
                f"{verb}: {type(model).__name__} cannot be exported: {_first_line(error)}; "
                "write its control flow without values of tensors, or trace the part behind it"
            ) from error


def _check_runs(verb: str, model: torch.nn.Module, example_inputs: tuple[Any, ...]) -> None:
    """Run a network that cannot be exported: if that fails as well, the example is wrong, and not its control flow."""
    own = tree_map(lambda one: one.detach().clone() if isinstance(one, torch.Tensor) else one, example_inputs)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(*own)
    except Exception as error:
        raise ShapeError(
            f"{verb}: {type(model).__name__} does not run on the example: {_first_line(error).rstrip('.')}; "
            "give every input that it takes, in shapes that it takes"
        ) from error


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode for a while; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def constants(program: ExportedProgram) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the tensors that a program holds by the names of its placeholders, and the names of its inputs."""
    fixed: dict[str, torch.Tensor] = {}
    inputs: list[str] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(spec.arg.name)
        elif spec.target in program.state_dict:
            fixed[spec.arg.name] = program.state_dict[spec.target]
        elif spec.target in program.constants:
            fixed[spec.arg.name] = program.constants[spec.target]
    # And integers that are made of fixed ones, which rules read: the offsets of taps are a constant's copy.
    for node in program.graph.nodes:
        value, sources = node.meta.get("val"), node.all_input_nodes
        whole = isinstance(value, torch.Tensor) and not value.is_floating_point()
        if whole and sources and all(source.name in fixed for source in sources):
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda source: fixed[source.name])
            fixed[node.name] = node.target(*args, **kwargs)
    return fixed, inputs


def arguments(node: torch.fx.Node, known: dict[str, Any], fixed: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return the arguments of a call by name: what is known of them, or fixed, or else fake tensors."""

    def settle(value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            return known.get(value.name, fixed.get(value.name, value.meta.get("val")))
        return [settle(one) for one in value] if isinstance(value, (list, tuple)) else value

    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {f"argument {index}": settle(value) for index, value in enumerate(node.args)}
    names = [argument.name for argument in schema.arguments]
    found = {argument.name: argument.default_value for argument in schema.arguments}
    found.update(zip(names, map(settle, node.args), strict=False))
    found.update({name: settle(value) for name, value in node.kwargs.items()})
    return found


def module_of(node: torch.fx.Node) -> str:
    """Return the dotted name of the module that makes a call; '' is the network itself."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def operator_of(node: torch.fx.Node) -> str:
    """Return the operator of a call, as `aten.relu`: without the name of the overload."""
    return str(node.target).rpartition(".")[0] or str(node.target)


def short_name(operator: str) -> str:
    """Return what readers know an operator by.

    Example:
        >>> short_name("aten._native_batch_norm_legit_no_training"), short_name("aten.relu")
        ('batch_norm', 'relu')
    """
    name = operator.rpartition(".")[2]
    return "batch_norm" if "batch_norm" in name else name
