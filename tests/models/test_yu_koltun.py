import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from atrous import GeometryError, ShapeError, models


def on_meta(build, *args, **kwargs):
    with torch.device("meta"):
        return build(*args, **kwargs)


@pytest.mark.parametrize(("classes", "count"), [(21, 134_346_581), (19, 134_338_387), (11, 134_305_611)])
def test_published_parameter_counts(classes, count):
    assert sum(p.numel() for p in on_meta(models.FrontEnd, classes).parameters()) == count


@pytest.mark.parametrize(
    ("size", "out"), [(500, 16), (628, 32), (852, 60), (884, 64), (900, 66), (1100, 91), (1396, 128), (1640, 159)]
)
def test_published_sizes(size, out):
    front_end = on_meta(models.FrontEnd, 3)
    assert front_end.geometry.output_size((size, size)) == (out, out)
    assert front_end(torch.zeros(1, 3, size, 400, device="meta")).shape == (1, 3, out, 4)


def test_published_geometry():
    front_end = on_meta(models.FrontEnd, 21)
    assert (front_end.geometry.kernel, front_end.geometry.stride, front_end.margin) == ((380, 380), (8, 8), 186)
    for build, field, alignment in (
        (models.dilation7, 652, "corner"),
        (models.dilation8, 908, "corner"),
        (models.dilation10, 2444, "centre"),
    ):
        net = on_meta(build, 21)
        assert net.geometry.kernel == (field, field)
        assert net.upsample.alignment == alignment


def test_published_layers():
    names = [n for n, m in on_meta(models.FrontEnd, 21).named_children() if isinstance(m, torch.nn.Conv2d)]
    blocks = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}
    assert names == [*(f"conv{b}_{i + 1}" for b, n in blocks.items() for i in range(n)), "fc6", "fc7", "final"]
    front_end = on_meta(models.FrontEnd, 21)
    assert front_end.conv5_1.dilation == (2, 2)
    assert (front_end.fc6.dilation, front_end.fc6.kernel_size) == ((4, 4), (7, 7))
    assert list(front_end.children())[-1] is front_end.final


def test_a_slice_is_the_layers_up_to_there():
    front_end = models.dilation_small(2, 1).front_end
    assert list(dict(front_end[:3].named_children())) == ["conv1_1", "conv1_1_relu", "pool1"]


def test_receptive_field_by_gradient():
    """What one score reads, measured with positive weights so that nothing cancels."""
    front_end = models.dilation_small(2, 1, width=1 / 16).front_end.double()
    for p in front_end.parameters():
        torch.nn.init.constant_(p, 0.01)
    x = torch.rand(1, 1, 120, 120, dtype=torch.float64, requires_grad=True)
    y = front_end(x)
    y[0, 0, 8, 8].backward()
    rows = x.grad[0, 0].abs().sum(1).nonzero().flatten()
    # A max pool passes the gradient to one of its two pixels: the field is met up to the pools' own width.
    assert 32 <= rows.min() <= 32 + 3
    assert 32 + 57 - 3 <= rows.max() <= 32 + 57


@pytest.mark.parametrize("size", [(2, 2), (3, 50), (57, 33), (64, 64)])
def test_any_image_comes_back_at_its_size(size):
    net = models.dilation_small(5, 2, width=1 / 32)
    image = torch.randn(2, 2, *size)
    assert net(image).shape == (2, 5, *size)
    assert net.features(image).shape == (2, 5, -(-size[0] // 4), -(-size[1] // 4))


def test_the_whole_vgg_network_runs():
    net = models.dilation8(3, channels="basic", width=1 / 32)
    assert net(torch.randn(1, 3, 40, 50)).shape == (1, 3, 40, 50)


def test_features_are_reflected_margin_front_end_context():
    net = models.dilation_small(3, 1, width=1 / 16)
    image = torch.randn(1, 1, 60, 64)
    padded = F.pad(image, (27,) * 4, mode="reflect")
    torch.testing.assert_close(net.features(image), net.context(net.front_end(padded)))


def test_corner_alignment_is_sampling_at_h_over_s():
    scores = torch.randn(1, 2, 4, 5)
    result = models.ScoreUpsample(8, "corner")(scores, (30, 37))
    for h, w in ((0, 0), (8, 16), (5, 13), (29, 36)):
        i, j = h // 8, w // 8
        below, right = min(i + 1, 3), min(j + 1, 4)
        a, b = h / 8 - i, w / 8 - j
        expected = (1 - a) * ((1 - b) * scores[0, :, i, j] + b * scores[0, :, i, right])
        expected += a * ((1 - b) * scores[0, :, below, j] + b * scores[0, :, below, right])
        torch.testing.assert_close(result[0, :, h, w], expected)


def test_centre_alignment_is_the_published_deconvolution_inside():
    scores = torch.randn(1, 1, 6, 7)
    line = 1 - (torch.arange(16) - 7.5).abs() / 8
    expected = F.conv_transpose2d(scores, (line[:, None] * line)[None, None], stride=8, padding=4)
    result = models.ScoreUpsample(8, "centre")(scores, (48, 56))
    torch.testing.assert_close(result[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4])


@pytest.mark.parametrize("part", ["whole", "front_end"])
def test_life_of_a_network(part):
    net = models.dilation_small(3, 1, width=1 / 16)
    net = net if part == "whole" else net.front_end
    image = torch.randn(2, 1, 70, 74)
    expected = net(image)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(other(image), expected)
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(image), expected)
    auto = torch.export.Dim.AUTO
    program = torch.export.export(net, (image,), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    bigger = torch.randn(3, 1, 81, 77)
    torch.testing.assert_close(program.module()(bigger), net(bigger))


@pytest.mark.parametrize("alignment", ["corner", "centre"])
def test_life_of_the_upsampling(alignment):
    upsample, scores, size = models.ScoreUpsample(4, alignment), torch.randn(2, 3, 6, 7), (23, 26)
    expected = upsample(scores, size)
    for other in (copy.deepcopy(upsample), pickle.loads(pickle.dumps(upsample))):
        assert torch.equal(other(scores, size), expected)
    torch.testing.assert_close(torch.compile(upsample, fullgraph=True, backend="aot_eager")(scores, size), expected)
    program = torch.export.export(upsample, (scores, size))
    torch.testing.assert_close(program.module()(scores, size), expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: models.FrontEnd(0), ShapeError, "num_classes=0"),
        (lambda: models.FrontEnd(2, width=0), ShapeError, "width=0, expected .* above 0"),
        (
            lambda: on_meta(models.FrontEnd, 2)(torch.zeros(1, 3, 372, 500, device="meta")),
            ShapeError,
            "sides of at least 373 pixels; pad it by `margin` = 186",
        ),
        (lambda: models.ScoreUpsample(8, "middle"), GeometryError, "alignment 'middle', expected at least 1, and"),
        (lambda: models.ScoreUpsample(2)(torch.zeros(1, 1, 2, 2), (5, 4)), ShapeError, "expected at most 4 x 4"),
        (lambda: models.ScoreUpsample(0), GeometryError, "got factor 0"),
        (lambda: models.dilation_small(2, 1)(torch.zeros(1, 1, 1, 9)), ShapeError, "at least 2 pixels"),
        (lambda: models.dilation_small(2, 1)(torch.zeros(1, 3, 9, 9)), ShapeError, r"expected \(B, 1, H, W\)"),
    ],
)
def test_messages(call, error, message):
    with pytest.raises(error, match=message):
        call()
