"""Say what a network reads of its input: receptive field, gridding, cost, and a report with pictures."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.export import ExportedProgram

from atrous import analysis
from atrous._errors import AtrousError, CheckpointError, UnsupportedModule
from atrous._extras import need
from atrous._files import writable_folder
from atrous.analysis.equivariance import first_output
from atrous.footprint import Footprint, trace_footprint

TITLES = {
    "receptive_field": "Receptive field",
    "gridding": "Gridding",
    "cost": "Cost",
    "effective_receptive_field": "Effective receptive field",
    "equivariance": "Equivariance",
    "borders": "Borders",
}
"""Analysis -> its title."""

_ALWAYS = ("receptive_field", "gridding", "cost")  # Without them there is nothing to say.
_IMAGES = 8  # Of noise.


class _Result(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `atrous inspect`."""
    parser.add_argument(
        "network",
        metavar="NETWORK",
        help="what makes it, as package.module:callable or 'package.module:callable(11, 3)'; or a saved FILE.pt2",
    )
    parser.add_argument("--input", type=_shape, metavar="SIZES", help="shape of its input, as 1,3,512,512")
    parser.add_argument("--shifts", type=_pixels, metavar="PIXELS", help="measure the error of shifts up to this")
    parser.add_argument(
        "--borders", type=_pixels, metavar="PIXELS", help="measure the error of padding on such a window"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report with pictures (extra: plots)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(options: argparse.Namespace) -> None:
    """Inspect, print, and write the report."""
    if options.html:
        need("plots", "atrous inspect --html")
        writable_folder(options.html.parent)
    found: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, while it exports
        torch.manual_seed(0)  # of the weights that the network draws
        network, shape = load(options.network, options.input)
        for name, analyse in _analyses(network, shape, options).items():
            _tell(f"inspecting: {TITLES[name].lower()}")
            try:
                found[name] = analyse()
            except AtrousError as error:
                if name in _ALWAYS:
                    raise
                skipped[name] = str(error)
            finally:
                _tell("")
            if not options.json:
                print(f"{TITLES[name]}\n\n{found.get(name) or f'skipped: {skipped[name]}'}\n", flush=True)
    if options.html:
        from atrous.plots.inspection import Inspection, write_inspection

        write_inspection(Inspection(options.network, shape, **found, skipped=skipped), options.html)
    if options.json:
        results = {name: result.to_dict() for name, result in found.items()}
        print(json.dumps({"network": options.network, "input": shape, **results, "skipped": skipped}, indent=2))
    elif options.html:
        print(f"look at {options.html}")


def _analyses(
    network: torch.nn.Module | ExportedProgram, shape: tuple[int, ...], options: argparse.Namespace
) -> dict[str, Callable[[], _Result]]:
    """Return what is asked for: name -> how to work it out."""
    example = () if isinstance(network, ExportedProgram) else (torch.zeros(shape),)
    one_map = _Map(_Exported(network) if isinstance(network, ExportedProgram) else network)

    @cache
    def footprint() -> Footprint:
        return trace_footprint(network, *example)

    def noise(count: int, more: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, shape[1], *(size + more for size in shape[2:]), generator=generator)

    chosen: dict[str, Callable[[], _Result]] = {
        "receptive_field": lambda: analysis.receptive_field(footprint()),
        "gridding": lambda: analysis.gridding(footprint()),
        "cost": lambda: analysis.cost(network, *example),
        # As many at a time as the input has: an exported program takes no other number.
        "effective_receptive_field": lambda: analysis.effective_receptive_field(
            one_map, noise(-(-_IMAGES // shape[0]) * shape[0]), batch=shape[0]
        ),
    }
    if options.shifts is not None:
        chosen["equivariance"] = lambda: analysis.equivariance(one_map, noise(shape[0], options.shifts), options.shifts)
    if options.borders is not None:
        chosen["borders"] = lambda: analysis.borders(one_map, noise(shape[0]), size=options.borders)
    return chosen


def load(
    network: str, shape: tuple[int, ...] | None = None
) -> tuple[torch.nn.Module | ExportedProgram, tuple[int, ...]]:
    """Return a network by the words of the command line, and the shape of its input.

    The current directory is importable, as with `python -m`. Arguments are literals; nothing is evaluated.

    Args:
        network: `package.module:callable`, with arguments as in `package.module:callable(11, name='x')`, or the path
            of an exported program, `FILE.pt2`.
        shape: of the input; None is that for which a program was exported.

    Raises:
        AtrousError: words of another form, a module that cannot be imported, a name that it lacks, a call that fails,
            or a shape that is missing.
        UnsupportedModule: what is called returns no network.
        CheckpointError: a file that holds no exported program of a network, or one of another shape.

    Example:
        >>> load("torch.nn:Conv2d(3, 8, kernel_size=3)", (1, 3, 32, 32))
        (Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1)), (1, 3, 32, 32))
    """
    if network.endswith(".pt2"):
        return _saved(network, shape)
    if shape is None:
        raise AtrousError(
            f"{network}: got no --input, expected the shape of its input; give one, as --input 1,3,512,512"
        )
    return _built(network), shape


def _built(words: str) -> torch.nn.Module:
    module, names, args, kwargs = _parsed(words)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    # Whatever goes wrong in somebody else's module is one sentence here.
    try:
        made: Any = importlib.import_module(module)
    except Exception as error:
        raise AtrousError(f"{words}: {module} cannot be imported ({_reason(error)}); look at its name") from error
    try:
        for name in names:
            made = getattr(made, name)
    except AttributeError as error:
        raise AtrousError(f"{words}: {_reason(error)}; look at what {module} defines") from error
    try:
        built: object = made if isinstance(made, torch.nn.Module) else made(*args, **kwargs)
    except Exception as error:
        raise AtrousError(
            f"{words}: the call fails ({_reason(error)}); give arguments that fit, as in "
            f"'{module}:{'.'.join(names)}(11, 3)'"
        ) from error
    if not isinstance(built, torch.nn.Module):
        raise UnsupportedModule(
            f"{words}: got {type(built).__name__}, expected a torch.nn.Module; name a class of networks or a function "
            "that returns one"
        )
    return built


def _parsed(words: str) -> tuple[str, list[str], list[Any], dict[str, Any]]:
    """Return (module, names inside of it, arguments, arguments by name)."""
    module, _, call = words.partition(":")
    try:
        tree = ast.parse(call.strip(), mode="eval").body
        args, keywords = (tree.args, tree.keywords) if isinstance(tree, ast.Call) else ([], [])
        target = ast.unparse(tree.func if isinstance(tree, ast.Call) else tree)
        kwargs = {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in keywords}
        values = [ast.literal_eval(value) for value in args]
    except (SyntaxError, ValueError):
        target, values, kwargs = "", [], {}
    names = target.split(".")
    if not all(name.isidentifier() for name in (*module.split("."), *names, *kwargs)):
        raise AtrousError(
            f"got {words!r}, expected package.module:callable, package.module:callable(11, name='x') with literal "
            "arguments, or a FILE.pt2"
        )
    return module, names, values, kwargs


def _saved(path: str, shape: tuple[int, ...] | None) -> tuple[torch.nn.Module | ExportedProgram, tuple[int, ...]]:
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise CheckpointError(f"{path}: holds no exported program; write one by torch.export.save") from error
    made = {node.name: node.meta.get("val") for node in program.graph.nodes}
    first = next((made.get(name) for name in program.graph_signature.user_inputs), None)
    if not isinstance(first, torch.Tensor):
        raise CheckpointError(f"{path}: got a program without a tensor as first input, expected one that takes images")
    sizes = tuple(first.shape)
    if all(isinstance(size, int) for size in sizes):
        if shape not in (None, sizes):
            got, expected = (",".join(map(str, one)) for one in (shape or (), sizes))
            raise CheckpointError(f"{path}: got --input {got}, expected {expected}, as it was exported; leave it out")
        return program, sizes
    if shape is None:
        raise CheckpointError(f"{path}: was exported for open sizes; give those to look at, as --input 1,3,512,512")
    return _Exported(program), shape  # The names of its layers are lost on the way.


class _Exported(torch.nn.Module):
    """An exported program as a module like others: its mode is that of the export, and does not change."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        # Without in-place operations, which another export of it would refuse.
        self.program = program.run_decompositions({}).module()

    def train(self, mode: bool = True) -> _Exported:
        return self

    def forward(self, *inputs: torch.Tensor) -> object:
        return self.program(*inputs)


class _Map(torch.nn.Module):
    """The first output of a network as (B, D, *P): of scores (B, D) a map of one pixel."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        output = first_output(self.network(image))
        return output.reshape(*output.shape, *(1,) * (image.ndim - output.ndim))


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) < 3 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected 3 or more sizes of at least 1, such as 1,3,512,512")
    return sizes


def _pixels(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of pixels, at least 1")
    return int(text)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _tell(text: str) -> None:
    """Say on a terminal what is going on; the next text replaces it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
