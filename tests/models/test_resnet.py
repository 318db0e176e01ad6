import pytest
import torch

from atrous import GeometryError, ShapeError, trace_footprint
from atrous.models.resnet import ResNet, resnet18, resnet34, resnet50, resnet50_dcls, resnet101
from atrous.nn import Dcls2d

kinds = pytest.mark.parametrize("bottleneck", [False, True])


class LastMaps(torch.nn.Module):
    """The maps that the classifier of a ResNet averages."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, image):
        return self.net.features(image)[-1]


def tiny(**options):
    return ResNet(5, (1, 2, 2, 2), width=1 / 16, **options).double().eval()


def twins(bottleneck, **options):
    """Return a network at stride 32 and one of other options with its weights.

    Each convolution adds four values, with signs, and the norms add whole numbers: no order of summation rounds, and
    nothing reaches 2^53.
    """
    plain, other = (tiny(bottleneck=bottleneck, **chosen) for chosen in ({}, options))
    for net in (plain, other):
        for layer in net.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.eps = 0.0
    for name, value in plain.state_dict().items():
        if value.ndim == 4:
            flat = value.zero_().flatten(1)
            taps = torch.rand_like(flat).topk(min(4, flat.shape[1])).indices
            flat.scatter_(1, taps, torch.where(torch.rand(taps.shape) < 0.75, 1.0, -1.0).double())
        elif name.endswith("running_mean"):
            value.copy_(torch.randint(-2, 3, value.shape))
    other.load_state_dict(plain.state_dict())
    return plain, other


def whole_numbers(*size):
    return torch.randint(-4, 5, size).double()


@pytest.mark.parametrize(
    ("build", "options", "count"),
    [
        (resnet18, {}, 11_689_512),
        (resnet34, {}, 21_797_672),
        (resnet50, {}, 25_557_032),
        (resnet101, {}, 44_549_160),
        (resnet50_dcls, {}, 24_008_744),
        (resnet50_dcls, {"kernel_count": 6}, 25_962_536),
        (resnet50, {"kernel": "dilated", "dilation": 3}, 25_557_032),
        (resnet50, {"kernel": "dense7"}, 75_855_912),
    ],
)
def test_published_parameter_counts(build, options, count):
    with torch.device("meta"):
        assert sum(weight.numel() for weight in build(1000, **options).parameters()) == count


@pytest.mark.parametrize(
    ("build", "convolutions", "entries"), [(resnet18, 2, 122), (resnet34, 2, 218), (resnet50, 3, 320)]
)
def test_published_names(build, convolutions, entries):
    with torch.device("meta"):
        state = build(1000).state_dict()
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = list(state)
    assert len(names) == entries
    assert names[:6] == ["conv1.weight", *(f"bn1.{what}" for what in norm)]
    block = [name.removeprefix("layer2.0.") for name in names if name.startswith("layer2.0.")]
    pairs = [*((f"conv{i + 1}", f"bn{i + 1}") for i in range(convolutions)), ("downsample.0", "downsample.1")]
    assert block == [name for conv, bn in pairs for name in (f"{conv}.weight", *(f"{bn}.{what}" for what in norm))]
    assert any(name.startswith("layer1.0.downsample") for name in names) == (build is resnet50)
    assert names[-2:] == ["fc.weight", "fc.bias"]


def test_published_shapes():
    with torch.device("meta"):
        net = resnet50(1000)
    assert net.layer1[0].downsample[0].weight.shape == (256, 64, 1, 1)
    assert net.layer4[2].conv2.weight.shape == (512, 512, 3, 3)
    assert [net.layer3[0].conv1.stride, net.layer3[0].conv2.stride] == [(1, 1), (2, 2)]
    assert net.fc.weight.shape == (1000, 2048)


@pytest.mark.parametrize(
    ("output_stride", "first_block", "field"),
    [(32, "previous", 427), (16, "previous", 427), (8, "previous", 427), (8, "same", 475)],
)
def test_published_receptive_fields(output_stride, first_block, field):
    net = resnet50(2, width=1 / 64, output_stride=output_stride, first_block=first_block)
    found = trace_footprint(LastMaps(net), torch.zeros(1, 3, 64, 64))
    assert found.receptive_field == (field, field)
    assert found.stride == (output_stride, output_stride)


@kinds
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(64, 96), (65, 79)])
def test_dilated_maps_hold_those_of_stride_32(bottleneck, output_stride, size):
    plain, dilated = twins(bottleneck, output_stride=output_stride)
    image = whole_numbers(2, 3, *size)
    with torch.no_grad():
        for stride, expected, maps in zip((4, 8, 16, 32), plain.features(image), dilated.features(image), strict=True):
            step = max(1, stride // output_stride)
            assert maps.shape[2:] == tuple(-(-side // min(stride, output_stride)) for side in size)
            assert expected.count_nonzero() > expected.numel() / 4, "zeros are equal whatever the network does"
            assert torch.equal(maps[..., ::step, ::step], expected)


@kinds
def test_another_dilation_of_the_first_blocks_gives_other_maps(bottleneck):
    plain, dilated = twins(bottleneck, output_stride=8, first_block="same")
    image = whole_numbers(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(dilated.features(image)[-1][..., ::4, ::4], plain.features(image)[-1])


def test_a_block_of_two():
    block = tiny(bottleneck=False).layer2[1]
    maps = torch.randn(2, 8, 9, 11, dtype=torch.float64)
    inner = block.bn2(block.conv2(block.bn1(block.conv1(maps)).relu()))
    assert inner.min() < 0
    assert torch.equal(block(maps), (maps + inner).relu())


def test_a_block_of_three_with_projection():
    block = tiny(bottleneck=True).layer2[0]
    maps = torch.randn(2, 16, 9, 11, dtype=torch.float64)
    inner = block.bn2(block.conv2(block.bn1(block.conv1(maps)).relu())).relu()
    inner = block.bn3(block.conv3(inner))
    assert inner.min() < 0
    assert torch.equal(block(maps), (block.downsample[1](block.downsample[0](maps)) + inner).relu())


@kinds
@pytest.mark.parametrize("output_stride", [8, 32])
@pytest.mark.parametrize("size", [(64, 96), (65, 79)])
def test_learned_positions_give_maps_of_the_same_sizes_and_learn(bottleneck, output_stride, size):
    options = {"bottleneck": bottleneck, "output_stride": output_stride}
    plain, spaced = tiny(**options), tiny(**options, kernel="dcls").train()
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    found = spaced.features(image)
    assert [one.shape for one in found] == [one.shape for one in plain.features(image)]
    assert tuple(one.shape[1] for one in found) == spaced.channels == plain.channels
    spaced(image).square().sum().backward()
    assert [name for name, weight in spaced.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@kinds
def test_learned_positions_with_dilations_hold_the_maps_of_stride_32(bottleneck):
    plain, dilated = (tiny(bottleneck=bottleneck, kernel="dcls", output_stride=stride) for stride in (32, 8))
    dilated.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 65, 64, dtype=torch.float64)
    torch.testing.assert_close(dilated.features(image)[-1][..., ::4, ::4], plain.features(image)[-1])


@pytest.mark.parametrize("options", [{"kernel": "dilated", "dilation": 3}, {"kernel": "dense7"}])
def test_other_kernels_read_more_and_keep_the_sizes(options):
    net = tiny(bottleneck=False, output_stride=16, **options)
    image = torch.randn(1, 3, 65, 79, dtype=torch.float64)
    assert [one.shape for one in net.features(image)] == [
        one.shape for one in tiny(bottleneck=False, output_stride=16).features(image)
    ]
    first, last = net.layer1[0].conv1, net.layer4[0].conv2
    size, rate = (3, 3) if options["kernel"] == "dilated" else (7, 1)
    assert (first.kernel_size, first.dilation) == ((size, size), (rate, rate))
    assert last.dilation == (2 * rate, 2 * rate)


def test_learned_positions_are_shared_by_stage():
    net = tiny(bottleneck=True, kernel="dcls", dilated_kernel_size=5)
    layers = [[module for module in getattr(net, f"layer{n}").modules() if isinstance(module, Dcls2d)] for n in (1, 2)]
    assert [len(stage) for stage in layers] == [1, 2]
    assert layers[1][0].P is layers[1][1].P
    assert layers[0][0].P is not layers[1][0].P
    assert not any(isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (3, 3) for layer in net.modules())
    apart = tiny(bottleneck=True, kernel="dcls", share=False)
    assert apart.layer2[0].conv2.P is not apart.layer2[1].conv2.P


def test_first_values_with_learned_positions():
    torch.manual_seed(0)
    net = ResNet(2, (1, 1, 1, 1), bottleneck=True, width=1 / 2, kernel="dcls")
    layer = net.layer2[0].conv2
    assert layer.weight.std().item() == pytest.approx((2 / (64 * 5)) ** 0.5, rel=0.05)
    assert layer.P.std().item() == pytest.approx(0.5, rel=0.05)
    before = layer.P.detach().clone()
    net.reset_parameters()
    assert not torch.equal(layer.P, before)


@kinds
@pytest.mark.parametrize("output_stride", [8, 16])
def test_every_output_stride_has_the_same_weights(bottleneck, output_stride):
    """Also where a stage has no more channels than the one before, so that only its stride asks for a projection."""
    plain, dilated = (
        ResNet(2, (1, 1, 1, 2), bottleneck=bottleneck, width=1 / 512, output_stride=s) for s in (32, output_stride)
    )
    shapes = {name: value.shape for name, value in plain.state_dict().items()}
    assert {name: value.shape for name, value in dilated.state_dict().items()} == shapes
    assert "layer4.0.downsample.0.weight" in shapes
    assert plain.features(torch.zeros(2, 3, 64, 64))[-1].shape[2:] == (2, 2)


@kinds
def test_scores_are_those_of_the_mean_map(bottleneck):
    net = tiny(bottleneck=bottleneck, in_channels=1)
    image = torch.randn(2, 1, 33, 40, dtype=torch.float64)
    scores = net(image)
    assert scores.shape == (2, 5)
    torch.testing.assert_close(scores, net.fc(net.features(image)[-1].mean((2, 3))), rtol=1e-12, atol=1e-12)


def test_every_weight_learns():
    net = tiny(bottleneck=True, output_stride=8).train()
    net(torch.randn(2, 3, 33, 33, dtype=torch.float64)).square().sum().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@pytest.mark.parametrize("values", [{"num_classes": 0}, {"in_channels": 0}, {"width": 0.0}])
def test_arguments_that_cannot_be_are_named(values):
    with pytest.raises(ShapeError, match=r"ResNet: got num_classes=.* expected at least 1, at least 1 and above 0"):
        resnet18(**{"num_classes": 2} | values)


@pytest.mark.parametrize("blocks", [(1, 1, 1), (1, 1, 0, 1)])
def test_blocks_that_cannot_be_are_named(blocks):
    with pytest.raises(ShapeError, match=r"ResNet: got blocks=.*, expected 4 numbers of at least 1"):
        ResNet(2, blocks, bottleneck=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"output_stride": 4}, r"ResNet: output_stride: got 4, expected one of \(8, 16, 32\)"),
        ({"first_block": "none"}, r"ResNet: first_block: got 'none', expected one of \('previous', 'same'\)"),
        ({"kernel": "7x7"}, r"ResNet: kernel: got '7x7', expected one of \('3x3', 'dilated', 'dcls', 'dense7'\)"),
        ({"share": False}, r"ResNet: share: got False, expected only options of kernel='3x3' \(it has none\)"),
    ],
)
def test_options_that_cannot_be_are_named(values, message):
    with pytest.raises(GeometryError, match=message):
        resnet18(2, **values)


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (3, 32, 32)])
def test_another_image_is_named(shape):
    with pytest.raises(ShapeError, match=r"ResNet: got an image of shape .*, expected \(B, 3, H, W\)"):
        resnet18(2, width=1 / 64)(torch.zeros(shape))


def test_layers_go_from_image_to_scores():
    net = tiny(bottleneck=False)
    layers = net.layers()
    assert layers[0] == [net.conv1, net.bn1]
    assert layers[1] == [net.layer1[0]]
    assert layers[-2] == [net.layer4[-1]]
    assert layers[-1] == [net.fc]
    counted = [parameter for modules in layers for module in modules for parameter in module.parameters()]
    assert len(counted) == len({*counted}) == len([*net.parameters()])
