"""Positions kept inside, drawn, annealed and rounded."""

import math
import re

import pytest
import torch

from atrous import GeometryError, UnsupportedModule
from atrous.nn import Dcls1d, Dcls2_1d, Dcls2d
from atrous.recipe import (
    anneal_scales,
    clamp_after_steps,
    clamp_positions,
    reset_positions,
    round_positions,
    share_positions,
)

INTERPOLATIONS = ("bilinear", "bicubic", "triangle", "gaussian")
every_interpolation = pytest.mark.parametrize("interpolation", INTERPOLATIONS)


def layer(interpolation="bilinear", count=6, size=(4, 7), **options):
    return Dcls2d(2, 2, count, padding="same", dilated_kernel_size=size, interpolation=interpolation, **options)


def scatter(model, spread=4.0):
    """Put all positions anywhere, also outside."""
    for one in model.modules():
        if hasattr(one, "P"):
            torch.nn.init.normal_(one.P, 0, spread)
    return model


def test_clamping_is_to_the_limits_of_each_axis_and_moves_no_output():
    model = scatter(torch.nn.Sequential(layer(), torch.nn.ReLU(), layer()))
    image = torch.randn(1, 2, 8, 8)
    before, output = model[0].P.detach().clone(), model(image)
    assert clamp_positions(model) is None
    assert torch.equal(model[0].P[0], before[0].clamp(-2, 1))
    assert torch.equal(model[0].P[1], before[1].clamp(-3, 3))
    assert not torch.equal(model[0].P, before)
    torch.testing.assert_close(model(image), output)


def test_the_hook_clamps_after_each_step_until_it_is_removed():
    model = torch.nn.Sequential(layer())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    handle = clamp_after_steps(model, optimizer)
    model[0].P.grad = torch.full_like(model[0].P, -50.0)
    optimizer.step()
    assert torch.equal(model[0].P.detach().amax((1, 2, 3)), torch.tensor([1.0, 3.0]))
    handle.remove()
    optimizer.step()
    assert model[0].P.min() > 40


@pytest.mark.parametrize(("distribution", "deviation"), [("normal", 0.5), ("uniform", 17 / math.sqrt(12))])
def test_the_distributions(distribution, deviation):
    model = layer(count=5000, size=(17, 1))
    reset_positions(model, distribution)
    tall, flat = model.P.detach()
    assert tall.mean().abs() < 0.15
    assert tall.std().item() == pytest.approx(deviation, rel=0.08)
    assert -8 <= tall.min() <= tall.max() <= 8
    assert not flat.any()
    assert len(tall.unique()) > 0.99 * tall.numel()


def test_shared_positions_are_drawn_once():
    torch.manual_seed(3)
    alone = layer()
    model = torch.nn.Sequential(layer(), layer())
    share_positions(model)
    for one in (alone, model):
        torch.manual_seed(5)
        reset_positions(one)
    assert torch.equal(model[1].P, alone.P)


def test_a_dense_window_is_drawn_as_it_is_asked():
    model = Dcls2_1d(1, 1, 2000, dense_kernel_size=3, dilated_kernel_size=21)
    assert model.P.std() > 4
    reset_positions(model)
    assert model.P.std().item() == pytest.approx(0.5, rel=0.1)


def test_another_distribution():
    with pytest.raises(GeometryError, match="reset_positions: distribution: got 'cauchy', expected 'normal' or 'unif"):
        reset_positions(layer(), "cauchy")


@pytest.mark.parametrize("interpolation", ["triangle", "gaussian"])
def test_scales_follow_the_schedule_of_each_axis(interpolation):
    model = torch.nn.Sequential(layer(interpolation, size=(25, 1)), layer())
    for progress in (0, 0.25, 1.0):
        anneal_scales(model, progress)
        tall, flat = model[0].SIG
        torch.testing.assert_close(tall, torch.full_like(tall, 12 * (0.23 / 12) ** progress))
        assert torch.equal(flat, torch.full_like(flat, 0.23))  # K // 2 is 0 there


