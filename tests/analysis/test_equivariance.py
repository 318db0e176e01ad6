import json
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from atrous import GeometryError, ShapeError, trace_footprint
from atrous.analysis.equivariance import equivariance, interior


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def dilated(channels=3):
    torch.manual_seed(0)
    layers = []
    for before, r in ((1, 1), (channels, 2), (channels, 4)):
        layers += [torch.nn.Conv2d(before, channels, 3, padding=r, dilation=r), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers)


def test_a_dilated_stack_of_whole_numbers_is_equal_bit_by_bit():
    model = dilated()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_((4 * weight).round())
    found = equivariance(model, (8 * noise(1, 1, 31, 34)).round(), 5)
    assert found.period == (1, 1)
    assert len(found.shifts) == 15
    assert {one.error for one in found.shifts} == {0.0}


def test_a_dilated_stack_is_exact_up_to_rounding():
    found = equivariance(dilated(), noise(1, 1, 31, 34), 5)
    assert found.exact
    assert found.interior == ((7, 19), (7, 22))


@pytest.mark.parametrize(
    ("model", "period"),
    [
        (torch.nn.Sequential(torch.nn.MaxPool1d(2), torch.nn.Upsample(scale_factor=2)), 2),
        (torch.nn.Sequential(torch.nn.AvgPool1d(3), torch.nn.ConvTranspose1d(1, 1, 3, stride=3)), 3),
        (torch.nn.Sequential(torch.nn.Conv1d(1, 1, 3, 2), torch.nn.Upsample(scale_factor=2, mode="linear")), 2),
    ],
)
def test_exact_shifts_are_the_multiples_of_the_period(model, period):
    found = equivariance(model, noise(1, 1, 50), 8)
    assert found.period == (period,)
    assert [one.shift[0] for one in found.shifts if one.exact] == list(range(period, 9, period))
    assert not found.exact
    assert min(one.relative for one in found.shifts if not one.exact) > 1e-3


def test_strided_outputs_are_compared_at_whole_outputs():
    model = torch.nn.Conv2d(1, 1, 3, stride=(2, 3), padding=1)
    found = equivariance(model, noise(1, 1, 40, 40), 6)
    assert [one.shift for one in found.shifts] == [(2, 0), (4, 0), (6, 0), (0, 3), (0, 6), (6, 6)]
    assert found.exact


def test_upsampled_outputs_move_by_more_than_the_image():
    found = equivariance(torch.nn.ConvTranspose1d(1, 1, 4, stride=2, padding=1), noise(1, 1, 30), 3)
    assert found.exact
    assert [one.shift for one in found.shifts] == [(1,), (2,), (3,)]


def test_padding_inside_of_a_network_is_no_interior():
    class CropAndPad(torch.nn.Module):
        def forward(self, x):
            return F.pad(x[..., 3:-4], (3, 4))

    assert interior(trace_footprint(CropAndPad(), torch.zeros(1, 1, 20))) == ((3, 16),)
    assert equivariance(CropAndPad(), noise(1, 1, 24), 4).exact


def test_the_interior_is_empty_where_padding_is_read_everywhere():
    model = torch.nn.Conv1d(1, 1, 3, padding=9, dilation=9)
    assert interior(trace_footprint(model, torch.zeros(1, 1, 12))) == ((6, 6),)


def test_the_first_tensor_of_several_is_compared():
    class Two(torch.nn.Module):
        def forward(self, x):
            return {"same": x, "pooled": F.max_pool1d(x, 2)}

    assert equivariance(Two(), noise(1, 1, 12), 2).exact


def test_the_model_is_left_as_it_was():
    model = dilated().train()
    equivariance(model, noise(1, 1, 30, 30), 1)
    assert model.training
    assert model[0].weight.dtype == torch.float32


def test_a_constant_output_has_no_error():
    model = torch.nn.Sequential(torch.nn.Conv1d(1, 1, 3), torch.nn.Threshold(1e9, 0.0))
    assert [one.relative for one in equivariance(model, noise(1, 1, 12), 2).shifts] == [0.0, 0.0]


