"""The map is the gradient; its moments are those of the closed form; the model is left as it was."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from atrous import AtrousError, GeometryError, ShapeError
from atrous.analysis import effective
from atrous.analysis.effective import EffectiveReceptiveField, effective_receptive_field


def uniform(layers, ndim=2, channels=1):
    """Return a stack of convolutions (kernel, stride, dilation) whose weights are all 1."""
    convolution = getattr(nn, f"Conv{ndim}d")
    stack = nn.Sequential(*[convolution(channels, channels, k, s, dilation=d, bias=False) for k, s, d in layers])
    for layer in stack:
        nn.init.ones_(layer.weight)
    return stack.double()


def closed_form(layers):
    variance, jump = 0.0, 1
    for kernel, stride, dilation in layers:
        variance += (jump * dilation) ** 2 * (kernel**2 - 1) / 12
        jump *= stride
    return math.sqrt(variance)


STACKS = [
    [(3, 1, 1)] * 6,
    [(3, 1, 1), (3, 1, 2), (3, 1, 4)],
    [(5, 2, 1), (3, 1, 3), (2, 2, 1), (4, 1, 1)],
    [(3, 1, 2)] * 3,
]


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("layers", STACKS, ids=str)
def test_the_deviation_of_uniform_weights_is_the_closed_form(layers, ndim):
    field = effective_receptive_field(uniform(layers, ndim), torch.rand(1, 1, *(44,) * ndim, dtype=torch.float64))
    np.testing.assert_allclose(field.deviation, [closed_form(layers)] * ndim, rtol=1e-12)
    np.testing.assert_allclose(field.ratio, 4 * np.array(field.deviation) / field.receptive_field)
    # Symmetric weights: the mean is the middle of the window.
    np.testing.assert_allclose(field.centre, [(start + stop - 1) / 2 for start, stop in field.window])


def test_axes_are_apart():
    network = nn.Conv2d(1, 1, (3, 5), dilation=(4, 1), bias=False).double()
    nn.init.ones_(network.weight)
    field = effective_receptive_field(network, torch.rand(1, 1, 20, 20, dtype=torch.float64))
    np.testing.assert_allclose(field.deviation, [math.sqrt(16 * 8 / 12), math.sqrt(2)])
    assert field.receptive_field == (9, 5)


def test_more_layers_shrink_the_ratio():
    ratios = [effective_receptive_field(uniform([(3, 1, 1)] * n), images(48)).ratio[0] for n in (2, 8, 20)]
    assert ratios == sorted(ratios, reverse=True)


def images(size=20, count=1, channels=1):
    return torch.rand(count, channels, size, size, dtype=torch.float64)


def test_one_channel_is_the_mean_absolute_gradient_of_the_output():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=2, dilation=2)
    ).double()
    batch = images(count=3, channels=3).requires_grad_()
    (gradient,) = torch.autograd.grad(network(batch)[:, 0, 10, 10].sum(), batch)
    expected = gradient.abs().sum((0, 1))
    found = effective_receptive_field(network, batch)
    np.testing.assert_allclose(found.map, expected / expected.sum(), rtol=1e-12)
    assert (found.at, found.images, found.window) == ((10, 10), 3, ((7, 14), (7, 14)))


def test_many_channels_weigh_by_the_norm_of_their_gradients():
    network = nn.Conv1d(1, 6, 5, padding=2, bias=False).double()
    found = effective_receptive_field(network, torch.rand(4000, 1, 11, dtype=torch.float64), batch=4000)
    norms = network.weight[:, 0].norm(dim=0).detach()
    # Of 4000 directions the mean is known to 0.75 / sqrt(4000), about 1.2 %: four of those.
    np.testing.assert_allclose(found.map[3:8], norms / norms.sum(), rtol=0.05)


def test_channels_that_add_up_to_a_constant_have_a_field_all_the_same():
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Softmax(dim=1)).double()
    assert (effective_receptive_field(network, images()).map > 0).sum() == 9


def test_the_batch_does_not_change_the_map():
    network = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 3, 3)).double()
    batch = images(count=7, channels=2)
    maps = [effective_receptive_field(network, batch, batch=size).map for size in (1, 3, 7)]
    np.testing.assert_allclose(maps[1:], [maps[0]] * 2, rtol=1e-12)


def test_another_output_is_taken():
    field = effective_receptive_field(uniform([(3, 1, 1)]), images(), at=(0, 17))
    assert np.argwhere(field.map).min(0).tolist() == [0, 17]
    assert field.window == ((0, 3), (17, 20))


def test_what_lies_in_the_padding_counts_for_the_theoretical_field_alone():
    network = nn.Conv2d(1, 1, 3, padding=1).double()
    field = effective_receptive_field(network, images(), at=(0, 5))
    assert field.window == ((-1, 2), (4, 7))
    assert (field.map > 0).sum() == 6


def test_the_model_and_the_images_are_left_as_they_were():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)).double()
    network[1].eval()
    network[0].weight.requires_grad_(False)
    network[0].bias.grad = torch.full_like(network[0].bias, 7)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    batch, random = images(), torch.get_rng_state()
    effective_receptive_field(network, batch)
    assert [module.training for module in network.modules()] == [True, True, False, True]
    assert [value.requires_grad for value in network.parameters()] == [False, True, True, True]
    assert network[0].bias.grad.tolist() == [7, 7]
    assert network[0].weight.grad is None
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not batch.requires_grad
    assert batch.grad is None
    assert torch.equal(torch.get_rng_state(), random)


def test_the_mode_comes_back_after_an_error():
    class Fails(nn.Conv2d):
        def forward(self, x):
            if not torch.compiler.is_exporting():
                raise RuntimeError("no")
            return super().forward(x)

    network = Fails(1, 1, 3).double()
    with pytest.raises(RuntimeError, match="no"):
        effective_receptive_field(network, images())
    assert network.training


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_runs_where_gradients_are_off(mode):
    network = uniform([(3, 1, 1)])
    with mode():
        field = effective_receptive_field(network, images())
    assert (field.map > 0).sum() == 9


def test_half_precision_is_summed_in_double():
    field = effective_receptive_field(uniform([(3, 1, 1)]).to(torch.bfloat16), images().to(torch.bfloat16))
    assert field.map.dtype == np.float64
    np.testing.assert_allclose(field.deviation, math.sqrt(8 / 12))


def test_it_prints_and_turns_into_json():
    field = effective_receptive_field(uniform([(3, 1, 1)] * 6), images(33))
    assert str(field).splitlines() == [
        "axis  output  receptive field  deviation  effective  ratio",
        "   0      10               13       2.00        8.0   0.62",
        "   1      10               13       2.00        8.0   0.62",
    ]
    plain = json.loads(json.dumps(field.to_dict()))
    assert plain["receptive_field"] == [13, 13]
    assert plain["window"] == [[10, 23], [10, 23]]
    assert [len(profile) for profile in plain["profiles"]] == [33, 33]
    assert {"at", "images", "centre", "deviation", "extent", "ratio"} < plain.keys()


def test_profiles_are_the_sums_over_the_other_axes():
    weights = np.arange(24.0).reshape(2, 3, 4)
    field = EffectiveReceptiveField(weights, (0, 0, 0), 1, ((0, 2), (0, 3), (0, 4)))
    np.testing.assert_array_equal(field.profiles[1], weights.sum((0, 2)))


def test_a_long_run_counts_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(effective.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(effective, "_PATIENCE", -1.0)
    effective_receptive_field(uniform([(3, 1, 1)]), images(count=3), batch=2)
    told = capsys.readouterr().err
    assert told == "\reffective_receptive_field: 2 of 3 images\reffective_receptive_field: 3 of 3 images\n"


def test_a_short_run_is_silent(capsys):
    effective_receptive_field(uniform([(3, 1, 1)]), images())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "bad", [torch.zeros(4, 4), torch.zeros(0, 1, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.uint8)]
)
def test_images_that_are_none_are_named(bad):
    with pytest.raises(ShapeError, match=r"effective_receptive_field: images: got .*, expected floats \(B, C, \*S\)"):
        effective_receptive_field(uniform([(3, 1, 1)]), bad)


@pytest.mark.parametrize("at", [(3,), (0, 18), (-1, 0)])
def test_an_output_that_is_not_there_is_named(at):
    with pytest.raises(GeometryError, match=r"at: got .*, expected indices inside the output of \(18, 18\)"):
        effective_receptive_field(uniform([(3, 1, 1)]), images(), at=at)


def test_a_batch_of_none_is_named():
    with pytest.raises(GeometryError, match="batch: got 0, expected at least 1"):
        effective_receptive_field(uniform([(3, 1, 1)]), images(), batch=0)


class Several(nn.Conv2d):
    def forward(self, x):
        return super().forward(x), x


@pytest.mark.parametrize(
    ("network", "got"), [(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), r"\(1, 648\)"), (Several(1, 1, 3), "tuple")]
)
def test_an_output_without_the_axes_is_named(network, got):
    with pytest.raises(ShapeError, match=rf"the model returns {got}, expected a tensor \(B, D, \*P\)"):
        effective_receptive_field(network.double(), images(), at=(0, 0))


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_gradients_without_a_field_are_named(value):
    network = uniform([(3, 1, 1)])
    nn.init.constant_(network[0].weight, value)
    with pytest.raises(
        AtrousError, match=r"gradients of output \(9, 9\) add up to .*, expected a finite number above 0"
    ):
        effective_receptive_field(network, images())
