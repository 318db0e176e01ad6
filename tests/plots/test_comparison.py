import pytest

from atrous.analysis import Comparison, Contender
from atrous.plots import comparison


def test_points_are_seeds_and_bars_their_means():
    contenders = [Contender(title, 1, 1.0, {"clean": (0.5, 0.7), "noise": (0.1, 0.3)}) for title in ("plain", "dcls")]
    figure = comparison(Comparison(tuple(contenders)))
    clean, noise = figure.axes
    assert [label.get_text() for label in clean.get_yticklabels()] == ["plain", "dcls"]
    _, seeds, mean, *_ = noise.lines
    assert list(seeds.get_xdata()) == pytest.approx([10, 30])
    assert list(mean.get_xdata()) == pytest.approx([20])
    first, last = clean.get_ylim()
    assert first > last  # the first contender stands on top
