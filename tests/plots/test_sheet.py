import itertools

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from atrous.plots import colourise, contact_sheet, palette


def test_the_sheet_shows_input_truth_and_both_predictions(make_report):
    report = make_report()
    axes = contact_sheet(report).axes
    assert [panel.get_title(loc="left") for panel in axes] == ["input", "truth", "front end", "with context"]
    expected = [report.truth, report.variants[0].prediction, report.variants[1].prediction]
    for panel, labels in zip(axes[1:], expected, strict=True):
        assert np.array_equal(panel.images[0].get_array(), colourise(labels, palette(3)))
    assert axes[0].images[0].get_array().shape == report.image.shape


def test_the_scores_stand_under_the_predictions(make_report):
    captions = [panel.get_xlabel() for panel in contact_sheet(make_report()).axes]
    assert captions[2:] == [
        "mean IoU 0.544 on the test mosaics, 0.700 on this one",
        "mean IoU 0.661 on the test mosaics, 0.700 on this one",
    ]


def test_the_key_names_every_class(make_report):
    (legend,) = contact_sheet(make_report()).legends
    assert [text.get_text() for text in legend.get_texts()] == ["brick", "grass", "<gravel>"]


def test_a_large_mosaic_is_thinned(make_report):
    truth = np.zeros((1024, 1536), np.uint8)
    report = make_report(truth=truth, image=truth * 1.0)
    assert contact_sheet(report).axes[1].images[0].get_array().shape == (512, 768, 3)


def test_no_words_overlap(make_report):
    figure = contact_sheet(make_report())
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [figure.legends[0].get_window_extent(renderer)]
    for panel in figure.axes:
        boxes.append(panel.xaxis.label.get_window_extent(renderer))
        boxes.append(
            next(text for text in panel.get_children() if text is panel._left_title).get_window_extent(renderer)
        )
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.y1 <= figure.bbox.y1 for box in boxes)
