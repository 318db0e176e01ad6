"""Say what a network reads of its input: receptive field, gridding, cost, and a report with pictures."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch.export import ExportedProgram

from atrous import analysis
from atrous._errors import AtrousError, CheckpointError, DataError, ShapeError, UnsupportedModule
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
_MOST_IMAGES = 64  # Of a folder: enough for a mean, few enough for memory.
_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}

_Shape: TypeAlias = tuple[int, ...]
_Network: TypeAlias = torch.nn.Module | ExportedProgram


class _Result(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `atrous inspect`."""
    parser.add_argument(
        "network",
        metavar="NETWORK",
        help="what makes it, as package.module:callable or 'package.module:callable(11, 3)'; or a saved FILE.pt2",
    )
    parser.add_argument(
        "--input",
        type=_shape,
        action="append",
        metavar="SIZES",
        help="shape of its input, as 1,3,512,512; of several inputs, one each: the first is the one that is read",
    )
    parser.add_argument(
        "--images",
        type=Path,
        action="append",
        metavar="PATH",
        help="an image file or a folder of them, for the effective receptive field instead of noise (extra: train)",
    )
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
        network, shapes = load(options.network, options.input or ())
        images = read_images(options.images, shapes[0]) if options.images else None
        for name, analyse in _analyses(network, shapes, images, options).items():
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
    given: dict[str, Any] = {"others": shapes[1:], "on_noise": images is None}
    if options.html:
        from atrous.plots.inspection import Inspection, write_inspection

        write_inspection(Inspection(options.network, shapes[0], **found, **given, skipped=skipped), options.html)
    if options.json:
        results = {name: result.to_dict() for name, result in found.items()}
        whole = {"network": options.network, "input": shapes[0], **given, **results, "skipped": skipped}
        print(json.dumps(whole, indent=2))
    elif options.html:
        print(f"look at {options.html}")


def _analyses(
    network: _Network, shapes: Sequence[_Shape], images: torch.Tensor | None, options: argparse.Namespace
) -> dict[str, Callable[[], _Result]]:
    """Return what is asked for: name -> how to work it out."""
    shape = shapes[0]
    example = () if isinstance(network, ExportedProgram) else tuple(map(torch.zeros, shapes))
    one_map = _Map(_Exported(network) if isinstance(network, ExportedProgram) else network, shapes[1:])

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
            one_map, noise(-(-_IMAGES // shape[0]) * shape[0]) if images is None else images, batch=shape[0]
        ),
    }
    if options.shifts is not None:
        chosen["equivariance"] = lambda: analysis.equivariance(one_map, noise(shape[0], options.shifts), options.shifts)
    if options.borders is not None:
        chosen["borders"] = lambda: analysis.borders(one_map, noise(shape[0]), size=options.borders)
    return chosen


def load(network: str, shapes: Sequence[_Shape] = ()) -> tuple[_Network, tuple[_Shape, ...]]:
    """Return a network by the words of the command line, and the shapes of its inputs.

    The current directory is importable, as with `python -m`. Arguments are literals; nothing is evaluated.

    Args:
        network: `package.module:callable`, with arguments as in `package.module:callable(11, name='x')`, or the path
            of an exported program, `FILE.pt2`.
        shapes: of the inputs; without any, those for which a program was exported.

    Raises:
        AtrousError: words of another form, a module that cannot be imported, a name that it lacks, a call that fails,
            or a shape that is missing.
        UnsupportedModule: what is called returns no network.
        CheckpointError: a file that holds no exported program of a network, or one of another shape.

    Example:
        >>> load("torch.nn:Conv2d(3, 8, kernel_size=3)", [(1, 3, 32, 32)])
        (Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1)), ((1, 3, 32, 32),))
    """
    if network.endswith(".pt2"):
        return _saved(network, tuple(shapes))
    if not shapes:
        raise AtrousError(
            f"{network}: got no --input, expected the shape of its input; give one, as --input 1,3,512,512"
        )
    return _built(network), tuple(shapes)


