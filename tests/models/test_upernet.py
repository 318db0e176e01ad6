import copy

import pytest
import torch

from atrous import ShapeError
from atrous.models import ConvNeXt, ResNet, UPerNet
from atrous.recipe import param_groups


def convnext(**options):
    return ConvNeXt(2, 2, (1, 1, 1, 1), (4, 6, 8, 10), patch=1, **options)


def resnet(**options):
    return ResNet(2, (1, 1, 1, 1), bottleneck=True, in_channels=2, width=1 / 16, **options)


BACKBONES = {
    "convnext": convnext,
    "dcls": lambda: convnext(kernel="dcls", kernel_count=5, dilated_kernel_size=7),
    "resnet": resnet,
    "dilated resnet": lambda: resnet(output_stride=8),
    "two stages": lambda: ConvNeXt(2, 2, (1, 1), (4, 6), patch=2),
}
every_backbone = pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)


@every_backbone
@pytest.mark.parametrize("size", [(32, 48), (33, 41), (11, 8)])
def test_scores_have_the_size_of_the_image(backbone, size):
    net = UPerNet(backbone(), 3, 8)
    assert net(torch.randn(2, 2, *size)).shape == (2, 3, *size)


@every_backbone
def test_one_image_is_a_batch_and_every_weight_but_the_classifier_learns(backbone):
    net = UPerNet(backbone(), 3, 8).train()
    # One pixel of the last map and of means over it; the batch norms of a ResNet need more.
    side = 40 if isinstance(net.backbone, ResNet) else 8
    net(torch.randn(1, 2, side, side)).square().sum().backward()
    idle = {name for name, weight in net.named_parameters() if weight.grad is None}
    assert idle
    assert all(name.startswith(("backbone.head.", "backbone.fc.")) for name in idle)


def test_scores_do_not_hang_on_the_other_images():
    net, images = UPerNet(convnext(), 3, 8).double().train(), torch.randn(3, 2, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(net(images)[1:2], net(images[1:2]))


def test_the_formula_for_two_maps():
    net = UPerNet(ConvNeXt(2, 2, (1, 1), (4, 6), patch=2), 3, 8).double()
    image = torch.randn(2, 2, 24, 28, dtype=torch.float64)

    def normed(layer, maps):
        mean, spread = maps.mean(1, keepdim=True), maps.var(1, correction=0, keepdim=True)
        return (maps - mean) / (spread + layer.eps).sqrt()

    def block(layers, maps):
        weight = layers[0].weight
        return normed(layers[1], torch.nn.functional.conv2d(maps, weight, padding=weight.shape[-1] // 2)).relu()

    def to(maps, size):
        return torch.nn.functional.interpolate(maps, size, mode="bilinear")

    fine, coarse = (normed(layer, maps) for layer, maps in zip(net.norms, net.backbone.features(image), strict=True))
    assert (fine.shape[2:], coarse.shape[2:]) == ((12, 14), (6, 7))
    means = []
    for cells, layer in zip((1, 2, 3, 6), net.pyramid, strict=True):
        means.append(to(block(layer, torch.nn.functional.adaptive_avg_pool2d(coarse, cells)), (6, 7)))
    coarse = block(net.top, torch.cat([coarse, *means], 1))
    coarse_up = to(coarse, (12, 14))
    fine = block(net.smooth[0], block(net.laterals[0], fine) + coarse_up)
    fused = block(net.fuse, torch.cat([fine, coarse_up], 1))
    expected = to(torch.nn.functional.conv2d(fused, net.classify.weight, net.classify.bias), (24, 28))
    torch.testing.assert_close(net(image), expected)


def stripes(count, seed):
    """Rows to one side of a border and columns to the other, under noise: neither place nor brightness tells which."""
    chance = torch.Generator().manual_seed(seed)
    waves = torch.sin(torch.arange(24) * 1.5 + torch.rand(count, 2, 24, generator=chance)[..., :1] * 6)
    right = torch.arange(24).expand(count, 24, 24) >= torch.randint(8, 17, (count, 1, 1), generator=chance)
    labels = (right ^ (torch.rand(count, 1, 1, generator=chance) < 0.5)).long()
    images = torch.where(labels == 0, waves[:, 0, :, None], waves[:, 1, None])
    noise = torch.randn(count, 2, 24, 24, generator=chance) / 2
    return torch.stack([images, torch.zeros_like(images)], 1) + noise, labels


def test_learns_more_than_the_most_frequent_class():
    torch.manual_seed(0)
    spacing = {"kernel": "dcls", "kernel_count": 5, "dilated_kernel_size": 7}
    net = UPerNet(ConvNeXt(2, 2, (1, 1), (12, 16), patch=1, layer_scale=1.0, **spacing), 2, 16)
    images, labels = stripes(64, 0)
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3)
    for step in range(40):
        part = slice(8 * (step % 8), 8 * (step % 8) + 8)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images[part]), labels[part]).backward()
        optimizer.step()
    images, labels = stripes(32, 1)
    with torch.no_grad():
        found = (net(images).argmax(1) == labels).float().mean()
    most_frequent = labels.flatten().bincount().max() / labels.numel()
    assert most_frequent < 0.6
    assert found > 0.8


@every_backbone
def test_states_and_copies(backbone):
    net, other = UPerNet(backbone(), 3, 8), UPerNet(backbone(), 3, 8)
    other.load_state_dict(net.state_dict())
    image = torch.randn(2, 2, 16, 16)
    expected = net.eval()(image)
    assert torch.equal(other.eval()(image), expected)
    assert torch.equal(copy.deepcopy(net)(image), expected)


@pytest.mark.parametrize(("backbone", "count"), [(convnext, 6), (resnet, 6)])
def test_the_head_is_the_last_layer(backbone, count):
    net = UPerNet(backbone(), 3, 8)
    layers = net.layers()
    assert len(layers) == count
    found = {weight for layer in layers for module in layer for weight in module.parameters()}
    unused = net.backbone.head if backbone is convnext else net.backbone.fc
    assert found == set(net.parameters()) - set(unused.parameters())
    last = {weight for module in layers[-1] for weight in module.parameters()}
    assert last == found - set(net.backbone.parameters())
    rates = {group["lr"] for group in param_groups(net, 1.0, 0.0, layer_decay=0.5)}
    assert rates == {0.5**before for before in range(count)}


@pytest.mark.parametrize(("num_classes", "channels"), [(0, 8), (2, 1)])
def test_numbers_out_of_range(num_classes, channels):
    with pytest.raises(ShapeError, match=r"UPerNet: got num_classes=.*, channels=.*, expected at least 1 and at least"):
        UPerNet(convnext(), num_classes, channels)


class Empty(torch.nn.Module):
    channels = ()

    def features(self, image):
        return []


@pytest.mark.parametrize("backbone", [torch.nn.Conv2d(1, 1, 1), UPerNet(convnext(), 2, 8), Empty()])
def test_a_backbone_without_maps(backbone):
    with pytest.raises(ShapeError, match=r"UPerNet: backbone: got .*, expected a network with `features\(image\)` and"):
        UPerNet(backbone, 2, 8)
