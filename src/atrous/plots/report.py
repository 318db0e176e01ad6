"""The report of an experiment: one HTML page that holds every picture, curve and number, and loads nothing.

Legend: H, W mosaic size, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image

from atrous._errors import ShapeError
from atrous.analysis.receptive_field import LayerField
from atrous.plots.curves import VARIANT_COLOURS, training_curves
from atrous.plots.effective import effective_receptive_field
from atrous.plots.masks import MISTAKE_COLOURS, indexed, mistakes, palette
from atrous.plots.page import both_themes, data_uri, framed, write_page
from atrous.plots.pixels import Labels, Pixels, grey, thin
from atrous.plots.receptive_field import receptive_field_growth
from atrous.plots.results import Report, Variant

_NAMES = ("front_end", "with_context", "undilated", "default_init")
_LONGEST = 1536


def write_report(report: Report, path: str | Path) -> None:
    """Write a report as one HTML file that needs no other file, no script and no network.

    Args:
        report: the results; every number of the page is from it.
        path: the file; it appears only when whole.

    Raises:
        ShapeError: other variants than the four, or arrays and scores that do not fit one another.
        DataError: the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> labels = np.zeros((60, 90), np.uint8)
        >>> names = ("front_end", "with_context", "undilated", "default_init")
        >>> variants = tuple(Variant(name, name, 0.5, (0.5,), labels, 0.5, (), (), 10, 1.0) for name in names)
        >>> from fractions import Fraction
        >>> from atrous.analysis.receptive_field import LayerField
        >>> field = LayerField("fc6", "conv2d", (58, 58), (Fraction(4),) * 2, (0, 0), (9, 9), (False,) * 2, True)
        >>> growth = (("front end alone", field),)
        >>> report = Report(7, 1.0, {}, ("brick",), labels * 0.5, labels, variants, growth)
        >>> with TemporaryDirectory() as folder:
        ...     write_report(report, f"{folder}/report.html")
        ...     "make demo SEED=7" in Path(f"{folder}/report.html").read_text(encoding="utf-8")
        True
    """
    _check(report)
    write_page("report.html", _texts(report) | _pictures(report), path)


def _texts(report: Report) -> dict[str, str]:
    front, context, undilated, default = report.variants
    others = (front, undilated, default)
    versions = ", ".join(f"{name} {version}" for name, version in sorted(report.versions.items()))
    return {
        "headline": f'{_headline(front)} <span class="arrow">&rarr;</span> {_headline(context)}',
        "gains": "\n".join(_gain_tile(context, other) for other in others),
        "verdicts": "\n".join(f"<li>{sentence}</li>" for sentence in _verdicts(front, context, undilated, default)),
        "class_count": str(len(report.classes)),
        "key": "\n".join(
            f"<li>{_swatch(colour)}{escape(name)}</li>"
            for colour, name in zip(palette(len(report.classes)), report.classes, strict=True)
        ),
        "right": _hex(MISTAKE_COLOURS[0]),
        "wrong": _hex(MISTAKE_COLOURS[1]),
        "front_end": str(_first(report).receptive_field[0]),
        "stride": str(_first(report).stride[0]),
        "layers": str(len(report.growth) - 1),
        "field": str(_widest(report)),
        "table": _table(report),
        "seed": str(report.seed),
        "seconds": f"{report.seconds:,.0f}",
        "versions": escape(versions),
    }


def _pictures(report: Report) -> dict[str, str]:
    colours = palette(len(report.classes))
    height, width = report.image.shape
    shown = grey(thin(report.image, _LONGEST))
    truth = thin(report.truth, _LONGEST)
    side = round(1.2 * _widest(report))
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    ground = grey(report.image)[top : top + side, left : left + side]
    return {
        "mosaic": framed(_jpeg(shown), "the noisy mosaic", f"Input: {width} x {height} pixels, with noise.")
        + framed(_png(truth, colours), "the true labels", "Truth: the photograph that each pixel is from."),
        "answers": "\n".join(_answer(variant, truth, colours) for variant in report.variants),
        "field_picture": both_themes(
            lambda theme: receptive_field_growth(ground, report.growth, **theme),
            "nested squares: the receptive field of every layer, over the mosaic",
        ),
        "effective": _effective(report),
        "curves": both_themes(
            lambda theme: training_curves(report.variants, **theme), "training loss and validation mean IoU by step"
        ),
    }


def _effective(report: Report) -> str:
    result = report.effective
    if result is None:
        return ""
    picture = both_themes(
        lambda theme: effective_receptive_field(result, **theme),
        "the mean absolute gradient of one output, and the square that it can see",
    )
    share = max(result.ratio)
    return (
        "<p>What an output can read is not what weighs: this is the mean absolute gradient of the middle one, after "
        f"training. Four standard deviations of it are {100 * share:.0f} % of the receptive field.</p>\n"
        f'<div class="wide effective">{picture}</div>'
    )


def _verdicts(front: Variant, context: Variant, undilated: Variant, default: Variant) -> list[str]:
    """Return one sentence for the claim and one for each control, worded by the sign of the gain."""
    return [
        _by_sign(
            _gain(context, front),
            "The context module raises the mean IoU by {}: in this run the claim holds.",
            "The context module lowers the mean IoU by {}: in this run the claim does not hold.",
            "The context module leaves the mean IoU as it was: in this run the claim does not hold.",
        ),
        _by_sign(
            _gain(context, undilated),
            "The holes matter: the same module without them, with as many weights and as much arithmetic, "
            "stays {} lower.",
            "The holes do not help here: the same module without them, with as many weights and as much arithmetic, "
            "ends {} higher.",
            "The holes make no difference here: the same module without them ends at the same score.",
        ),
        _by_sign(
            _gain(context, default),
            "The start matters: from torch&rsquo;s default weights instead of the identity, the same dilated module "
            "stays {} lower.",
            "The start from the identity does not help here: from torch&rsquo;s default weights the same dilated "
            "module ends {} higher.",
            "The start makes no difference here: from torch&rsquo;s default weights the same dilated module ends at "
            "the same score.",
        ),
    ]


def _headline(variant: Variant) -> str:
    return f"<span>{escape(variant.title)} <strong>{_number(variant.mean_iou)}</strong></span>"


def _by_sign(gain: float, higher: str, lower: str, equal: str) -> str:
    if math.isnan(gain):
        return "One comparison is missing, because a mean IoU is not a number."
    sentence = higher if gain > 0 else lower if gain < 0 else equal
    return sentence.format(f"{abs(gain):.3f}")


def _gain(variant: Variant, other: Variant) -> float:
    # Of the rounded scores, so that the page agrees with itself.
    return round(round(variant.mean_iou, 3) - round(other.mean_iou, 3), 3)


def _gain_tile(variant: Variant, other: Variant) -> str:
    return f"<div><dt>over {escape(other.title)}</dt><dd>{_signed(_gain(variant, other))}</dd></div>"


def _answer(variant: Variant, truth: Labels, colours: Pixels) -> str:
    labels = thin(variant.prediction, _LONGEST)
    title = escape(variant.title)
    scores = f"Mean IoU {_number(variant.mean_iou)} on the test mosaics, {_number(variant.mosaic_iou)} on this mosaic."
    return (
        f'<div class="pair"><h3>{title[:1].upper()}{title[1:]}</h3><p class="soft">{scores}</p>'
        + framed(_png(labels, colours), f"labels predicted by: {variant.title}")
        + framed(_png(mistakes(labels, truth), MISTAKE_COLOURS), f"pixels that are wrong: {variant.title}")
        + "</div>"
    )


def _table(report: Report) -> str:
    variants = report.variants
    dots = (_swatch(colour, "swatch round") for colour in VARIANT_COLOURS)
    heads = "".join(
        f'<th scope="col">{dot}{escape(variant.title)}</th>' for dot, variant in zip(dots, variants, strict=False)
    )
    rows = [
        _row("mean IoU", _scores([variant.mean_iou for variant in variants])),
        _row(f"gain over {escape(variants[0].title)}", [_cell(_signed(_gain(v, variants[0]))) for v in variants]),
        f'<tr class="group"><th scope="rowgroup" colspan="{len(variants) + 1}">IoU of each class</th></tr>',
    ]
    for index, (colour, name) in enumerate(zip(palette(len(report.classes)), report.classes, strict=True)):
        scores = _scores([variant.class_iou[index] for variant in variants])
        rows.append(_row(f"{_swatch(colour)}{escape(name)}", scores))
    rows.append(f'<tr class="group"><th scope="rowgroup" colspan="{len(variants) + 1}">Cost of training</th></tr>')
    rows.append(_row("trained parameters", [_cell(f"{variant.parameters:,}") for variant in variants]))
    rows.append(_row("seconds", [_cell(f"{variant.seconds:,.0f}") for variant in variants]))
    body = "\n".join(rows)
    return f'<thead><tr><th scope="col">variant</th>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>'


def _row(head: str, cells: Sequence[str]) -> str:
    return f'<tr><th scope="row">{head}</th>{"".join(cells)}</tr>'


def _scores(values: Sequence[float]) -> list[str]:
    best = max((round(value, 3) for value in values if not math.isnan(value)), default=math.nan)
    return [_cell(_number(value), best=round(value, 3) == best) for value in values]


def _cell(text: str, *, best: bool = False) -> str:
    return f'<td class="best">{text}</td>' if best else f"<td>{text}</td>"


def _number(value: float) -> str:
    return "&ndash;" if math.isnan(value) else f"{value:.3f}"


def _signed(value: float) -> str:
    if math.isnan(value):
        return "&ndash;"
    sign = "+" if value > 0 else "&minus;" if value < 0 else ""
    return f"{sign}{abs(value):.3f}"


def _swatch(colour: Pixels | str, kind: str = "swatch") -> str:
    code = colour if isinstance(colour, str) else _hex(colour)
    return f'<span class="{kind}" style="background:{code}"></span>'


def _hex(colour: Pixels) -> str:
    return f"#{colour.tobytes().hex()}"


def _first(report: Report) -> LayerField:
    return report.growth[0][1]


def _widest(report: Report) -> int:
    return max(layer.receptive_field[0] for _, layer in report.growth)


def _png(labels: Labels, colours: Pixels) -> str:
    buffer = BytesIO()
    indexed(labels, colours).save(buffer, format="PNG", optimize=True)
    return data_uri(buffer, "png")


def _jpeg(image: Pixels) -> str:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=75)
    return data_uri(buffer, "jpeg")


def _check(report: Report) -> None:
    names = tuple(variant.name for variant in report.variants)
    if names != _NAMES:
        raise ShapeError(f"write_report: variants: got {names}, expected {_NAMES}; give all four in this order")
    for variant in report.variants:
        if len(variant.class_iou) != len(report.classes):
            raise ShapeError(
                f"write_report: class_iou of {variant.name}: got {len(variant.class_iou)} values, expected "
                f"{len(report.classes)}; give one for each class"
            )
        if not variant.prediction.shape == report.truth.shape == report.image.shape:
            raise ShapeError(
                f"write_report: {variant.name}: got a prediction {variant.prediction.shape}, truth "
                f"{report.truth.shape} and image {report.image.shape}, expected one shape (H, W); crop them alike"
            )
