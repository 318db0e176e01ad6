import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from atrous import DataError, ShapeError
from atrous.plots import colourise, palette, write_report

VOID = {"meta", "img", "source", "link", "br", "rect", "path"}


def written(report, tmp_path):
    write_report(report, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def pictures(page):
    """Return the images of a page, decoded, in their order."""
    sources = re.findall(r'(?:src|srcset)="([^"]*)"', page)
    assert all(source.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for source in sources)
    return [Image.open(BytesIO(base64.b64decode(source.split(",")[1]))) for source in sources]


def words(page):
    """Return the text of a page as one line."""
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL).split())


def test_the_report_is_one_file_that_loads_nothing(make_report, tmp_path):
    page = written(make_report(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    markup = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?://|<script|<link|<iframe|@import|@font-face|\son\w+=", markup)
    assert re.findall(r"url\(([^)]*)\)", markup) == ["#cells"] * 3
    assert "$" not in markup


def test_every_picture_is_embedded(make_report, tmp_path):
    report = make_report()
    images = pictures(written(report, tmp_path))
    # Input and truth; answer and mistakes of four variants; two figures, each for light and dark.
    assert len(images) == 2 + 2 * 4 + 2 * 2
    assert np.array_equal(np.asarray(images[1].convert("RGB")), colourise(report.truth, palette(3)))
    for variant, answer, wrong in zip(report.variants, images[2:10:2], images[3:10:2], strict=True):
        assert np.array_equal(np.asarray(answer), variant.prediction)
        assert np.array_equal(np.asarray(wrong), variant.prediction != report.truth)
    assert [image.format for image in images[-4:]] == ["JPEG"] * 4


def test_every_tag_is_closed_and_every_image_described(make_report, tmp_path):
    stack = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            assert tag != "img" or dict(attributes)["alt"]
            if tag not in VOID:
                stack.append(tag)

        def handle_endtag(self, tag):
            if tag not in VOID:
                assert stack.pop() == tag

    Reader().feed(written(make_report(), tmp_path))
    assert not stack


def test_the_numbers_and_the_command_are_on_the_page(make_report, tmp_path):
    text = words(written(make_report(), tmp_path))
    assert "front end 0.544 &rarr; with context 0.661" in text
    assert "over front end +0.117" in text
    assert "over undilated control +0.068" in text
    assert "over default initialisation +0.249" in text
    assert "gain over front end 0.000 +0.117 +0.049 &minus;0.132" in text
    assert "brick 0.544 0.661 0.593 0.412" in text
    assert "&lt;gravel&gt; 0.601 0.718 0.650 0.469" in text
    assert "trained parameters 1,234 1,235 1,236 1,237" in text
    assert "see 50 pixels" in text
    assert "make demo SEED=3 ; this run, with seed 3, took 1,512 seconds" in text
    assert "atrous 0.1.0, torch 2.11.0" in text


@pytest.mark.parametrize(
    ("scores", "sentences"),
    [
        ({}, ("raises the mean IoU by 0.117: in this run the claim holds", "stays 0.068 lower", "stays 0.249 lower")),
        (
            {"with_context": 0.4},
            (
                "lowers the mean IoU by 0.144: in this run the claim does not hold",
                "ends 0.193 higher",
                "ends 0.012 higher",
            ),
        ),
        (
            {"with_context": 0.5441, "undilated": 0.5442, "default_init": 0.544},
            (
                "leaves the mean IoU as it was: in this run the claim does not hold",
                "no difference here: the same module",
            ),
        ),
        ({"with_context": float("nan")}, ("with context &ndash;", "because a mean IoU is not a number")),
    ],
)
def test_the_sentences_follow_the_sign_of_the_gains(make_report, tmp_path, scores, sentences):
    text = words(written(make_report(scores), tmp_path))
    for sentence in sentences:
        assert sentence in text
    assert ("the claim holds" in text) == (not scores)


def test_the_best_score_of_a_row_is_bold(make_report, tmp_path):
    page = written(make_report({"undilated": 0.7}), tmp_path)
    (row,) = re.findall(r"<tr><th[^>]*>mean IoU</th>.*", page)
    assert re.findall(r'<td class="best">([^<]*)', row) == ["0.700"]


def test_a_large_mosaic_is_thinned(make_report, tmp_path):
    report = make_report()
    truth = np.zeros((1700, 20), np.uint8)
    variants = tuple(replace(variant, prediction=truth) for variant in report.variants)
    page = written(replace(report, truth=truth, image=truth * 1.0, variants=variants), tmp_path)
    assert {image.size for image in pictures(page)[:10]} == {(10, 850)}


def test_reports_of_one_result_are_equal(make_report, tmp_path):
    assert written(make_report(), tmp_path) == written(make_report(), tmp_path)


def test_other_variants_than_the_four_are_named(make_report, tmp_path):
    report = make_report()
    with pytest.raises(ShapeError, match=r"variants: got \('front_end',\), expected .* all four in this order"):
        write_report(replace(report, variants=report.variants[:1]), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_scores_and_arrays_that_do_not_fit_are_named(make_report, tmp_path):
    report = make_report()
    with pytest.raises(ShapeError, match="class_iou of front_end: got 3 values, expected 1; give one for each class"):
        write_report(replace(report, classes=("brick",)), tmp_path / "report.html")
    with pytest.raises(
        ShapeError, match=r"front_end: got a prediction \(60, 90\), truth \(59, 90\) and image \(60, 90\)"
    ):
        write_report(replace(report, truth=report.truth[1:]), tmp_path / "report.html")


def test_a_report_that_cannot_be_written_leaves_nothing_behind(make_report, tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(DataError, match=r"report\.html: cannot be written"):
        write_report(make_report(), tmp_path / "report.html")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_is_a_file_is_named(make_report, tmp_path):
    (tmp_path / "demo").write_text("a file")
    with pytest.raises(DataError, match=r"report\.html: cannot be written \(.*\); choose another place"):
        write_report(make_report(), tmp_path / "demo" / "report.html")
    assert (tmp_path / "demo").read_text() == "a file"
