import copy
import itertools
import pickle

import pytest
import torch

from atrous import GeometryError, ShapeError, functional, nn
from atrous.analysis import gridding

MODES = ("interaction", "shared")


def extra(layer):
    return sum(p.numel() for p in layer.parameters()) - layer.weight.numel() - layer.bias.numel()


@pytest.mark.parametrize("dilation", [1, 2, 3, 4])
def test_published_parameter_counts(dilation):
    assert extra(nn.SmoothedDilatedConv2d(3, 5, 3, dilation)) == dilation**4
    assert extra(nn.SmoothedDilatedConv2d(3, 5, 3, dilation, mode="shared")) == (2 * dilation - 1) ** 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dilation", [2, (3, 4)], ids=str)
def test_it_starts_as_the_plain_convolution_for_every_size(mode, dilation):
    plain = torch.nn.Conv2d(2, 4, 3, padding=dilation, dilation=dilation, groups=2).double()
    layer = nn.SmoothedDilatedConv2d(2, 4, 3, dilation, mode=mode, groups=2).double()
    assert layer.load_state_dict(plain.state_dict(), strict=False).missing_keys == ["smoothing"]
    for size in itertools.product((1, 4, 5), (2, 7, 12)):
        image = torch.randn(2, 2, *size, dtype=torch.float64)
        torch.testing.assert_close(layer(image), plain(image), rtol=1e-12, atol=1e-12)


def test_it_draws_what_torch_draws():
    torch.manual_seed(3)
    plain = torch.nn.Conv2d(4, 6, 3)
    torch.manual_seed(3)
    layer = nn.SmoothedDilatedConv2d(4, 6, 3, 2)
    assert torch.equal(layer.weight, plain.weight)
    assert torch.equal(layer.bias, plain.bias)


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_lets_the_smoothing_change_nothing(mode):
    layer = nn.SmoothedDilatedConv2d(1, 1, 3, (2, 3), mode=mode, device="meta").to_empty(device="cpu")
    layer.reset_parameters()
    image = torch.randn(1, 1, 7, 8)
    expected = functional.conv2d(image, layer.weight, layer.bias, padding="same", dilation=(2, 3))
    torch.testing.assert_close(layer(image), expected)


def test_compile():
    torch.compiler.reset()
    layer = nn.SmoothedDilatedConv2d(2, 3, 3, (2, 3))
    image = torch.randn(2, 2, 9, 10)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(image), layer(image))


@pytest.mark.parametrize("mode", MODES)
def test_life_of_a_module(mode):
    layer = nn.SmoothedDilatedConv2d(2, 3, 3, (2, 3), mode=mode, bias=False)
    torch.nn.init.normal_(layer.smoothing)
    image = torch.randn(2, 2, 9, 10)
    expected = layer(image)
    torch.testing.assert_close(
        expected, functional.smoothed_conv2d(image, layer.weight, layer.smoothing, None, (2, 3), mode=mode)
    )
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(image), expected)
    auto = torch.export.Dim.AUTO
    program = torch.export.export(layer, (image,), dynamic_shapes=({2: auto, 3: auto},))
    bigger = torch.randn(2, 2, 12, 17)
    torch.testing.assert_close(program.module()(bigger), layer(bigger))


@pytest.mark.parametrize("mode", MODES)
def test_everything_learns(mode):
    layer = nn.SmoothedDilatedConv2d(2, 3, 3, 2, mode=mode)
    layer(torch.randn(1, 2, 6, 7)).square().sum().backward()
    assert all(p.grad.abs().min() > 0 for p in layer.parameters())


def test_no_hole_is_left():
    def stack(**options):
        return torch.nn.Sequential(*[nn.SmoothedDilatedConv2d(1, 1, 3, 2, **options) for _ in range(3)])

    image = torch.zeros(1, 1, 40, 40)
    found = gridding(stack(mode="shared"), image)
    assert (found.axes[0].receptive_field, found.coverage) == (19, 1)
    assert gridding(stack(mode="interaction"), image).coverage == 1


def test_it_prints():
    layer = nn.SmoothedDilatedConv2d(2, 4, 3, 2, mode="shared", groups=2, bias=False)
    assert repr(layer) == (
        "SmoothedDilatedConv2d(2, 4, kernel_size=(3, 3), stride=(1, 1), padding=same, dilation=(2, 2), groups=2, "
        "bias=False, mode='shared')"
    )


def test_device_and_dtype():
    layer = nn.SmoothedDilatedConv2d(2, 4, 3, 2, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.bfloat16)}


def test_messages():
    with pytest.raises(GeometryError, match="mode: got 'both', expected one of"):
        nn.SmoothedDilatedConv2d(2, 2, 3, 2, mode="both")
    with pytest.raises(GeometryError, match=r"dilation: got .*, expected integers of at least 1"):
        nn.SmoothedDilatedConv2d(2, 2, 3, 0)
    with pytest.raises(ShapeError, match="conv2d: got 3 input channels"):
        nn.SmoothedDilatedConv2d(2, 2, 3, 2)(torch.zeros(1, 3, 8, 8))
