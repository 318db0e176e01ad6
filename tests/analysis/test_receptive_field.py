"""Receptive fields of known networks, and what the result says."""

import json
from fractions import Fraction

import pytest
import torch
from torch import nn

from atrous import ShapeError, trace_footprint
from atrous.analysis.receptive_field import receptive_field
from atrous.models import DilatedNet, FrontEnd, dilation7, dilation8, dilation10, dilation_small

from .networks import Residual, chain1d, conv, deeplab, drn_c26, mobilenet_v1, resnet50, vgg16

IMAGE = torch.zeros(1, 3, 64, 64)
SIGNAL = torch.zeros(1, 1, 3100)

# Araujo, Norris and Sim 2019, and the papers of the networks: (network, field, stride, padding of all layers together).
FIXTURES = {
    "VGG-16, pool5": (vgg16, 212, 32, 90),
    "ResNet-50, stride on the 3x3": (resnet50, 427, 32, 213),
    "ResNet-50, stride on the first 1x1": (lambda: resnet50(strided=1), 483, 32, 241),
    "MobileNet-v1": (mobilenet_v1, 315, 32, 157),
    "ResNet-50 at stride 8, first blocks as before": (
        lambda: resnet50(dilations=(1, 1, 2, 4), firsts=(1, 1, 1, 2)), 427, 8, 213,
    ),
    "ResNet-50 at stride 8, first blocks alike": (lambda: resnet50(dilations=(1, 1, 2, 4)), 475, 8, 237),
    "DRN-A-50": (lambda: resnet50(dilations=(1, 1, 2, 4), firsts=(1, 1, 1, 1)), 411, 8, 205),
    "DRN-C-26": (drn_c26, 581, 8, 290),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXTURES)
