import copy
import pickle

import pytest
import torch

from atrous import GeometryError, ShapeError, functional, nn
from atrous.footprint import trace_footprint

PER = ("pixel", "layer")


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("rate", [1, 2, 5])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "groups": 2}, {"bias": False}], ids=str)
def test_it_starts_as_the_plain_convolution(per, rate, options):
    plain = torch.nn.Conv2d(4, 6, 3, padding=rate, dilation=rate, **options).double()
    layer = nn.AdaptiveDilationConv2d(4, 6, 3, rate=rate, per=per, **options).double()
    layer.load_state_dict(plain.state_dict(), strict=False)
    for size in ((1, 1), (8, 9), (11, 6)):
        image = torch.randn(2, 4, *size, dtype=torch.float64)
        torch.testing.assert_close(layer(image), plain(image), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer(image[0]), plain(image[0]), rtol=1e-12, atol=1e-12)


def test_a_pixel_has_the_rate_that_is_predicted_for_it():
    layer = nn.AdaptiveDilationConv2d(2, 3, 3, stride=2, rate=1.5)
    torch.nn.init.normal_(layer.predictor.weight, std=0.2)
    image = torch.randn(2, 2, 9, 10)
    rates = torch.nn.functional.conv2d(image, layer.predictor.weight, layer.predictor.bias, 2, 1)
    torch.testing.assert_close(layer.rates(image), rates)
    assert rates.std() > 0.1
    expected = functional.adaptive_conv2d(image, layer.weight, rates, layer.bias, 2)
    torch.testing.assert_close(layer(image), expected)


@pytest.mark.parametrize("per", PER)
def test_it_learns_the_rate_of_a_dilated_convolution(per):
    """The target looks 3 pixels away; the layer starts at 1.3, with the right weights."""
    ramp = torch.linspace(-1, 1, 16, dtype=torch.float64)
    image = (ramp[:, None] ** 2 + ramp.sin()).expand(1, 1, 16, 16)
    layer = nn.AdaptiveDilationConv2d(1, 1, 3, rate=1.3, per=per, bias=False).double()
    torch.nn.init.ones_(layer.weight)
    target = torch.nn.functional.conv2d(image, layer.weight, dilation=3).detach()
    learned = layer.predictor.bias if per == "pixel" else layer.rate
    optimizer = torch.optim.Adam([learned], lr=0.15)
    for _ in range(70):
        optimizer.zero_grad()
        (layer(image)[..., 3:-3, 3:-3] - target).square().mean().backward()
        optimizer.step()
    assert abs(learned.item() - 3) < 0.05


@pytest.mark.parametrize("per", PER)
def test_everything_learns_from_the_start(per):
    layer = nn.AdaptiveDilationConv2d(2, 3, 3, rate=2, per=per)
    layer(torch.randn(1, 2, 9, 9)).square().sum().backward()
    assert all(p.grad.abs().min() > 0 for p in layer.parameters())


@pytest.mark.parametrize("per", PER)
def test_a_reset_starts_again(per):
    layer = nn.AdaptiveDilationConv2d(2, 3, 3, rate=1.5, per=per, device="meta").to_empty(device="cpu")
    layer.reset_parameters()
    image = torch.randn(1, 2, 5, 6)
    torch.testing.assert_close(layer.rates(image).expand(1, 1, 5, 6), torch.full((1, 1, 5, 6), 1.5))
    torch.manual_seed(3)
    layer.reset_parameters()
    torch.manual_seed(3)
    assert torch.equal(layer.weight, torch.nn.Conv2d(2, 3, 3).weight)


def test_compile():
    torch.compiler.reset()
    layer = nn.AdaptiveDilationConv2d(2, 3, (3, 1), rate=1.5)
    image = torch.randn(2, 2, 9, 10)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(image), layer(image))


@pytest.mark.parametrize("per", PER)
def test_life_of_a_module(per):
    layer = nn.AdaptiveDilationConv2d(2, 3, (3, 1), stride=2, rate=1.5, per=per)
    image = torch.randn(2, 2, 9, 10)
    expected = layer(image)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(image), expected)
    auto = torch.export.Dim.AUTO
    program = torch.export.export(layer, (image,), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    bigger = torch.randn(3, 2, 12, 17)
    torch.testing.assert_close(program.module()(bigger), layer(bigger))


def test_it_prints():
    layer = nn.AdaptiveDilationConv2d(2, 4, 3, rate=2, per="layer")
    assert repr(layer) == (
        "AdaptiveDilationConv2d(2, 4, kernel_size=(3, 3), stride=(1, 1), padding=same, rate=2, per='layer')"
    )


@pytest.mark.parametrize("per", PER)
def test_device_and_dtype(per):
    layer = nn.AdaptiveDilationConv2d(2, 4, 3, per=per, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": (3, 4)}, r"AdaptiveDilationConv2d: kernel_size: got \(3, 4\), expected odd numbers"),
        ({"rate": -1}, "AdaptiveDilationConv2d: rate: got -1, expected a finite number of at least 0"),
        ({"rate": float("nan")}, "AdaptiveDilationConv2d: rate: got nan, expected a finite number"),
        ({"per": "image"}, r"AdaptiveDilationConv2d: per: got 'image', expected one of \('pixel', 'layer'\)"),
        ({"stride": 0}, "stride: got .*, expected integers of at least 1"),
    ],
)
def test_messages(options, message):
    with pytest.raises(GeometryError, match=message):
        nn.AdaptiveDilationConv2d(2, 2, **{"kernel_size": 3, **options})


@pytest.mark.parametrize("per", PER)
def test_it_may_read_anything(per):
    fp = trace_footprint(nn.AdaptiveDilationConv2d(2, 2, 3, per=per), torch.randn(1, 2, 9, 11))
    assert fp.globals == (True, True)
    assert fp.output_size == (9, 11)


def test_an_input_that_does_not_fit():
    with pytest.raises(ShapeError, match="got 3 input channels"):
        nn.AdaptiveDilationConv2d(2, 2, 3)(torch.zeros(1, 3, 8, 8))