def test_the_schedule_is_that_of_the_papers():
    """A factor for every epoch, over a quarter of them."""
    model = Dcls1d(1, 1, 1, dilated_kernel_size=31, interpolation="gaussian")
    scale, epochs = 15.0, 40
    for epoch in range(epochs // 4 + 1):
        anneal_scales(model, min(1, 4 * epoch / epochs))
        assert model.SIG.item() == pytest.approx(scale, rel=1e-5)
        scale *= (0.23 / 15) ** (1 / (epochs // 4))


def test_ends_of_a_schedule_of_ones_own():
    model = layer("gaussian")
    anneal_scales(model, 0.5, first=4.0, last=1.0)
    assert torch.equal(model.SIG, torch.full_like(model.SIG, 2.0))


def test_annealed_scales_do_not_learn():
    model = layer("gaussian")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    model.SIG.grad = torch.ones_like(model.SIG)
    anneal_scales(model, 1)
    model(torch.randn(1, 2, 8, 8)).sum().backward()
    optimizer.step()
    assert torch.equal(model.SIG, torch.full_like(model.SIG, 0.23))
    assert model.P.grad.count_nonzero() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"progress": 1.01}, "progress: got 1.01, expected 0 to 1"),
        ({"progress": -0.5}, "progress: got -0.5, expected 0 to 1"),
        ({"progress": float("nan")}, "progress: got nan, expected 0 to 1"),
        ({"progress": 0, "first": 0.0}, "first: got 0.0, expected above 0 pixels"),
        ({"progress": 0, "last": -1.0}, "last: got -1.0, expected above 0 pixels"),
    ],
)
def test_a_schedule_that_cannot_be(arguments, message):
    with pytest.raises(GeometryError, match=re.escape(f"anneal_scales: {message}")):
        anneal_scales(layer("gaussian"), **arguments)


def test_no_widths_to_anneal():
    with pytest.raises(
        UnsupportedModule, match="anneal_scales: got Sequential without a layer that has widths, expect"
    ):
        anneal_scales(torch.nn.Sequential(layer(), layer("bicubic")), 0)


@every_interpolation
def test_rounded_each_element_is_one_pixel(interpolation):
    model = scatter(layer(interpolation, count=1))
    expected = model.P.detach().round()
    expected = torch.stack([expected[0].clamp(-2, 1), expected[1].clamp(-3, 3)])
    round_positions(model)
    assert torch.equal(model.P, expected)
    kernel, rows, columns = model.kernel(), *(expected.long() + torch.tensor([2, 3]).view(2, 1, 1, 1))
    assert (kernel.count_nonzero(dim=(2, 3)) == 1).all()
    found = kernel.flatten(2).gather(2, rows * 7 + columns)
    assert torch.equal(found, model.weight)


@every_interpolation
def test_restored_bit_for_bit(interpolation):
    model = scatter(torch.nn.Sequential(*(layer(interpolation) for _ in range(3)))).eval()
    share_positions(model, lambda name: None if name == "2" else "shared")
    parameters = dict(model.named_parameters())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = torch.randn(1, 2, 8, 8)
    with torch.no_grad():
        output = model(image)
        with round_positions(model) as rounded:
            assert not torch.equal(model(image), output)
            assert all(torch.equal(one.P, one.P.round()) for one in model)
            assert [one.SIG for one in model] == [None] * 3
        assert torch.equal(model(image), output)
    assert [one.interpolation for one in model] == [interpolation] * 3
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value is parameters[name] for name, value in model.named_parameters())
    torch.nn.init.zeros_(model[0].P)
    rounded.restore()  # is done
    assert not model[0].P.any()


def test_restored_after_an_error():
    model = layer("gaussian")
    before = model.P.detach().clone()
    with pytest.raises(KeyError), round_positions(model):
        raise KeyError
    assert torch.equal(model.P, before)
    assert model.interpolation == "gaussian"


def test_without_a_layer_of_learned_spacings_nothing_happens():
    model = torch.nn.Linear(2, 2)
    before = model.weight.detach().clone()
    clamp_positions(model)
    reset_positions(model)
    with round_positions(model):
        assert torch.equal(model.weight, before)


def test_scales_follow_a_model_that_moves_while_it_is_rounded():
    layer = Dcls1d(1, 1, 2, dilated_kernel_size=9, interpolation="gaussian")
    scales = layer.SIG
    with round_positions(layer):
        layer.double()
    assert layer.SIG is scales
    assert layer.SIG.dtype == layer.P.dtype == torch.float64
