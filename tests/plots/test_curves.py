from io import BytesIO

import numpy as np
from matplotlib.colors import to_hex

from atrous.plots import training_curves
from atrous.plots.curves import VARIANT_COLOURS


def test_each_panel_has_one_line_for_each_variant_with_its_points(make_report):
    variants = make_report().variants
    loss, validation = training_curves(variants).axes
    for axes, field in ((loss, "losses"), (validation, "validation")):
        assert len(axes.lines) == len(variants)
        for line, variant in zip(axes.lines, variants, strict=True):
            assert np.array_equal(line.get_xydata(), getattr(variant, field))
    assert [axes.get_xlabel() for axes in (loss, validation)] == ["step", "step"]


def test_a_variant_has_one_colour_everywhere(make_report):
    figure = training_curves(make_report().variants)
    for axes in figure.axes:
        assert tuple(line.get_color() for line in axes.lines) == VARIANT_COLOURS[:4]
    assert len(set(VARIANT_COLOURS)) == len(VARIANT_COLOURS)


def test_the_legend_names_every_variant_once(make_report):
    (legend,) = training_curves(make_report().variants).legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "front end",
        "with context",
        "undilated control",
        "default initialisation",
    ]


def test_no_variant_is_an_empty_figure_without_legend():
    figure = training_curves([])
    assert len(figure.axes) == 2
    assert not figure.legends
    figure.savefig(BytesIO(), format="png")


def test_ink_and_paper_are_taken(make_report):
    figure = training_curves(make_report().variants, ink="#eeeeee", paper="#111111")
    assert to_hex(figure.get_facecolor()) == "#111111"
    assert {to_hex(axes.get_facecolor()) for axes in figure.axes} == {"#111111"}
    assert figure.axes[0].xaxis.label.get_color() == "#eeeeee"
