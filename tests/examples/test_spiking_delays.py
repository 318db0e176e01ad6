"""Small versions of both tasks recover every delay."""

import runpy
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "examples" / "spiking_delays.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def test_delays_are_steps(script):
    layer = script["synapses"](1, 1, "bilinear").requires_grad_(False)
    layer.weight.fill_(1)
    spike = torch.zeros(1, 1, 40)
    spike[..., 3] = 1
    for position in (12, 5, 0, -12):
        layer.P.fill_(position)
        assert layer(spike).nonzero().tolist() == [[0, 0, 3 + script["delays"](layer).item()]]
    assert script["delays"](layer).item() == 24


def test_a_neuron_leaks_and_is_reset(script):
    before, spikes = script["potentials"](torch.tensor([[[0.5, 0.5, 0.5, 0.0]]]))
    torch.testing.assert_close(before, torch.tensor([[[0.5, 0.9, 1.22, 0.176]]]))
    assert spikes.tolist() == [[[0, 0, 1, 0]]]


def test_a_neuron_can_be_made_to_spike(script):
    forced = torch.tensor([[[1.0, 0.0]]])
    before, spikes = script["potentials"](torch.tensor([[[0.5, 0.5]]]), forced)
    torch.testing.assert_close(before, torch.tensor([[[0.5, 0.1]]]))
    assert spikes.equal(forced)


@pytest.mark.slow
def test_delays_are_recovered_from_spikes(script):
    found = script["from_spikes"](inputs=4, neurons=2, length=60, steps=200)
    assert found.learned.tolist() == found.true.tolist()
    assert found.recovered == found.true.numel() == 8
    assert found.score > 0.2  # unrelated spikes at such rates share a few hundredths


@pytest.mark.slow
def test_delays_are_recovered_from_labels(script):
    found = script["from_patterns"](inputs=8, classes=2, length=60, steps=150)
    assert found.learned.tolist() == found.true.tolist()
    assert found.recovered == found.true.numel() == 16
    assert found.score > 0.9


def test_the_table_counts_what_is_exact(script):
    true = torch.tensor([[3, 7]])
    found = script["Found"](true, torch.tensor([[3, 8]]), 1.0)
    assert found.recovered == 1
    assert str(found).splitlines() == [
        "neuron  delays   input 0  input 1",
        "     0  true           3        7",
        "     0  learned        3        8",
    ]
