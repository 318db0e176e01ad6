import pytest
import torch

from atrous import ShapeError, trace_footprint
from atrous.analysis.equivariance import equivariance, period
from atrous.models.segnet import Block, SegNet

TWO = (Block(64, 1), Block(128, 1))


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_published_layers_and_parameter_count():
    with torch.device("meta"):
        net = SegNet(11)
    shapes = {n.split(".")[-1]: m for n, m in net.named_modules() if isinstance(m, torch.nn.Conv2d)}
    down = {1: (64, 2), 2: (128, 2), 3: (256, 3), 4: (512, 3), 5: (512, 3)}
    assert list(shapes) == [
        *(f"conv{b}_{i + 1}" for b, (_, n) in down.items() for i in range(n)),
        *(f"conv{b}_{i}_D" for b in (5, 4, 3, 2, 1) for i in range(down[b][1], 0, -1)),
    ]
    assert [shapes[f"conv{b}_1_D"].out_channels for b in (5, 4, 3, 2, 1)] == [512, 256, 128, 64, 11]
    encoder = sum(w.numel() for n, w in net.named_parameters() if "encoder" in n and "_bn" not in n)
    assert encoder == 14_714_688  # the convolutions of VGG-16
    assert sum(weight.numel() for weight in net.parameters()) == 29_449_355


@pytest.mark.parametrize("size", [(45, 60), (32, 33), (1, 7)])
def test_scores_have_the_size_of_the_image(size):
    assert SegNet(3, 1, 1 / 32).eval()(noise(2, 1, *size)).shape == (2, 3, *size)


def test_values_go_back_to_where_the_maxima_were():
    net = SegNet(1, 1, 1 / 64, blocks=(Block(64, 1),)).eval()
    delta = torch.zeros(1, 1, 3, 3)
    delta[..., 1, 1] = 1.0
    with torch.no_grad():
        for layer in (net.encoder[0][0], net.decoder[0][0]):
            layer.weight.copy_(delta)
        net.encoder[0][1].eps = 0.0
        image = torch.rand(1, 1, 6, 8, generator=torch.Generator().manual_seed(0))
        scores = net(image)
    blocks = image.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(scores, torch.where(image == blocks, image, 0.0))


def test_the_footprint_is_what_changing_the_image_shows():
    net = SegNet(1, 1, 1 / 16, blocks=TWO).double().eval()
    fp = trace_footprint(net, torch.zeros(1, 1, 40, 40, dtype=torch.float64))
    image = noise(1, 1, 40, 40).double()
    seen = []
    with torch.no_grad():
        base = net(image)
        for row in range(40):
            # By much, not by a little: which maximum is taken decides too.
            for change in (-9.0, 9.0):
                changed = image.clone()
                changed[:, :, row] += change
                if (net(changed) != base)[0, 0, 16:24, 16:24].any():
                    seen.append(row)
    assert (seen[0], seen[-1] + 1) == fp.reads([(16, 24), (16, 24)])[0]


def test_shifts_are_exact_only_by_the_whole_pooling():
    torch.manual_seed(0)
    net = SegNet(2, 1, 1 / 16, blocks=TWO)
    found = equivariance(net, noise(1, 1, 56, 56), 8)
    assert found.period == (4, 4)
    assert [max(one.shift) for one in found.shifts if one.exact] == [4, 8] * 3
    assert min(one.relative for one in found.shifts if not one.exact) > 0.01


def test_the_whole_pooling_is_32():
    fp = trace_footprint(SegNet(2, 1, 1 / 64), torch.zeros(1, 1, 64, 64))
    assert fp.stride == (1, 1)
    assert period(fp) == (32, 32)


@pytest.mark.parametrize("values", [(0, 3, 1.0), (2, 0, 1.0), (2, 3, 0.0)])
def test_arguments_that_cannot_be_are_named(values):
    with pytest.raises(ShapeError, match=r"SegNet: got num_classes=.* expected at least 1, at least 1 and above 0"):
        SegNet(*values)


@pytest.mark.parametrize("blocks", [(), (Block(64, 0),)])
def test_blocks_that_cannot_be_are_named(blocks):
    with pytest.raises(ShapeError, match=r"SegNet: got blocks=.*, expected at least one"):
        SegNet(2, blocks=blocks)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 8, 8)])
def test_another_image_is_named(shape):
    with pytest.raises(ShapeError, match=r"SegNet: got an image of shape .*, expected \(B, 1, H, W\)"):
        SegNet(2, 1, 1 / 64, blocks=TWO)(torch.zeros(shape))
