"""The result at a glance: input, truth, front end and context module side by side.

Legend: H, W mosaic size, K classes.
"""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from atrous.plots.masks import colourise, palette
from atrous.plots.pixels import grey, thin
from atrous.plots.results import Report

_WIDTH = 768


def contact_sheet(report: Report) -> Figure:
    """Draw the mosaic, its truth and the predictions without and with context, each with its mean IoU.

    Args:
        report: the results; `front_end` and `with_context` are drawn.

    Example:
        >>> import numpy as np
        >>> from atrous.plots import Report, Variant
        >>> labels = np.zeros((4, 6), np.uint8)
        >>> variants = tuple(
        ...     Variant(name, name, 0.5, (0.5,), labels, 0.5, (), (), 10, 1.0) for name in ("front_end", "with_context")
        ... )
        >>> report = Report(0, 1.0, {}, ("brick",), labels * 0.5, labels, variants, ())
        >>> len(contact_sheet(report).axes)
        4
    """
    variants = {variant.name: variant for variant in report.variants}
    colours = palette(len(report.classes))
    figure = Figure(figsize=(9, 7.4))
    places = {"left": 0.01, "right": 0.99, "top": 0.955, "bottom": 0.13, "wspace": 0.03, "hspace": 0.2}
    top, bottom = figure.subplots(2, 2, gridspec_kw=places)
    panels = [
        (
            top[0],
            "input",
            f"cut from {len(report.classes)} photographs, under strong noise",
            grey(thin(report.image, _WIDTH)),
        ),
        (top[1], "truth", "which photograph each pixel is from", colourise(thin(report.truth, _WIDTH), colours)),
    ]
    for axes, name in ((bottom[0], "front_end"), (bottom[1], "with_context")):
        variant = variants[name]
        score = f"mean IoU {variant.mean_iou:.3f} on the test mosaics, {variant.mosaic_iou:.3f} on this one"
        panels.append((axes, variant.title, score, colourise(thin(variant.prediction, _WIDTH), colours)))
    for axes, title, caption, picture in panels:
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
        axes.set_xlabel(caption, loc="left", fontsize=10)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    swatches = [Patch(color=colour / 255, label=name) for colour, name in zip(colours, report.classes, strict=True)]
    figure.legend(handles=swatches, loc="lower center", ncols=4, frameon=False)
    return figure
