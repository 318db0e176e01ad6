import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from atrous import ShapeError, UnsupportedModule, nn

OPTIONS = ({}, {"stride": 2}, {"dilation": 2, "groups": 2}, {"bias": False}, {"kernel_size": (1, 5)})


def plain_and_layer(standardize=False, kernel_size=3, dilation=1, **options):
    size = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
    padding = tuple(dilation * (taps // 2) for taps in size)
    plain = torch.nn.Conv2d(4, 6, size, padding=padding, dilation=dilation, **options).double()
    return plain, nn.SwitchableAtrousConv2d.from_conv(plain, standardize)


def stirred(layer):
    """Let no part of a layer be at its start."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def spelled_out(layer, x):
    """Follow the figure of the paper, with torch's operators, for images of 3 pixels and more."""
    x = x + F.conv2d(F.adaptive_avg_pool2d(x, 1), layer.pre_context.weight, layer.pre_context.bias)
    means = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), 5, 1)
    s = F.conv2d(means, layer.switch.weight, layer.switch.bias, layer.stride)
    w = layer.weight
    if layer.standardize:
        flat = w.flatten(1)
        normal = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, keepdim=True) + 1e-5).sqrt()
        w = layer.weight_gamma * normal.view_as(w) + layer.weight_beta
    outputs = []
    for weight, times in ((w, 1), (w + layer.weight_diff, 3)):
        dilation = [times * d for d in layer.dilation]
        padding = [d * (taps // 2) for d, taps in zip(dilation, layer.kernel_size, strict=True)]
        outputs.append(F.conv2d(x, weight, layer.bias, layer.stride, padding, dilation, layer.groups))
    y = s * outputs[0] + (1 - s) * outputs[1]
    return y + F.conv2d(F.adaptive_avg_pool2d(y, 1), layer.post_context.weight, layer.post_context.bias)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_starts_as_the_convolution_that_it_is_made_from(options, standardize):
    plain, layer = plain_and_layer(standardize, **options)
    for size in ((2, 2), (3, 7), (12, 15)):
        image = torch.randn(2, 4, *size, dtype=torch.float64)
        torch.testing.assert_close(layer(image), plain(image), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer(image[0]), plain(image[0]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_figure_of_the_paper(options, standardize):
    _, layer = plain_and_layer(standardize, **options)
    stirred(layer)
    image = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(image), spelled_out(layer, image), rtol=1e-12, atol=1e-12)


def test_small_images_are_reflected_again():
    """With one tap and nothing wide, the output is the switch times a pointwise convolution."""
    layer = nn.SwitchableAtrousConv2d(4, 6, 1, bias=False).double()
    torch.nn.init.normal_(layer.switch.weight)
    with torch.no_grad():
        layer.weight_diff.copy_(-layer.weight)
    image = torch.randn(1, 4, 2, 2, dtype=torch.float64)
    index = torch.tensor([0, 1, 0, 1, 0, 1])  # pixels -2 ... 3
    means = F.avg_pool2d(image[:, :, index][:, :, :, index], 5, 1)
    expected = F.conv2d(means, layer.switch.weight, layer.switch.bias) * F.conv2d(image, layer.weight)
    torch.testing.assert_close(layer(image), expected, rtol=1e-12, atol=1e-12)


def test_a_new_layer_starts_as_a_plain_convolution_too():
    torch.manual_seed(3)
    plain = torch.nn.Conv2d(4, 6, 3, padding=1)
    image = torch.randn(1, 4, 6, 7)
    for standardize in (False, True):
        torch.manual_seed(3)
        layer = nn.SwitchableAtrousConv2d(4, 6, 3, standardize=standardize)
        torch.testing.assert_close(layer(image), plain(image))
        again = nn.SwitchableAtrousConv2d(4, 6, 3, standardize=standardize, device="meta").to_empty(device="cpu")
        torch.manual_seed(3)
        again.reset_parameters()
        torch.testing.assert_close(again(image), plain(image))


def test_a_standardised_kernel_keeps_its_moments_whatever_the_weight():
    _, layer = plain_and_layer(standardize=True)
    deviation, mean = layer.weight.flatten(1).std(1), layer.weight.flatten(1).mean(1)
    with torch.no_grad():
        layer.weight.mul_(7).add_(2)
    torch.testing.assert_close(layer.kernel().flatten(1).mean(1), mean)
    torch.testing.assert_close(layer.kernel().flatten(1).std(1), deviation, rtol=1e-3, atol=0)


def test_names_are_those_of_the_source():
    children = [f"{name}.{part}" for name in ("switch", "pre_context", "post_context") for part in ("weight", "bias")]
    layer = nn.SwitchableAtrousConv2d(4, 6, 3, standardize=True, bias=False)
    assert set(layer.state_dict()) == {"weight", "weight_diff", "weight_gamma", "weight_beta", *children}
    assert "weight_gamma" not in nn.SwitchableAtrousConv2d(4, 6, 3).state_dict()


def test_from_conv_leaves_the_convolution_alone():
    plain, layer = plain_and_layer(standardize=True)
    before = plain.weight.clone()
    stirred(layer)
    assert torch.equal(plain.weight, before)
    assert not nn.SwitchableAtrousConv2d.from_conv(plain.eval()).training
    assert layer.weight.dtype == layer.switch.weight.dtype == layer.weight_gamma.dtype == torch.float64


def test_from_conv_takes_a_weight_that_is_computed():
    plain = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(2, 3, 3, padding=1))
    torch.nn.init.ones_(plain.parametrizations.weight.original0)
    image = torch.randn(1, 2, 5, 6)
    torch.testing.assert_close(nn.SwitchableAtrousConv2d.from_conv(plain)(image), plain(image))


def test_everything_learns():
    layer = stirred(nn.SwitchableAtrousConv2d(2, 3, 3, standardize=True))
    layer(torch.randn(1, 2, 6, 7)).square().sum().backward()
    assert all(p.grad.abs().min() > 0 for p in layer.parameters())


def test_compile():
    torch.compiler.reset()
    layer = stirred(nn.SwitchableAtrousConv2d(2, 3, 3, stride=2, standardize=True))
    image = torch.randn(2, 2, 9, 10)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(image), layer(image))


@pytest.mark.parametrize("standardize", [False, True])
def test_life_of_a_module(standardize):
    layer = stirred(nn.SwitchableAtrousConv2d(2, 3, 3, stride=2, standardize=standardize))
    image = torch.randn(2, 2, 9, 10)
    expected = layer(image)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(image), expected)
    auto = torch.export.Dim.AUTO
    program = torch.export.export(layer, (image,), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    bigger = torch.randn(3, 2, 12, 17)
    torch.testing.assert_close(program.module()(bigger), layer(bigger))


def test_it_prints():
    text = repr(nn.SwitchableAtrousConv2d(2, 4, 3, dilation=2, standardize=True)).splitlines()
    assert text[1] == ("  2, 4, kernel_size=(3, 3), stride=(1, 1), padding=same, dilation=(2, 2), standardize=True")
    assert text[2].startswith("  (switch): Conv2d(2, 1, kernel_size=(1, 1)")


@pytest.mark.parametrize(
    ("conv", "message"),
    [
        (torch.nn.Linear(2, 2), r"from_conv: got a Linear, expected a torch.nn.Conv2d"),
        (
            torch.nn.Conv2d(2, 2, 3),
            r"got padding \(\(0, 0\), \(0, 0\)\) by 'zeros', expected \(\(1, 1\), \(1, 1\)\) by",
        ),
        (
            torch.nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
            r"got padding .* by 'reflect', expected .* by 'z",
        ),
    ],
)
def test_what_it_cannot_be_made_from(conv, message):
    with pytest.raises(UnsupportedModule, match=message):
        nn.SwitchableAtrousConv2d.from_conv(conv)


def test_messages():
    layer = nn.SwitchableAtrousConv2d(2, 2, 3)
    with pytest.raises(ShapeError, match=r"SwitchableAtrousConv2d: input: got shape \(8, 8\), expected \(B, C, H, W\)"):
        layer(torch.zeros(8, 8))
    with pytest.raises(ShapeError, match="conv2d: got 3 input channels"):
        layer(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ShapeError, match=r"reflect_pad: got shape .* expected .* with H and W of at least 2 pixels"):
        layer(torch.zeros(1, 2, 1, 8))
    with pytest.raises(ShapeError, match=r"standardized_weight: got weight .*, expected at least 2 weights"):
        nn.SwitchableAtrousConv2d(2, 2, 1, groups=2, standardize=True)
