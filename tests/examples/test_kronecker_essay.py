"""The example finds what the page says: every claim of the essay but one holds, and every picture is drawn."""

import re
import runpy
from pathlib import Path

import pytest
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "examples" / "kronecker_essay.py"))


@pytest.fixture(scope="module")
def claims(script):
    return script["check"]()


@pytest.fixture(scope="module")
def page():
    return (ROOT / "docs" / "kronecker-essay.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_one_claim_does_not_hold(claims):
    assert [claim.text[:24] for claim in claims if not claim.holds] == ["27 x 27 kernels of rank "]


@pytest.mark.slow
def test_the_page_has_every_claim_and_says_whether_it_holds(claims, page):
    rows = re.findall(r"^\| (.+?) \| (yes|\*\*no\*\*) \| (.+) \|$", page, flags=re.MULTILINE)
    assert [said == "yes" for _, said, _ in rows] == [claim.holds for claim in claims]
    assert [plain(text) for text, _, _ in rows] == [plain(claim.text) for claim in claims]


def plain(text):
    """Return a text without the signs that pages have and terminals do not."""
    return text.replace("⊗", "(x)").replace("a²", "a^2")


@pytest.mark.slow
def test_the_page_shows_every_picture(script, page):
    shown = set(re.findall(r"\(images/essay-(\w+)\.png\)", page))
    drawn = dict(script["pictures"]())
    assert shown == set(drawn)
    assert all(isinstance(figure, Figure) for figure in drawn.values())


def test_the_measure_of_a_cascade_knows_products(script):
    """Three 3 x 3 kernels, dilations 1, 3, 9: a product of 9 x 9 and 3 x 3, and nothing of the norm is left."""
    assert script["best_two_factors"]((1, 3, 9)) < 1e-12 < 0.1 < script["best_two_factors"]((1, 2, 4))
