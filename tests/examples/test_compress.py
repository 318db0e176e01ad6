"""The example compresses to the parameters it says, goes on where it stopped, and draws what it found."""

import importlib.util
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from atrous._errors import DataError
from atrous.train.data.source import Source, Splits

SCRIPT = Path(__file__).parents[2] / "examples" / "compress.py"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("compress", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "compress", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "WIDTHS", (4, 6, 8))
    monkeypatch.setattr(module, "HIDDEN", 48)
    monkeypatch.setattr(module, "DIVISORS", (3.6,))
    return module


class Bars(Source):
    """Images with a bright upper or lower half."""

    channels, classes, colours = 1, ("up", "down"), None

    def __len__(self):
        return 8

    def __getitem__(self, index):
        image = torch.randn(1, 28, 28, generator=torch.Generator().manual_seed(index)) / 4
        image[:, :14] += 1 - 2 * (index % 2)
        return image, torch.tensor(index % 2)

    def name(self, index):
        return f"bar {index}"


def lab(script, folder, seed=0):
    return script.Lab(folder, Splits(Bars(), Bars(), Bars()), "bars", seed, epochs=1, tuning=1, steps=2)


@pytest.mark.slow
def test_every_network_has_at_most_the_parameters_of_its_budget(script, tmp_path):
    scores = list(script.compare(lab(script, tmp_path)))
    whole, *others = scores
    assert [one.method for one in scores] == ["whole", *script.METHODS, "thinner"]
    for one in others:
        assert whole.parameters / 4 < one.parameters <= whole.parameters / 3.6
    assert all(0 <= one.after <= 1 for one in scores)
    assert all(one.before is not None for one in scores[:-1])
    assert scores[-1].before is None
    assert len(script.table(scores).splitlines()) == 1 + len(scores)
    assert isinstance(script.draw(scores), Figure)

    def refuse(*arguments, **options):
        raise RuntimeError("trained again")

    script.fit = refuse
    assert list(script.compare(lab(script, tmp_path))) == scores
    with pytest.raises(DataError, match=r"whole: holds a run of .*'seed': 0.*expected .*'seed': 1.*; choose another"):
        next(script.compare(lab(script, tmp_path, seed=1)))


def test_the_network_has_the_form_it_says(script):
    network = script.vgg(10)
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in network) == 6
    assert sum(isinstance(layer, torch.nn.Linear) for layer in network) == 3


def test_a_thinner_network_is_the_widest_that_fits(script):
    whole = script.size(script.vgg(10))
    for most in (whole, whole // 3, whole // 9):
        assert 0.8 * most < script.size(script.thinner(10, most)) <= most