def test_prints_as_a_table_and_is_plain_for_json():
    model = torch.nn.Sequential(torch.nn.MaxPool1d(2), torch.nn.Upsample(scale_factor=2))
    found = equivariance(model, torch.arange(12.0)[None, None], 2)
    lines = [line.split() for line in str(found).splitlines()]
    assert lines[0] == ["shift", "largest", "error", "relative", "exact"]
    assert lines[1] == ["1", "1.00e+00", "1.11e-01", "no"]
    assert lines[2] == ["2", "0.00e+00", "0.00e+00", "yes"]
    plain = json.loads(json.dumps(found.to_dict()))
    assert (plain["period"], plain["interior"]) == ([2], [[0, 10]])
    assert plain["shifts"][1] == {"shift": [2], "error": 0.0, "relative": 0.0, "exact": True}


def test_a_shift_below_one_is_named():
    with pytest.raises(GeometryError, match="equivariance: got max_shift=0, expected at least 1 pixel"):
        equivariance(torch.nn.ReLU(), noise(1, 1, 8), 0)


@pytest.mark.parametrize("shape", [(1, 1, 8), (8, 8)])
def test_an_image_no_larger_than_the_shift_is_named(shape):
    with pytest.raises(ShapeError, match=r"expected \(B, C, \*S\) with more than max_shift=8 pixels along each axis"):
        equivariance(torch.nn.ReLU(), noise(*shape), 8)


def test_an_image_that_leaves_nothing_is_named():
    model = torch.nn.Conv1d(1, 1, 5, stride=2, padding=4, dilation=2)
    sentence = (
        "got 20 pixels along axis 0, where outputs 2 to 4 read no padding, expected more than 3 such outputs, "
        "to shift by up to 3; give a larger image or a lower max_shift"
    )
    with pytest.raises(ShapeError, match=sentence):
        equivariance(model, noise(1, 1, 20), 6)
    with pytest.raises(ShapeError, match="got 8 pixels along axis 0, where every output reads padding, expected more"):
        equivariance(model, noise(1, 1, 8), 2)


def test_a_shift_below_the_stride_is_named():
    model = torch.nn.Sequential(torch.nn.Conv1d(1, 1, 3, stride=3), torch.nn.Upsample(scale_factor=2))
    with pytest.raises(GeometryError, match="equivariance: got max_shift=2, expected at least 3, to shift by a whole"):
        equivariance(model, noise(1, 1, 40), 2)


def test_a_global_output_is_named():
    model = torch.nn.Sequential(torch.nn.Conv1d(1, 1, 3), torch.nn.Softmax(2))
    sentence = (
        r"output 1\.softmax reads all of it along axis 0, expected outputs that move along with the image at one rate; "
        "pass the part before its global layer"
    )
    with pytest.raises(GeometryError, match=sentence):
        equivariance(model, noise(1, 1, 12), 2)


def test_branches_of_several_strides_are_named():
    class Joined(torch.nn.Module):
        def forward(self, x):
            return x[..., :6] + F.max_pool1d(x, 2)[..., :6]

    with pytest.raises(
        GeometryError, match=r"add has no one stride along axis 0, .*; pass the part before its branches"
    ):
        equivariance(Joined(), noise(1, 1, 14), 2)


def test_an_output_without_its_axes_in_place_is_named():
    class Turned(torch.nn.Module):
        def forward(self, x):
            return x.transpose(2, 3)

    with pytest.raises(
        ShapeError, match=r"expected \(B, D, \*P\) with 2 axes in the order of the image's, of more than"
    ):
        equivariance(Turned(), noise(1, 1, 12, 12), 2)


def test_rates_are_those_of_the_footprint():
    model = torch.nn.Conv1d(1, 1, 3, stride=4)
    assert trace_footprint(model, torch.zeros(1, 1, 30)).stride == (Fraction(4),)
    assert equivariance(model, noise(1, 1, 38), 8).period == (4,)
