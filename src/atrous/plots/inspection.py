"""The report of `atrous inspect`: one HTML page with the tables and pictures of one network, which loads nothing.

Legend: B batch, C channels, *S input size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.metadata import version
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from atrous.analysis.borders import Borders
from atrous.analysis.cost import Cost
from atrous.analysis.effective import EffectiveReceptiveField
from atrous.analysis.equivariance import Equivariance
from atrous.analysis.gridding import Gridding
from atrous.analysis.receptive_field import LayerField, ReceptiveFields
from atrous.plots.borders import border_errors
from atrous.plots.cost import cost_bars
from atrous.plots.effective import effective_receptive_field
from atrous.plots.equivariance import shift_errors
from atrous.plots.gridding import gridding
from atrous.plots.page import both_themes, write_page
from atrous.plots.receptive_field import receptive_field_growth

_MOST_LAYERS = 9  # Labels of more would overlap.
_LONGEST_NAME = 20  # Characters that fit beside the picture.
_LONG = 24  # Lines of a table that is folded.


_WORDS = {
    "receptive_field": (
        "Receptive field",
        "How far each layer sees, to scale; the grey area is the input. Of many layers some are drawn, and none that "
        "reads the whole input. Strides and offsets are in pixels of the input; an offset below 0 lies in the padding.",
    ),
    "gridding": (
        "Gridding",
        "Which pixels of its receptive field one output reads, and along how many paths. Pixels that it leaves out are "
        "holes.",
    ),
    "cost": (
        "Cost",
        "Multiply-accumulates and memory traffic of each call. Taps that fall on padding multiply zeros.",
    ),
    "effective_receptive_field": (
        "Effective receptive field",
        "How much each pixel weighs in the middle output: the mean absolute gradient over {images}. It depends on the "
        "weights that the network has; an input smaller than the receptive field cuts it off.",
    ),
    "equivariance": (
        "Equivariance",
        "What is left of the difference between the output for a shifted image and the shifted output, away from the "
        "borders. An exact 0 is what a convolution without stride gives. Only shifts that move the output by whole "
        "pixels of its own are compared.",
    ),
    "borders": (
        "Borders",
        "How far into the output the padding of the convolutions is felt, for every padding mode that fits.",
    ),
}
"""Analysis -> its title, and what it tells; in the order of the page."""


@dataclass(frozen=True)
class Inspection:
    """All that was found out about one network.

    Args:
        network: its name.
        input: (B, C, *S).
        receptive_field: of its layers.
        gridding: of its output.
        cost: of its layers.
        effective_receptive_field: None where it was not measured, as in those below.
        equivariance: error under shifts.
        borders: error of padding.
        skipped: analysis -> why it does not apply.
        others: shapes of the other inputs of the network.
        on_noise: whether the images of the effective receptive field are noise.

    Example:
        >>> import torch
        >>> from atrous import analysis
        >>> network, image = torch.nn.Conv1d(1, 1, 3), torch.zeros(1, 1, 9)
        >>> verbs = (analysis.receptive_field, analysis.gridding, analysis.cost)
        >>> Inspection("a convolution", (1, 1, 9), *(verb(network, image) for verb in verbs)).cost.macs
        21
    """

    network: str
    input: tuple[int, ...]
    receptive_field: ReceptiveFields
    gridding: Gridding
    cost: Cost
    effective_receptive_field: EffectiveReceptiveField | None = None
    equivariance: Equivariance | None = None
    borders: Borders | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    others: tuple[tuple[int, ...], ...] = ()
    on_noise: bool = True


def write_inspection(inspection: Inspection, path: str | Path) -> None:
    """Write an inspection as one HTML file that needs no other file, no script and no network.

    Args:
        inspection: what was found out.
        path: the file; it appears only when whole.

    Raises:
        GeometryError: an output that reads nothing along some axis.
        DataError: the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import torch
        >>> from atrous import analysis
        >>> network, image = torch.nn.Conv1d(1, 1, 3, dilation=2), torch.zeros(1, 1, 16)
        >>> verbs = (analysis.receptive_field, analysis.gridding, analysis.cost)
        >>> found = Inspection("a convolution", (1, 1, 16), *(verb(network, image) for verb in verbs))
        >>> with TemporaryDirectory() as folder:
        ...     write_inspection(found, f"{folder}/inspect.html")
        ...     "What this network reads" in Path(f"{folder}/inspect.html").read_text(encoding="utf-8")
        True
    """
    versions = ", ".join(f"{name} {version(name)}" for name in ("atrous", "torch"))
    parts = {
        "network": escape(inspection.network),
        "input": " and ".join(" x ".join(map(str, shape)) for shape in (inspection.input, *inspection.others)),
        "tiles": "\n".join(_tiles(inspection)),
        "sections": "\n\n".join(_sections(inspection)),
        "versions": escape(versions),
    }
    write_page("inspection.html", parts, path)


def _tiles(inspection: Inspection) -> list[str]:
    whole, cost = inspection.receptive_field.whole, inspection.cost
    fields = [
        "all" if all_of_it else size for size, all_of_it in zip(whole.receptive_field, whole.globals, strict=True)
    ]
    numbers = {
        "pixels of receptive field": _per_axis(fields),
        "pixels of stride": _per_axis(["&ndash;" if rate is None else rate for rate in whole.stride]),
        "of it read": f"{100 * float(inspection.gridding.coverage):.3g}&thinsp;%",
        "multiply-accumulates": _short(cost.macs),
        "parameters": _short(cost.parameters),
    }
    return [f"<div><dt>{what}</dt><dd>{number}</dd></div>" for what, number in numbers.items()]


def _per_axis(values: Sequence[object]) -> str:
    """Return one value where all axes agree, else all of them."""
    texts = [str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else " x ".join(texts)


def _short(number: int) -> str:
    for unit, size in (("&thinsp;G", 10**9), ("&thinsp;M", 10**6), ("&thinsp;k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _sections(inspection: Inspection) -> list[str]:
    """Return the parts of the page, each as HTML."""
    fields, grid, measured = inspection.receptive_field, inspection.gridding, inspection.effective_receptive_field
    shifts, padding, costs = inspection.equivariance, inspection.borders, inspection.cost
    growth = _growth(fields.layers) if len(inspection.input) == 4 else []
    ground = np.full(inspection.input[2:], 205, np.uint8)
    found: list[tuple[str, object, Callable[[dict[str, str]], Figure] | None]] = [
        ("receptive_field", fields, (lambda ink: receptive_field_growth(ground, growth, **ink)) if growth else None),
        ("gridding", grid, None if all(axis.is_global for axis in grid.axes) else lambda ink: gridding(grid, **ink)),
    ]
    if measured:
        found.append(("effective_receptive_field", measured, lambda ink: effective_receptive_field(measured, **ink)))
    if shifts:
        found.append(("equivariance", shifts, lambda ink: shift_errors({"": shifts}, **ink)))
    if padding:
        found.append(("borders", padding, lambda ink: border_errors(padding, **ink)))
    has_macs = any(layer.macs for layer in costs.layers)
    found.append(("cost", costs, (lambda ink: cost_bars(costs, **ink)) if has_macs else None))
    known = {name: _section(name, result, draw, inspection) for name, result, draw in found}
    known |= {
        name: f'{_head(name, inspection)}<p class="soft">Skipped: {escape(why)}.</p>'
        for name, why in inspection.skipped.items()
    }
    return [known[name] for name in _WORDS if name in known]


def _section(name: str, result: object, draw: Callable[[dict[str, str]], Figure] | None, inspection: Inspection) -> str:
    title, _ = _WORDS[name]
    picture = f'<div class="wide {name}">{both_themes(draw, title)}</div>\n' if draw else ""
    lines = str(result).splitlines()
    table = f'<div class="wide"><pre>{escape(str(result))}</pre></div>'
    if len(lines) > _LONG:
        table = f"<details><summary>All {len(lines) - 1} rows</summary>{table}</details>"
    return f"{_head(name, inspection)}{picture}{table}"


def _head(name: str, inspection: Inspection) -> str:
    title, words = _WORDS[name]
    measured = inspection.effective_receptive_field
    count = f"{measured.images} " if measured else ""
    images = f"{count}image{'s' * (count != '1 ')} {'of noise' if inspection.on_noise else 'from files'}"
    return f"<h2>{title}</h2>\n<p>{words.format(images=images)}</p>\n"


def _growth(layers: Sequence[LayerField]) -> list[tuple[str, LayerField]]:
    """Choose some layers to draw: of each field the first, evenly, the first and the last among them."""
    first: dict[tuple[int, ...], LayerField] = {}
    for layer in layers[1:]:
        if layer.changes and not any(layer.globals) and max(layer.receptive_field) > 1:
            first.setdefault(layer.receptive_field, layer)
    kept = list(first.values())
    places = np.linspace(0, len(kept) - 1, min(len(kept), _MOST_LAYERS)).round().astype(int)
    return [(_clipped(kept[place].module or kept[place].operator), kept[place]) for place in places]


def _clipped(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"\u2026{name[1 - _LONGEST_NAME :]}"
