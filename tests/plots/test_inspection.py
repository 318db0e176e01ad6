import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import pytest
import torch
from PIL import Image
from torch import nn

from atrous import DataError, analysis
from atrous.plots.inspection import Inspection, write_inspection

VOID = {"meta", "img", "source"}


def inspected(network, *shape, **more):
    example = torch.zeros(shape)
    tables = (verb(network, example) for verb in (analysis.receptive_field, analysis.gridding, analysis.cost))
    return Inspection("<a> & network", shape, *tables, **more)


def everything():
    network = nn.Conv2d(1, 1, 3, padding=2, dilation=2)
    noise = torch.randn(1, 1, 24, 24)
    return inspected(
        network,
        *(1, 1, 24, 24),
        effective_receptive_field=analysis.effective_receptive_field(network, noise),
        equivariance=analysis.equivariance(network, noise, 2),
        borders=analysis.borders(network, noise, size=12),
    )


def written(inspection, tmp_path):
    write_inspection(inspection, tmp_path / "inspect.html")
    return (tmp_path / "inspect.html").read_text(encoding="utf-8")


def titles(page):
    return re.findall(r"<h2>(.*)</h2>", page)


def pictures(page):
    """Return the words for each picture."""
    return re.findall(r'alt="([^"]*)"', page)


def test_the_page_is_one_file_that_loads_nothing(tmp_path):
    page = written(everything(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["inspect.html"]
    markup = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?://|<script|<link|<iframe|@import|@font-face|url\(|\son\w+=", markup)
    assert "$" not in markup
    assert "<title>atrous inspect: &lt;a&gt; &amp; network</title>" in page


def test_every_tag_is_closed(tmp_path):
    stack = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in VOID:
                stack.append(tag)

        def handle_endtag(self, tag):
            assert stack.pop() == tag

    Reader().feed(written(everything(), tmp_path))
    assert not stack


def test_every_analysis_has_its_table_and_its_picture_in_both_colours(tmp_path):
    inspection = everything()
    page = written(inspection, tmp_path)
    names = ["Receptive field", "Gridding", "Cost", "Effective receptive field", "Equivariance", "Borders"]
    assert titles(page) == pictures(page) == names
    images = re.findall(r'src(?:set)?="data:image/jpeg;base64,([^"]*)"', page)
    assert len(images) == 2 * len(names)
    assert all(Image.open(BytesIO(base64.b64decode(image))).format == "JPEG" for image in images)
    for result in (inspection.receptive_field, inspection.cost, inspection.borders):
        assert f"<pre>{result}</pre>" in page


def test_the_numbers_at_the_top(tmp_path):
    page = written(inspected(nn.Conv2d(1, 1, (3, 5), dilation=(2, 1), stride=(1, 2)), 1, 1, 20, 20), tmp_path)
    tiles = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert tiles == {
        "pixels of receptive field": "5",
        "pixels of stride": "1 x 2",
        "of it read": "60&thinsp;%",
        "multiply-accumulates": "1.92&thinsp;k",
        "parameters": "16",
    }


def test_a_network_that_reads_everything_has_no_picture_of_paths(tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 1, 3), nn.AdaptiveAvgPool2d(1))
    page = written(inspected(network, 1, 1, 8, 8), tmp_path)
    assert "<dd>all</dd>" in page
    assert "<dd>&ndash;</dd>" in page
    assert pictures(page) == ["Receptive field", "Cost"]


def test_a_network_that_only_pools_has_no_picture_of_cost(tmp_path):
    assert pictures(written(inspected(nn.MaxPool2d(2), 1, 1, 8, 8), tmp_path)) == ["Receptive field", "Gridding"]


@pytest.mark.parametrize(("network", "shape"), [(nn.Conv1d(1, 1, 3), (1, 1, 9)), (nn.Conv3d(1, 1, 3), (1, 1, 4, 5, 6))])
def test_only_images_have_a_picture_of_nested_fields(tmp_path, network, shape):
    assert pictures(written(inspected(network, *shape), tmp_path)) == ["Gridding", "Cost"]


def test_a_long_table_is_folded_and_few_layers_are_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "atrous.plots.inspection.receptive_field_growth", lambda ground, growth, **_: drawn.append(growth)
    )
    monkeypatch.setattr("atrous.plots.inspection.both_themes", lambda draw, alt: str(draw({})))
    monkeypatch.setattr("atrous.plots.inspection.gridding", lambda *_: None)
    network = nn.Sequential()
    for index in range(30):
        network.add_module(f"a_convolution_with_a_name_{index}", nn.Conv2d(1, 1, 3))
    page = written(inspected(network, 1, 1, 64, 64), tmp_path)
    assert "<details><summary>All 32 rows</summary>" in page
    (growth,) = drawn
    assert len(growth) == 9
    assert [growth[0][1].receptive_field, growth[-1][1].receptive_field] == [(3, 3), (61, 61)]
    assert growth[-1][0] == "\u2026tion_with_a_name_29"


def test_what_is_skipped_says_why(tmp_path):
    page = written(inspected(nn.Conv2d(1, 1, 3), 1, 1, 8, 8, skipped={"borders": "got <nothing>"}), tmp_path)
    assert titles(page) == ["Receptive field", "Gridding", "Cost", "Borders"]
    assert "Skipped: got &lt;nothing&gt;." in page


def test_a_page_that_cannot_be_written(tmp_path):
    (tmp_path / "inspect.html").mkdir()
    with pytest.raises(DataError, match=r"inspect\.html: cannot be written"):
        written(inspected(nn.Conv2d(1, 1, 3), 1, 1, 8, 8), tmp_path)


def test_the_words_name_every_input_and_the_images(tmp_path):
    network = nn.Conv2d(1, 1, 3)
    measured = analysis.effective_receptive_field(network, torch.randn(1, 1, 8, 8))
    shape, others = (1, 1, 8, 8), ((1, 5), (1,))
    page = written(inspected(network, *shape, effective_receptive_field=measured, others=others), tmp_path)
    assert "for an input of 1 x 1 x 8 x 8 and 1 x 5 and 1.</p>" in page
    assert "gradient over 1 image of noise." in page
    page = written(inspected(network, *shape, skipped={"effective_receptive_field": "no"}, on_noise=False), tmp_path)
    assert "gradient over images from files." in page
