"""`BilinearUpsample` and its filler against interpolation, FCN's formula and Caffe's."""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F

from atrous import GeometryError, ShapeError, nn
from atrous.nn.init import bilinear_

OFF_CENTRE = (3, 6, 7, 10, 11, 14, 15)
SCALES = (1, 2, 3, 4, 5, 6, 7, 8, 16)


@pytest.mark.parametrize("scale", SCALES)
def test_inside_it_is_interpolation(scale):
    image = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    layer = nn.BilinearUpsample(3, scale, dtype=torch.float64)
    size = 2 * scale - scale % 2
    assert (layer.kernel_size, layer.padding) == ((size, size), (math.ceil((scale - 1) / 2),) * 2)
    result = layer(image)
    expected = F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)
    assert result.shape == expected.shape
    inside = (..., *[slice(scale, -scale)] * 2)
    torch.testing.assert_close(result[inside], expected[inside], rtol=1e-12, atol=1e-13)
    if scale > 1:
        assert not torch.allclose(result, expected)  # at borders it fades


def fcn(size):
    """The filler of FCN, as its authors wrote it: a centre for odd sizes and one for even sizes."""
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    return [1 - abs(i - centre) / factor for i in range(size)]


def caffe(size):
    """The first filler of Caffe, whose centre is in units of the factor."""
    factor = math.ceil(size / 2)
    centre = (2 * factor - 1 - factor % 2) / (2 * factor)
    return [1 - abs(i / factor - centre) for i in range(size)]


@pytest.mark.parametrize("size", range(1, 18))
def test_fillers(size):
    weight = torch.empty(2, 1, size, dtype=torch.float64)
    centred, off = bilinear_(weight.clone())[1, 0], bilinear_(weight.clone(), "caffe")[1, 0]
    torch.testing.assert_close(centred, torch.tensor(fcn(size), dtype=torch.float64))
    torch.testing.assert_close(off, torch.tensor(caffe(size), dtype=torch.float64))
    torch.testing.assert_close(centred, centred.flip(0))
    if size > 2:
        assert torch.allclose(centred, off) == (size not in OFF_CENTRE)
        assert torch.allclose(off, off.flip(0)) == (size not in OFF_CENTRE)


def test_full_and_grouped_weights():
    """FCN's layers mix no channels either, but hold all the zeros."""
    full = bilinear_(torch.empty(3, 3, 4, 6))
    grouped = bilinear_(torch.empty(3, 1, 4, 6))
    rows, columns = (torch.tensor(fcn(size)) for size in (4, 6))
    for a in range(3):
        torch.testing.assert_close(grouped[a, 0], rows[:, None] * columns)
        for b in range(3):
            assert torch.equal(full[a, b], grouped[a, 0] if a == b else torch.zeros(4, 6))
    image = torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(
        F.conv_transpose2d(image, full, stride=2), F.conv_transpose2d(image, grouped, stride=2, groups=3)
    )


@pytest.mark.parametrize(
    ("scale", "size"), [(2, 4), (8, 16), (32, 64), (2, 2), (2, 3), (3, 4), (3, 6), ((2, 3), (4, 3))]
)
def test_every_kernel_size_enlarges_by_the_scale(scale, size):
    layer = nn.BilinearUpsample(2, scale, size)
    steps = layer.stride
    assert layer(torch.zeros(1, 2, 5, 4)).shape == (1, 2, 5 * steps[0], 4 * steps[1])


def test_where_the_centre_of_a_pixel_goes():
    """To the centre of its block; half a pixel up and left of it where k - s is odd."""
    for scale, size in ((2, 4), (3, 5), (3, 4), (2, 5), (4, 8)):
        dot = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
        dot[0, 0, 4, 4] = 1
        result = nn.BilinearUpsample(1, scale, size, dtype=torch.float64)(dot)[0, 0]
        line = result.sum(0) / result.sum()
        place = (line * torch.arange(9 * scale)).sum().item()
        assert place == pytest.approx(4 * scale + (scale - 1) / 2 - ((size - scale) % 2) / 2)


