import json
import re

import pytest
import torch

from atrous import GeometryError, ShapeError, trace_footprint
from atrous.analysis.borders import MODES, borders
from atrous.analysis.equivariance import ROUNDING


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def stack(*layers):
    torch.manual_seed(0)
    return torch.nn.Sequential(*(build() for build in layers))


def conv(before, after, kernel, **options):
    return lambda: torch.nn.Conv2d(before, after, kernel, **options)


NETWORKS = {
    "one dilated": stack(conv(1, 2, 3, padding=3, dilation=3)),
    "same, even": stack(conv(1, 1, 5, padding="same")),
    "stack": stack(conv(1, 3, 3, padding=1), torch.nn.ReLU, conv(3, 1, 3, padding=4, dilation=4)),
    "strided": stack(conv(1, 2, 3, stride=2, padding=1), conv(2, 1, 3, padding=2, dilation=2)),
    "pooled": stack(conv(1, 2, 3, padding=1), lambda: torch.nn.MaxPool2d(2), lambda: torch.nn.Upsample(scale_factor=2)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_error_ends_where_the_footprint_says(name):
    model, size = NETWORKS[name], 32
    found = borders(model, noise(2, 1, 72, 74), size=size)
    fp = trace_footprint(model, torch.zeros(1, 1, size, size))
    (stride, _), (count, _) = fp.stride, fp.output_size
    reads = [fp.reads([(p, p + 1), (0, 1)])[0] for p in range(count)]
    touched = [min(p, count - 1 - p) for p, (start, stop) in enumerate(reads) if start < 0 or stop > size]
    assert found.clear == (max(touched) + 1) * stride
    assert tuple(found.errors) == MODES
    for errors in found.errors.values():
        for distance, error in zip(found.distances, errors, strict=True):
            if distance >= found.clear:
                assert error <= ROUNDING * found.scale
        assert errors[found.distances.index(found.clear) - 1] > 1e-4 * found.scale


def test_a_constant_image_is_wrong_only_under_zeros():
    model = torch.nn.Conv1d(1, 1, 3, padding=2, dilation=2, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    found = borders(model, torch.ones(1, 1, 30), size=9)
    assert found.errors["zeros"] == (1.0, 1.0, 0.0, 0.0, 0.0)
    assert {error for mode in MODES[1:] for error in found.errors[mode]} == {0.0}
    assert (found.scale, found.clear) == (3.0, 2)


def test_circular_padding_is_the_truth_of_a_periodic_image():
    model = torch.nn.Conv1d(1, 1, 3, padding=2, dilation=2)
    found = borders(model, noise(1, 1, 8).repeat(1, 1, 4), size=8)
    assert max(found.errors["circular"]) <= ROUNDING * found.scale
    assert found.errors["zeros"][0] > 1e-2 * found.scale


def test_every_output_may_read_padding():
    model = torch.nn.Conv1d(1, 1, 3, padding=5, dilation=5)
    found = borders(model, noise(1, 1, 40), size=8, modes=["zeros"])
    assert found.clear is None
    assert found.distances == (0, 1, 2, 3)
    assert min(found.errors["zeros"]) > 0


def test_without_padding_there_is_no_error():
    found = borders(torch.nn.Conv1d(1, 1, 3), noise(1, 1, 40), size=8)
    assert found.clear == 0
    assert max(max(errors) for errors in found.errors.values()) <= ROUNDING * found.scale


def test_the_model_is_left_as_it_was():
    model = torch.nn.Conv1d(1, 1, 3, padding=1).train()
    borders(model, noise(1, 1, 40), size=8)
    assert (model.padding_mode, model.training, model.weight.dtype) == ("zeros", True, torch.float32)


def test_prints_as_a_table_and_is_plain_for_json():
    model = torch.nn.Conv1d(1, 1, 3, padding=1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    found = borders(model, torch.ones(1, 1, 12), size=4, modes=["zeros", "circular"])
    assert [line.split() for line in str(found).splitlines()] == [
        ["distance", "zeros", "circular"],
        ["0", "1.00e+00", "0.00e+00"],
        ["1", "0.00e+00", "0.00e+00"],
    ]
    assert json.loads(json.dumps(found.to_dict())) == {
        "distances": [0, 1],
        "errors": {"zeros": [1.0, 0.0], "circular": [0.0, 0.0]},
        "scale": 3.0,
        "clear": 1,
        "skipped": {},
    }


def test_an_unknown_mode_is_named():
    with pytest.raises(GeometryError, match="borders: got padding mode 'mirror', expected one of"):
        borders(torch.nn.Conv1d(1, 1, 3), noise(1, 1, 40), size=8, modes=["mirror"])


@pytest.mark.parametrize("own", MODES)
def test_padding_that_does_not_fit_is_left_out_and_the_table_says_so(own):
    model = torch.nn.Conv1d(1, 1, 3, padding=4, dilation=4, padding_mode=own)
    found = borders(model, noise(1, 1, 40), size=4)
    assert list(found.errors) == ["zeros", "replicate", "circular"]
    assert list(found.to_dict()["skipped"]) == ["reflect"]
    head, *_, last = str(found).splitlines()
    assert head.split() == ["distance", "zeros", "replicate", "circular"]
    assert re.match("reflect is left out: .*Padding size should be less than the corresponding input dimension", last)


def test_padding_of_which_nothing_fits_is_named():
    model = torch.nn.Conv1d(1, 1, 3, padding=5, dilation=5)
    with pytest.raises(GeometryError, match=r"padding 'reflect' does not fit a window of size=4: .*; give a larger"):
        borders(model, noise(1, 1, 40), size=4, modes=["reflect", "circular"])


@pytest.mark.parametrize(("shape", "size"), [((1, 1, 8), 9), ((1, 1, 8), 0), ((8, 8), 4)])
def test_a_window_outside_of_the_image_is_named(shape, size):
    with pytest.raises(ShapeError, match=f"with at least size={size} pixels along each axis"):
        borders(torch.nn.Conv1d(1, 1, 3, padding=1), noise(*shape), size=size)


def test_an_image_without_a_truth_is_named():
    sentence = (
        "got an image of 20 pixels along axis 0, where outputs 4 to 15 read no padding, "
        "expected none in outputs 3 to 16, the truth for size=14; give a larger image or a lower size"
    )
    with pytest.raises(ShapeError, match=sentence):
        borders(torch.nn.Conv1d(1, 1, 3, padding=4, dilation=4), noise(1, 1, 20), size=14)


def test_a_global_output_is_named():
    model = torch.nn.Sequential(torch.nn.Conv1d(1, 1, 3, padding=1), torch.nn.Softmax(2))
    with pytest.raises(GeometryError, match=r"borders: got a network whose output .* at one rate"):
        borders(model, noise(1, 1, 40), size=8)