def test_published_fields_of_image_networks(name):
    network, field, stride, padding = FIXTURES[name]
    whole = receptive_field(network(), IMAGE).whole
    assert (whole.receptive_field, whole.stride, whole.offset) == ((field,) * 2, (stride,) * 2, (-padding,) * 2)
    assert whole.size == (64 // stride,) * 2


@pytest.mark.parametrize(
    ("kernel", "dilations", "field"),
    [
        pytest.param(2, [2**level for level in range(10)] * 3, 3070, id="WaveNet, 3 blocks"),
        pytest.param(7, [2**level for level in range(8) for _ in range(2)], 3061, id="TCN, 8 levels"),
    ],
)
def test_published_fields_of_signal_networks(kernel, dilations, field):
    whole = receptive_field(chain1d(kernel, dilations), SIGNAL).whole
    assert (whole.receptive_field, whole.stride, whole.offset) == ((field,), (1,), (0,))
    assert whole.size == (3101 - field,)


def test_the_front_end_sees_380_pixels_and_186_of_margin():
    front_end = FrontEnd(2, width=1 / 64)
    (bare, padded) = (
        receptive_field(network, torch.zeros(1, 3, side, side))
        for network, side in ((front_end, 400), (DilatedNet(front_end, nn.Identity()), 32))
    )
    assert (bare.whole.receptive_field, bare.whole.stride, bare.whole.offset) == ((380, 380), (8, 8), (0, 0))
    scores = last_calls(padded)["front_end.final"]
    assert (scores.receptive_field, scores.stride, scores.offset) == ((380, 380), (8, 8), (-186, -186))


@pytest.mark.slow
@pytest.mark.parametrize(("build", "field"), [(dilation7, 652), (dilation8, 908), (dilation10, 2444)])
def test_the_context_widens_the_field(build, field):
    # Larger than the widest dilation, 64 features.
    image = torch.zeros(1, 3, 600, 600)
    final = last_calls(receptive_field(build(2, channels="basic", width=1 / 64), image))["context.ctx_final"]
    assert (final.receptive_field, final.stride) == ((field, field), (8, 8))
    # The context is centred on the front end's field.
    assert final.offset == (-186 - (field - 380) // 2,) * 2


@pytest.mark.slow
def test_branches_stand_apart_and_the_mean_of_the_image_is_global():
    network = deeplab()
    fields = receptive_field(network, IMAGE)
    layers = last_calls(fields)
    branches = [layers[f"1.branches.{index}.0"] for index in range(4)]
    assert [branch.receptive_field for branch in branches] == [(side,) * 2 for side in (427, 619, 811, 1003)]
    assert {branch.stride for branch in branches} == {(8, 8)}
    assert layers["1.pooling.0"].globals == fields.whole.globals == (True, True)
    assert fields.whole.receptive_field == (64, 64)
    assert fields.whole.stride == (None, None)


def test_every_call_is_kept_and_those_that_change_nothing_are_not_printed():
    network = nn.Sequential(conv(3, channels=(1, 2)), nn.BatchNorm2d(2), Residual(conv(3, stride=1)), nn.Flatten(0, 1))
    fields = receptive_field(network, torch.zeros(1, 1, 16, 24))
    assert [(layer.module, layer.changes) for layer in fields.layers] == [
        ("", True),
        ("0", True),
        ("1", False),
        ("2.body.0", True),
        ("2", False),
        ("2", False),
        ("3", False),
    ]
    assert str(fields).splitlines() == [
        "  module  operator  receptive field  stride  offset   size",
        "          input                   1       1       0  16x24",
        "       0  conv2d                  3       1      -1  16x24",
        "2.body.0  conv2d                  5       1      -2  16x24",
        "          output                  5       1      -2  16x24",
    ]


def test_axes_that_differ_are_all_printed():
    network = nn.Sequential(nn.Conv2d(1, 1, (3, 1), (2, 1), (1, 0)), nn.Upsample(scale_factor=(1, 2)))
    last = str(receptive_field(network, torch.zeros(1, 1, 8, 8))).splitlines()[-1]
    assert last.split() == ["output", "3x1", "2x1/2", "-1x0", "4x16"]


def test_a_global_axis_is_printed_as_all():
    network = nn.Sequential(nn.Conv1d(1, 1, 3), nn.GroupNorm(1, 1))
    fields = receptive_field(network, torch.zeros(1, 1, 9))
    assert str(fields).splitlines()[-1].split() == ["output", "all", "-", "0", "7"]
    assert fields.whole.receptive_field == (9,)


def test_a_footprint_is_taken_as_it_is():
    footprint = trace_footprint(dilation_small(2, 1), torch.zeros(1, 1, 32, 32))
    assert receptive_field(footprint) == receptive_field(dilation_small(2, 1), torch.zeros(1, 1, 32, 32))
    first = receptive_field(footprint.layers[2])
    assert first.whole == first.layers[2]
    assert first.whole.receptive_field == (3, 3)


def test_the_numbers_are_plain_json():
    fields = receptive_field(nn.Conv1d(1, 1, 3, stride=2, padding=1), torch.zeros(1, 1, 9))
    plain = json.loads(json.dumps(fields.to_dict()))
    assert (
        plain["whole"]
        == plain["layers"][1]
        == {
            "module": "",
            "operator": "conv1d",
            "receptive_field": [3],
            "stride": ["2"],
            "offset": [-1],
            "size": [5],
            "global": [False],
            "changes": True,
        }
    )
    mean = receptive_field(nn.AdaptiveAvgPool1d(1), torch.zeros(1, 1, 9)).to_dict()["whole"]
    assert (mean["stride"], mean["global"]) == ([None], [True])
    assert fields.whole.stride == (Fraction(2),)


def test_an_input_without_axes_is_named():
    with pytest.raises(
        ShapeError, match=r"trace_footprint: got a first input of shape \(1, 3\), expected \(B, C, \*S\)"
    ):
        receptive_field(nn.Linear(3, 3), torch.zeros(1, 3))


def last_calls(fields):
    return {layer.module: layer for layer in fields.layers}