def test_published_weights_load():
    """Those of DRN and of Yu and Koltun's Cityscapes model: k 16, s 8, p 4, one group for each class."""
    theirs = torch.nn.ConvTranspose2d(19, 19, 16, stride=8, padding=4, groups=19, bias=False)
    torch.nn.init.normal_(theirs.weight)
    ours = nn.BilinearUpsample(19, 8)
    assert ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 19, 6, 7)
    torch.testing.assert_close(ours(image), theirs(image))
    assert isinstance(ours, torch.nn.ConvTranspose2d)


def test_frozen_unless_told():
    assert [p.requires_grad for p in nn.BilinearUpsample(1, 2).parameters()] == [False]
    layer = nn.BilinearUpsample(1, 2, learnable=True)
    layer(torch.randn(1, 1, 3, 3)).sum().backward()
    assert layer.weight.grad.shape == (1, 1, 4, 4)
    with torch.no_grad():
        layer.weight.zero_()
    layer.reset_parameters()
    torch.testing.assert_close(layer.weight, nn.BilinearUpsample(1, 2).weight)


def test_the_filler_of_a_layer():
    layer = nn.BilinearUpsample(2, 3, 6, filler="caffe")
    torch.testing.assert_close(layer.weight[1, 0], torch.tensor(caffe(6))[:, None] * torch.tensor(caffe(6)))
    theirs = torch.nn.ConvTranspose2d(2, 2, 6, 3, 2, 1, groups=2, bias=False)
    assert repr(layer) == repr(theirs).replace("ConvTranspose2d", "BilinearUpsample")[:-1] + ", filler='caffe')"
    layer.reset_parameters()
    torch.testing.assert_close(layer.weight[0, 0, 0] / layer.weight[0, 0, 0, 0], torch.tensor(caffe(6)) / caffe(6)[0])


def test_life_of_a_module():
    torch.compiler.reset()
    layer = nn.BilinearUpsample(3, (2, 3))
    image = torch.randn(2, 3, 5, 4)
    expected = layer(image)
    torch.testing.assert_close(copy.deepcopy(layer)(image), expected)
    torch.testing.assert_close(layer(image[0]), expected[0])
    assert layer(image[:0]).shape == (0, 3, 10, 12)
    torch.testing.assert_close(layer(image.mT.contiguous().mT), expected)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(image), expected)
    torch.testing.assert_close(torch.export.export(layer, (image,)).module()(image), expected)
    made = nn.BilinearUpsample(3, 2, device="meta", dtype=torch.float16)
    assert (made.weight.device.type, made.weight.dtype) == ("meta", torch.float16)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: nn.BilinearUpsample(0, 2),
            GeometryError,
            "BilinearUpsample: channels: got (0,), expected integers of",
        ),
        (lambda: nn.BilinearUpsample(1, 0), GeometryError, "BilinearUpsample: scale: got (0, 0), expected integers of"),
        (lambda: nn.BilinearUpsample(1, 1.5), GeometryError, "BilinearUpsample: scale: got 1.5, expected integers"),
        (
            lambda: nn.BilinearUpsample(1, 4, 3),
            GeometryError,
            "kernel_size: got (3, 3) for a scale of (4, 4), expected at",
        ),
        (lambda: nn.BilinearUpsample(1, 1, 2), GeometryError, "and an odd size where the scale is 1"),
        (
            lambda: nn.BilinearUpsample(1, 2, filler="x"),
            GeometryError,
            "bilinear_: filler: got 'x', expected 'centred'",
        ),
        (lambda: bilinear_(torch.ones(4, 2, 3)), ShapeError, "bilinear_: got weight (4, 2, 3), expected (A, 1, *K) or"),
        (lambda: bilinear_(torch.ones(4, 4)), ShapeError, "bilinear_: got weight (4, 4), expected (A, 1, *K) or (A, A"),
        (
            lambda: nn.BilinearUpsample(2, 2)(torch.ones(1, 3, 4, 4)),
            ShapeError,
            "conv_transpose2d: got 3 input channels",
        ),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
