import base64
import re
from io import BytesIO

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from atrous import DataError
from atrous.plots.page import both_themes, data_uri, framed, write_page

PARTS = dict.fromkeys(("network", "input", "tiles", "sections", "versions"), "<b>something</b>")


def test_a_page_holds_its_style_and_its_parts(tmp_path):
    write_page("inspection.html", PARTS, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<b>something</b>") == 6
    assert "--paper: #14171b" in page
    assert "$" not in page


def test_a_page_that_cannot_be_written(tmp_path):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(DataError, match=r"page\.html: cannot be written"):
        write_page("inspection.html", PARTS, tmp_path / "page.html")


def test_a_figure_is_drawn_in_the_colours_of_both_pages():
    markup = both_themes(lambda theme: Figure(figsize=(1, 1), facecolor=theme["paper"]), 'a "square"')
    dark, light = re.findall(r'src(?:set)?="data:image/jpeg;base64,([^"]*)"', markup)
    assert 'alt="a &quot;square&quot;"' in markup
    for source, colour in ((light, "#ffffff"), (dark, "#14171b")):
        pixel = Image.open(BytesIO(base64.b64decode(source))).getpixel((9, 9))
        assert pixel == pytest.approx([255 * level for level in to_rgb(colour)], abs=2)


def test_words_below_a_picture_are_escaped():
    assert framed("a.png", "x < y") == '<figure><img src="a.png" alt="x &lt; y"></figure>'
    assert "<figcaption>1 &lt; 2</figcaption>" in framed("a.png", "", "1 < 2")


def test_a_data_uri_holds_the_file():
    assert base64.b64decode(data_uri(BytesIO(b"bytes"), "png").removeprefix("data:image/png;base64,")) == b"bytes"
