import pytest
import torch
import torch.nn.functional as F

from atrous import ShapeError, trace_footprint
from atrous.models.ircnn import IRCNN, demosaick, rggb

SMALL = 1 / 16


def noise(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_the_layers_of_the_paper():
    with torch.device("meta"):
        net = IRCNN(1)
    layers = [layer for layer in net.body if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.dilation[0] for layer in layers] == [1, 2, 3, 4, 3, 2, 1]
    assert [layer.out_channels for layer in layers] == [64] * 6 + [1]
    kinds = [type(layer).__name__ for layer in net.body]
    assert kinds == ["Conv2d", "ReLU", *["Conv2d", "BatchNorm2d", "ReLU"] * 5, "Conv2d"]
    # 9 x 64 weights in the first and the last layer, 9 x 64 x 64 in five between, biases, and 2 x 64 of each norm.
    assert sum(weight.numel() for weight in net.parameters()) == 2 * 576 + 5 * 36864 + 6 * 64 + 1 + 5 * 128


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_size_and_receptive_field(factor):
    net = IRCNN(3, width=SMALL, factor=factor).eval()
    assert net(noise(2, 3, 7, 10)).shape == (2, 3, 7 * factor, 10 * factor)
    assert trace_footprint(net, torch.zeros(1, 3, 48, 50)).receptive_field == (33, 33)


def test_a_mosaic_is_seen_in_squares():
    net = IRCNN(1, 3, SMALL).eval()
    assert net(noise(2, 1, 8, 10)).shape == (2, 3, 8, 10)
    assert trace_footprint(net, torch.zeros(1, 1, 96, 96)).receptive_field == (66, 66)


@pytest.mark.parametrize("options", [{}, {"factor": 2}, {"out_channels": 3}])
def test_the_body_is_subtracted_from_the_guess(options):
    channels = 1 if "out_channels" in options else 3
    net, image = IRCNN(channels, width=SMALL, **options), noise(1, channels, 6, 8)
    torch.testing.assert_close(net.eval()(image), net.guess(image), rtol=0, atol=0.02)
    torch.nn.init.zeros_(net.body.conv7.weight)
    torch.nn.init.constant_(net.body.conv7.bias, 0.25)
    assert torch.equal(net(image), net.guess(image) - 0.25)


def test_guesses():
    image, mosaic = noise(1, 3, 6, 8), noise(1, 1, 6, 8)
    assert torch.equal(IRCNN(3, width=SMALL).guess(image), image)
    enlarged = F.interpolate(image, (12, 16), mode="bicubic", align_corners=False)
    assert torch.equal(IRCNN(3, width=SMALL, factor=2).guess(image), enlarged)
    assert torch.equal(IRCNN(1, 3, SMALL).guess(mosaic), demosaick(mosaic))


def test_features_of_the_first_layer_come_through_the_untrained_body():
    torch.manual_seed(0)
    body = IRCNN(3, width=0.5).body
    first = body[0](noise(1, 3, 32, 32))
    pair = [features[0].reshape(len(features[0]), -1) for features in (first, body[1:-1](first))]
    lively = (pair[0].std(1) > 0.1) & (pair[0].relu().std(1) > 0.1)  # a channel below 0 everywhere holds nothing
    seen = torch.corrcoef(torch.cat(pair))[: len(pair[0]), len(pair[0]) :].diagonal()[lively]
    assert len(seen) > 8
    assert seen.min() > 0.5


def test_rggb_gives_every_pixel_one_colour():
    masks = rggb(4, 6, torch.zeros(1, dtype=torch.float64))
    assert masks.dtype == torch.float64
    assert torch.equal(masks.sum(0), torch.ones(4, 6, dtype=torch.float64))
    assert masks.sum((1, 2)).tolist() == [6, 12, 6]


def test_demosaick_keeps_what_is_known_and_takes_the_mean_of_the_nearest():
    mosaic = noise(2, 1, 6, 8).double()
    colours = demosaick(mosaic)
    masks = rggb(6, 8, mosaic)
    torch.testing.assert_close((colours * masks).sum(1, keepdim=True), mosaic)
    one = mosaic[:, 0]
    # Blue at (3, 3) takes red from its corners, green from its sides; green at (2, 3) has red beside, blue above.
    red = (one[:, 2, 2] + one[:, 2, 4] + one[:, 4, 2] + one[:, 4, 4]) / 4
    green = (one[:, 2, 3] + one[:, 4, 3] + one[:, 3, 2] + one[:, 3, 4]) / 4
    torch.testing.assert_close(colours[:, :2, 3, 3], torch.stack([red, green], 1))
    torch.testing.assert_close(colours[:, 0, 2, 3], (one[:, 2, 2] + one[:, 2, 4]) / 2)
    torch.testing.assert_close(colours[:, 2, 2, 3], (one[:, 1, 3] + one[:, 3, 3]) / 2)
    # In the corner, blue is that of its one neighbour.
    torch.testing.assert_close(colours[:, 2, 0, 0], one[:, 1, 1])


def test_demosaick_is_exact_for_one_colour():
    colour = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 6, 4)
    mosaic = (colour * rggb(6, 4, colour)).sum(1, keepdim=True)
    torch.testing.assert_close(demosaick(mosaic), colour.contiguous())


@pytest.mark.parametrize("shape", [(1, 1, 3, 4), (1, 1, 4, 3), (1, 3, 4, 4), (1, 4, 4)])
def test_no_mosaic(shape):
    with pytest.raises(ShapeError, match=r"demosaick: got a mosaic of shape .*, expected \(B, 1, H, W\) with even"):
        demosaick(torch.zeros(shape))


def test_a_mosaic_with_an_odd_side_is_named_before_it_is_packed():
    with pytest.raises(ShapeError, match=r"demosaick: got a mosaic of shape \(1, 1, 5, 4\)"):
        IRCNN(1, 3, SMALL)(torch.zeros(1, 1, 5, 4))


@pytest.mark.parametrize("values", [{"channels": 0}, {"width": 0.0}, {"factor": 0}])
def test_arguments_that_cannot_be_are_named(values):
    with pytest.raises(ShapeError, match=r"IRCNN: got channels=.* expected at least 1, above 0 and at least 1"):
        IRCNN(**values)


@pytest.mark.parametrize(("channels", "out_channels", "factor"), [(3, 1, 1), (1, 3, 2), (1, 2, 1)])
def test_channels_that_no_guess_has_are_named(channels, out_channels, factor):
    with pytest.raises(ShapeError, match=r"IRCNN: got out_channels=.*, expected as many, or 3 beside 1 and factor 1"):
        IRCNN(channels, out_channels, factor=factor)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 8, 8)])
def test_another_image_is_named(shape):
    with pytest.raises(ShapeError, match=r"IRCNN: got an image of shape .*, expected \(B, 3, H, W\)"):
        IRCNN(3, width=SMALL)(torch.zeros(shape))
