"""Where elements lie: histograms, taps, shares at the limits, and layers that share positions."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from atrous import GeometryError, UnsupportedModule
from atrous.analysis.positions import positions
from atrous.functional import dcls_taps
from atrous.nn import Dcls1d, Dcls2_1d, Dcls2d, Dcls3_2d, Dcls3d


def placed(layer, *axes):
    """Return the layer with its positions at the values of each axis."""
    with torch.no_grad():
        layer.P.copy_(torch.tensor(axes).reshape(layer.P.shape))
    return layer


def only(model):
    (layer,) = positions(model).layers
    return layer


def test_places_are_counted_along_every_axis_of_a_window_that_is_no_square():
    found = only(placed(Dcls2d(1, 1, 3, dilated_kernel_size=(3, 6)), [1.0, 0.4, -1.0], [-3.0, -0.6, 2.0]))
    assert found.window == (3, 6)
    assert found.histograms == ((1, 1, 1), (1, 0, 1, 0, 0, 1))
    assert np.argwhere(found.counts).tolist() == [[0, 5], [1, 2], [2, 0]]
    assert found.mean == pytest.approx((0.4 / 3, -1.6 / 3))
    assert found.deviation == pytest.approx((np.std([1, 0.4, -1]), np.std([-3, -0.6, 2])))
    assert found.at_limits == pytest.approx(2 / 3)


def test_a_position_beyond_the_window_counts_as_one_at_its_limit():
    inside = only(placed(Dcls1d(1, 1, 2, dilated_kernel_size=5), [-2.0, 2.0]))
    beyond = only(placed(Dcls1d(1, 1, 2, dilated_kernel_size=5), [-7.5, 40.0]))
    assert beyond == inside
    assert beyond.histograms == inside.histograms == ((1, 0, 0, 0, 1),)
    assert beyond.at_limits == 1


def test_an_even_window_ends_earlier_after_the_middle():
    found = only(placed(Dcls1d(1, 1, 4, dilated_kernel_size=4), [-2.0, -1.9, 0.9, 1.0]))
    assert found.at_limits == 0.5
    assert found.histograms == ((2, 0, 0, 2),)


def test_an_axis_of_one_pixel_has_no_limit():
    found = only(placed(Dcls2d(1, 1, 2, dilated_kernel_size=(1, 5)), [3.0, 0.0], [0.5, -1.0]))
    assert found.at_limits == 0
    assert (found.taps, found.bound) == (3, 4)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "layer", [(Dcls1d, 25), (Dcls2d, (7, 9)), (Dcls3d, (3, 5, 7)), (Dcls2_1d, 9), (Dcls3_2d, (5, 1))], ids=str
)
def test_taps_are_the_distinct_pixels_of_all_elements(layer, interpolation):
    make, size = layer
    module = make(2, 3, 4, dilated_kernel_size=size, interpolation=interpolation)
    found = only(module)
    options = {"dilated_kernel_size": size, "interpolation": interpolation}
    weights, offsets = dcls_taps(torch.ones_like(module.weight), module.P, **options)
    pixels = [
        {tuple(place) for place, weight in zip(*pair, strict=True) if weight}
        for pair in zip(offsets.flatten(0, 1).tolist(), weights.flatten(0, 1).tolist(), strict=True)
    ]
    assert found.taps == sum(map(len, pixels)) / len(pixels)
    assert found.taps <= found.bound <= weights.shape[-1]


# Normal positions, 34 elements in a window of 17 x 17.
@pytest.mark.parametrize(("deviation", "taps"), [(0.5, 14), (1, 28), (2, 60), (3, 85)])
def test_elements_that_lie_close_share_taps(deviation, taps):
    layer = Dcls2d(384, 384, 34, dilated_kernel_size=17, groups=384)
    nn.init.normal_(layer.P, 0, deviation)
    layer.clamp_parameters()
    found = only(layer)
    assert round(found.taps) == pytest.approx(taps, abs=1)
    assert found.bound == 136


def test_what_fills_the_window_has_its_pixels_as_taps():
    found = only(Dcls2d(2, 2, 3, dilated_kernel_size=(5, 7), interpolation="gaussian"))
    assert (found.taps, found.bound) == (35, 35)
    # No more than the window, however many elements.
    assert only(Dcls2d(1, 1, 50, dilated_kernel_size=5)).bound == 25


@pytest.mark.parametrize(("interpolation", "least"), [("triangle", 1), ("gaussian", 0.27)])
def test_widths_are_the_mean_of_each_axis(interpolation, least):
    layer = Dcls2d(1, 1, 2, dilated_kernel_size=5, interpolation=interpolation)
    with torch.no_grad():
        layer.SIG.copy_(torch.tensor([[-1.0, 3.0], [0.0, 0.5]]).view_as(layer.SIG))
    assert only(layer).widths == pytest.approx((2 + least, 0.25 + least))
    assert only(Dcls1d(1, 1, 1, dilated_kernel_size=3)).widths is None


def test_layers_that_share_positions_count_once():
    first, second, third = (Dcls2d(4, 4, 3, dilated_kernel_size=7, groups=4) for _ in range(3))
    second.P = first.P
    result = positions(nn.ModuleDict({"a": first, "b": second, "c": third, "d": first}))
    assert [layer.names for layer in result.layers] == [("a", "b", "d"), ("c",)]
    assert [layer.title for layer in result.layers] == ["a (shared by 3)", "c"]
    assert result.layers[0].counts.sum() == 12


def test_the_same_positions_in_another_window_are_another_row():
    first, second = Dcls1d(1, 1, 3, dilated_kernel_size=5), Dcls1d(1, 1, 3, dilated_kernel_size=9)
    second.P = first.P
    assert [layer.window for layer in positions(nn.Sequential(first, second)).layers] == [(5,), (9,)]


def test_a_dense_window_has_elements_of_its_own_at_every_pixel():
    found = only(Dcls3_2d(1, 2, 4, dense_kernel_size=3, dilated_kernel_size=(5, 7)))
    assert (found.elements, found.window, found.counts.sum()) == (12, (5, 7), 24)
    assert found.bound == 48


@pytest.mark.parametrize(("at_limit", "advised"), [(10, False), (11, True)])
def test_the_advice_comes_above_a_tenth_at_the_limits(at_limit, advised):
    layer = placed(Dcls1d(1, 1, 100, dilated_kernel_size=5), [2.0] * at_limit + [0.0] * (100 - at_limit))
    text = str(positions(nn.Sequential(layer)))
    advice = "\n0: more than 10% of the elements lie at a limit of the window; enlarge dilated_kernel_size"
    assert (advice in text) == only(layer).is_crowded == advised


def test_it_prints_as_a_table():
    layer = placed(Dcls2d(1, 1, 2, dilated_kernel_size=(5, 9), version="gauss"), [1.0, 0.0], [-1.5, 1.4999])
    assert str(positions(nn.Sequential(layer))).splitlines() == [
        "layer  interpolation  elements  window  mean        deviation   width        taps  at limits",
        "    0  gaussian              2     5x9  0.50, 0.00  0.50, 1.50  0.50, 0.50  45/45       0.0%",
    ]


def test_it_is_plain_data():
    model = nn.Sequential(Dcls1d(1, 2, 3, dilated_kernel_size=5), Dcls2d(1, 1, 2, dilated_kernel_size=3, version="max"))
    layers = json.loads(json.dumps(positions(model).to_dict()))["layers"]
    assert [layer["names"] for layer in layers] == [["0"], ["1"]]
    assert [len(layer["histograms"]) for layer in layers] == [1, 2]
    assert [layer["widths"] for layer in layers] == [None, [1.0, 1.0]]


def test_nothing_is_recorded_or_changed():
    layer = Dcls1d(1, 1, 3, dilated_kernel_size=5).half()
    before = layer.P.detach().clone()
    assert only(layer).mean == pytest.approx((before.double().mean().item(),))
    assert torch.equal(layer.P, before)
    assert layer.P.grad is None


def test_a_model_without_such_a_layer_is_refused():
    with pytest.raises(
        UnsupportedModule,
        match=r"positions: got Sequential without a layer of learned spacings, expected at least one; use atrous\.nn\.",
    ):
        positions(nn.Sequential(nn.Conv2d(1, 1, 3)))


def test_positions_that_are_no_numbers_are_refused():
    layer = placed(Dcls1d(1, 1, 3, dilated_kernel_size=5), [0.0, float("nan"), float("inf")])
    with pytest.raises(GeometryError, match="got 2 positions of layer '1' that are no finite number, expected none"):
        positions(nn.Sequential(nn.ReLU(), layer))