def read_images(paths: Sequence[Path], shape: _Shape) -> torch.Tensor:
    """Read image files as a network's input, each standardised to mean 0 and standard deviation 1.

    Each is scaled until it covers the input, and its middle is cut out. Of more than 64 images, 64 are taken, evenly.

    Args:
        paths: image files, or folders of them.
        shape: of the input, (B, C, H, W).

    Returns:
        (N, C, H, W).

    Raises:
        ShapeError: an input that no image fits.
        DataError: a path that is absent, a folder without an image, a file that cannot be read, or a number of images
            that is no multiple of B.
        MissingExtra: without the extra `train`, which reads them.
    """
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise ShapeError(
            f"--images: got an input of {','.join(map(str, shape))}, expected B,1,H,W (grey) or B,3,H,W (RGB); "
            "leave --images out to measure on noise"
        )
    need("train", "atrous inspect --images")
    from atrous.train.data import read_image, standardise

    files = _evenly([file for path in paths for file in _image_files(path)])
    if len(files) % shape[0]:
        raise DataError(
            f"--images: got {len(files)} images, expected a multiple of the batch of {shape[0]}; "
            "give --input a batch of 1"
        )
    return torch.stack([standardise(_covering(read_image(file, shape[1]), shape[2:])) for file in files])


def _image_files(path: Path) -> list[Path]:
    if not path.exists():
        raise DataError(f"{path}: no such image file or folder")
    if path.is_file():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not found:
        raise DataError(f"{path}: holds no image, expected a folder with JPEG, PNG or TIFF files; give another folder")
    return found


def _evenly(files: Sequence[Path]) -> list[Path]:
    count = min(len(files), _MOST_IMAGES)
    return [files[index * len(files) // count] for index in range(count)]


def _covering(image: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return the middle of an image (C, H, W), scaled so that it covers `size`."""
    scale = max(wanted / pixels for wanted, pixels in zip(size, image.shape[1:], strict=True))
    scaled = [max(wanted, round(pixels * scale)) for wanted, pixels in zip(size, image.shape[1:], strict=True)]
    image = torch.nn.functional.interpolate(image[None], scaled, mode="bilinear", antialias=True)[0]
    top, left = ((pixels - wanted) // 2 for wanted, pixels in zip(size, scaled, strict=True))
    return image[:, top : top + size[0], left : left + size[1]]


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


def _saved(path: str, shapes: tuple[_Shape, ...]) -> tuple[_Network, tuple[_Shape, ...]]:
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise CheckpointError(f"{path}: holds no exported program; write one by torch.export.save") from error
    made = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs = [made.get(name) for name in program.graph_signature.user_inputs]
    if not inputs or not isinstance(inputs[0], torch.Tensor):
        raise CheckpointError(f"{path}: got a program without a tensor as first input, expected one that takes images")
    own = tuple(tuple(one.shape) for one in inputs if isinstance(one, torch.Tensor))
    if all(isinstance(size, int) for sizes in own for size in sizes):
        if shapes and shapes != own:
            got, expected = (" ".join(f"--input {','.join(map(str, one))}" for one in some) for some in (shapes, own))
            raise CheckpointError(f"{path}: got {got}, expected {expected}, as it was exported; leave it out")
        return program, own
    if not shapes:
        raise CheckpointError(f"{path}: was exported for open sizes; give those to look at, as --input 1,3,512,512")
    return _Exported(program), shapes  # The names of its layers are lost on the way.


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
    """The first output of a network as (B, D, *P): of scores (B, D) a map of one pixel.

    Its other inputs are full of ones, which a shift leaves as they are and a product lets through.
    """

    def __init__(self, network: torch.nn.Module, others: Sequence[_Shape]) -> None:
        super().__init__()
        self.network = network
        for index, shape in enumerate(others):
            self.register_buffer(f"other{index}", torch.ones(shape))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        output = first_output(self.network(image, *self.buffers(recurse=False)))
        return output.reshape(*output.shape, *(1,) * (image.ndim - output.ndim))


def _shape(text: str) -> _Shape:
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected sizes of at least 1, such as 1,3,512,512")
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
