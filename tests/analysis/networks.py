"""Networks whose receptive field is known, with one or two channels: only their geometry matters."""

from torch import nn


def conv(kernel, *, stride=1, dilation=1, channels=(2, 2), groups=1):
    """Return a convolution that keeps the size, but for its stride."""
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(*channels, kernel, stride, padding, dilation, groups, bias=False)


def conv_bn(kernel, **options):
    return nn.Sequential(conv(kernel, **options), nn.BatchNorm2d(2))


def vgg16():
    """All convolutions and pools, up to pool5."""
    layers = [conv(3, channels=(3, 2))]
    for block, convs in enumerate((2, 2, 3, 3, 3)):
        for _ in range(convs if block else convs - 1):
            layers += [nn.ReLU(), conv(3)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers)


def mobilenet_v1():
    layers = [conv(3, stride=2, channels=(3, 2)), nn.BatchNorm2d(2), nn.ReLU6()]
    for stride in (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1):
        layers += [conv(3, stride=stride, groups=2), nn.BatchNorm2d(2), nn.ReLU6(), conv(1), nn.ReLU6()]
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """A chain of convolutions with a way around it."""

    def __init__(self, *convs, shortcut=None):
        super().__init__()
        layers = [layer for one in convs for layer in (one, nn.ReLU())]
        self.body, self.shortcut = nn.Sequential(*layers[:-1]), shortcut or nn.Identity()

    def forward(self, x):
        return (self.body(x) + self.shortcut(x)).relu()


def bottleneck(*, stride=1, dilation=1, first=False, strided=3):
    """Return the block of ResNet-50, whose stride lies on the convolution with the kernel `strided`."""
    one, three = (stride, 1) if strided == 1 else (1, stride)
    return Residual(
        conv_bn(1, stride=one),
        conv_bn(3, stride=three, dilation=dilation),
        conv_bn(1),
        shortcut=conv_bn(1, stride=stride) if first else None,
    )


def resnet50(*, strided=3, dilations=(1, 1, 1, 1), firsts=None):
    """Return ResNet-50 without its head.

    Args:
        strided: kernel of the convolution that has the stride: 3, or 1 for the first of a block.
        dilations: of the four stages; where above 1, the stage has no stride.
        firsts: dilation of the first block of each stage; None is that of the others.
    """
    layers = [conv(7, stride=2, channels=(3, 2)), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    stages = zip((3, 4, 6, 3), (1, 2, 2, 2), dilations, firsts or dilations, strict=True)
    for blocks, stride, dilation, first in stages:
        step = 1 if dilation > 1 else stride
        layers.append(bottleneck(stride=step, dilation=first, first=True, strided=strided))
        layers += [bottleneck(dilation=dilation) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)


class PyramidPooling(nn.Module):
    """The head of DeepLab v3: 1x1, dilated 3x3, and the mean of the image, side by side."""

    def __init__(self, dilations):
        super().__init__()
        self.branches = nn.ModuleList([conv_bn(1), *(conv_bn(3, dilation=dilation) for dilation in dilations)])
        self.pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(1))

    def forward(self, x):
        mean = nn.functional.interpolate(self.pooling(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return sum((branch(x) for branch in self.branches), mean)


def deeplab():
    """ResNet-50 at output stride 8, and the pyramid of dilations 12, 24 and 36 on it."""
    backbone = resnet50(dilations=(1, 1, 2, 4), firsts=(1, 1, 1, 2))
    return nn.Sequential(backbone, PyramidPooling((12, 24, 36)), conv(3), nn.ReLU(), conv(1))


def drn_c26():
    """Dilated residual network C-26 without its head: the last two levels have no way around."""

    def pair(dilation, stride=1):
        return conv_bn(3, stride=stride, dilation=dilation), conv_bn(3, dilation=dilation)

    layers = [conv(7, channels=(3, 2)), nn.BatchNorm2d(2), nn.ReLU()]
    levels = zip((1, 1, 2, 2, 2, 2), (1, 2, 2, 2, 1, 1), (1, 1, 1, 1, 2, 4), strict=True)
    for blocks, stride, dilation in levels:
        layers.append(Residual(*pair(dilation, stride), shortcut=conv_bn(1, stride=stride)))
        layers += [Residual(*pair(dilation)) for _ in range(blocks - 1)]
    for dilation in (2, 1):
        layers += [*pair(dilation), nn.ReLU()]
    return nn.Sequential(*layers)


def chain1d(kernel, dilations):
    """Return bare 1-D convolutions one after another."""
    return nn.Sequential(*(nn.Conv1d(1, 1, kernel, dilation=dilation) for dilation in dilations))
