"""Yu and Koltun 2016, Multi-scale context aggregation by dilated convolutions: front end, context, whole networks.

Legend: B batch, C classes, A image channels, H, W image size, h, w feature size, S output stride.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F

from atrous._errors import GeometryError, ShapeError
from atrous._geometry import Geometry
from atrous.functional import reflect_pad
from atrous.nn import ContextModule, Conv2d
from atrous.nn.chain import Chain

Alignment = Literal["corner", "centre"]


class Stage(NamedTuple):
    """One block of 3x3 convolutions: its channels at width 1, how many, their dilation, and whether a pool follows."""

    channels: int
    convs: int
    dilation: int
    pool: bool


class Head(NamedTuple):
    """The fully connected layers as convolutions: channels at width 1, kernel and dilation of fc6, dropout."""

    channels: int
    kernel: int
    dilation: int
    dropout: float


VGG16 = (
    Stage(64, 2, 1, True),
    Stage(128, 2, 1, True),
    Stage(256, 3, 1, True),
    Stage(512, 3, 1, False),
    Stage(512, 3, 2, False),
)
VGG16_HEAD = Head(4096, 7, 4, 0.5)
SMALL = (Stage(64, 1, 1, True), Stage(128, 1, 1, True), Stage(256, 1, 2, False))
SMALL_HEAD = Head(512, 3, 4, 0.0)


class FrontEnd(Chain):
    """Turn an image into coarse class scores: VGG-16 without pool4 and pool5, their strides made dilations 2 and 4.

    No layer pads; pools round up, as in Caffe. Layers carry the published names (`conv1_1` ... `fc6`, `fc7`, `final`).

    Args:
        num_classes: C.
        in_channels: A.
        width: factor on every hidden channel count.
        stages: the blocks of 3x3 convolutions.
        head: the fully connected layers.

    Shape:
        (B, A, H, W) to (B, C, h, w); with the default stages h = ceil((H - 372) / 8).

    Raises:
        ShapeError: num_classes or in_channels below 1, a width not above 0, or in the call an image smaller than the
            receptive field.

    Source: Yu and Koltun 2016, section 4; weights from scratch as in He et al. 2015, `final` from N(0, 0.001^2).

    Example:
        >>> front_end = FrontEnd(num_classes=4, width=1 / 16)
        >>> front_end.geometry.kernel, front_end.geometry.stride, front_end.margin
        ((380, 380), (8, 8), 186)
        >>> front_end(torch.zeros(1, 3, 500, 500)).shape
        torch.Size([1, 4, 16, 16])
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        width: float = 1.0,
        *,
        stages: tuple[Stage, ...] = VGG16,
        head: Head = VGG16_HEAD,
    ) -> None:
        if num_classes < 1 or in_channels < 1 or width <= 0:
            raise ShapeError(
                f"FrontEnd: got num_classes={num_classes}, in_channels={in_channels}, width={width}, "
                "expected at least 1, at least 1 and above 0"
            )
        super().__init__(_front_end_layers(num_classes, in_channels, width, stages, head))
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.reset_parameters()

    @property
    def margin(self) -> int:
        """Pixels to pad on every side of an image so that its scores are ceil(H / S) by ceil(W / S)."""
        return (self.geometry.kernel[0] - self.geometry.stride[0]) // 2

    def reset_parameters(self) -> None:
        """Initialise all layers anew: He's normal for the hidden ones, N(0, 0.001^2) for `final`, bias 0."""
        for layer in self:
            if isinstance(layer, Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                torch.nn.init.zeros_(cast(torch.Tensor, layer.bias))
        torch.nn.init.normal_(cast(Conv2d, self.final).weight, std=0.001)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return scores (B, C, h, w) of an image (B, A, H, W) that carries its own margin."""
        if not torch.compiler.is_compiling():
            least = 2 * self.margin + 1
            if image.ndim != 4 or image.shape[1] != self.in_channels or min(image.shape[2:]) < least:
                raise ShapeError(
                    f"FrontEnd: got an image of shape {tuple(image.shape)}, expected (B, {self.in_channels}, H, W) "
                    f"with sides of at least {least} pixels; pad it by `margin` = {self.margin} pixels on every side"
                )
        return cast(torch.Tensor, super().forward(image))  # type: ignore[no-untyped-call]


class ScoreUpsample(torch.nn.Module):
    """Bring scores to the size of the image by bilinear interpolation.

    Args:
        factor: S, the output stride of the scores.
        alignment: 'corner' puts score i on pixel S i (the published VOC, CamVid and KITTI models), 'centre' on pixel
            S i + (S - 1) / 2 (the Cityscapes model). Beyond the outermost scores their values continue; the
            deconvolution of the published Cityscapes model fades all classes alike there: same labels.

    Shape:
        (B, C, h, w) to (B, C, H, W), where h S >= H and w S >= W.

    Raises:
        GeometryError: an unknown alignment, or a factor below 1.
        ShapeError: in the call, scores that do not cover the size.

    Source: fyu/dilation, `util.interp_map` (corner) and layer `ctx_upsample` (centre).

    Example:
        >>> ScoreUpsample(2, "corner")(torch.tensor([[[[0.0, 2.0]]]]), (2, 4))
        tensor([[[[0., 1., 2., 2.],
                  [0., 1., 2., 2.]]]])
    """

    def __init__(self, factor: int, alignment: Alignment = "corner") -> None:
        super().__init__()
        if alignment not in ("corner", "centre") or factor < 1:
            raise GeometryError(
                f"ScoreUpsample: got factor {factor} and alignment {alignment!r}, "
                "expected at least 1, and 'corner' or 'centre'"
            )
        self.factor = factor
        self.alignment = alignment

    def extra_repr(self) -> str:
        """Return the arguments, for printing."""
        return f"factor={self.factor}, alignment={self.alignment!r}"

    def sample(self, labels: torch.Tensor) -> torch.Tensor:
        """Return labels (B, h, w) of labels (B, H, W): those of the pixels that the scores lie on.

        A centre between two pixels takes the one after, the last centre the last pixel at most.
        """
        for axis in (1, 2):
            size = labels.shape[axis]
            places = torch.arange(0, size, self.factor, device=labels.device)
            if self.alignment == "centre":
                places = (places + self.factor // 2).clamp(max=size - 1)
            labels = labels.index_select(axis, places)
        return labels

    def forward(self, scores: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Return scores (B, C, *size)."""
        height, width = (side * self.factor for side in scores.shape[2:])
        if not torch.compiler.is_compiling() and (size[0] > height or size[1] > width):
            raise ShapeError(
                f"ScoreUpsample: got scores {tuple(scores.shape)} for an image of {tuple(size)} pixels, "
                f"expected at most {height} x {width} at factor {self.factor}"
            )
        if self.alignment == "centre":
            full = F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=False)
        else:
            scores = F.pad(scores, (0, 1, 0, 1), mode="replicate")
            full = F.interpolate(scores, size=(height + 1, width + 1), mode="bilinear", align_corners=True)
        # A negative pad crops like a slice, but its layout does not hang on the size: exported graphs stay general.
        return F.pad(full, (0, size[1] - full.shape[3], 0, size[0] - full.shape[2]))


class DilatedNet(torch.nn.Module):
    """Segment an image: reflected margin, front end, context module, up-sampling.

    `front_end`, `context` and `upsample` are the parts; `features` stops before the last.

    Args:
        front_end: image to scores at stride S.
        context: scores to scores of the same shape; `torch.nn.Identity()` for the front end alone.
        alignment: of the up-sampling, see `ScoreUpsample`.

    Shape:
        (B, A, H, W) to (B, C, H, W), for any H and W of at least 2.

    Raises:
        GeometryError: an unknown alignment.
        ShapeError: in the call, an image of another number of channels, or with a side of 1 pixel.

    Source: Yu and Koltun 2016.

    Example:
        >>> net = dilation_small(num_classes=5, in_channels=1)
        >>> net(torch.zeros(1, 1, 50, 70)).shape, net.features(torch.zeros(1, 1, 50, 70)).shape
        (torch.Size([1, 5, 50, 70]), torch.Size([1, 5, 13, 18]))
    """

    def __init__(self, front_end: FrontEnd, context: torch.nn.Module, alignment: Alignment = "corner") -> None:
        super().__init__()
        self.front_end = front_end
        self.context = context
        self.upsample = ScoreUpsample(front_end.geometry.stride[0], alignment)
        self.margin = front_end.margin

    @property
    def geometry(self) -> Geometry:
        """The one window from image to scores before up-sampling; its kernel is the receptive field."""
        parts = [self.front_end.geometry]
        if isinstance(self.context, ContextModule):
            parts.append(self.context.geometry)
        return Geometry.compose(parts)

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Return scores (B, C, ceil(H / S), ceil(W / S)) of an image (B, A, H, W)."""
        scores: torch.Tensor = self.context(self.front_end(reflect_pad(image, self.margin)))
        return scores

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return scores (B, C, H, W) of an image (B, A, H, W)."""
        scores: torch.Tensor = self.upsample(self.features(image), image.shape[2:])
        return scores


def dilation7(
    num_classes: int,
    *,
    in_channels: int = 3,
    channels: Literal["basic", "large"] = "basic",
    width: float = 1.0,
    alignment: Alignment = "corner",
    dilated: bool = True,
) -> DilatedNet:
    """Build the network of the paper's KITTI model: context of 7 layers, every layer padded.

    Args:
        num_classes: C.
        in_channels: A.
        channels: of the context module.
        width: factor on the front end's channels.
        alignment: of the up-sampling.
        dilated: False makes all dilations of the context module 1.

    Returns:
        The network: (B, A, H, W) to (B, C, H, W), receptive field 652.

    Source: Yu and Koltun 2016, appendix; fyu/dilation, dilation7_kitti.

    Example:
        >>> with torch.device("meta"):
        ...     dilation7(11).geometry.kernel
        (652, 652)
    """
    context = ContextModule(num_classes, channels, 7, "same", dilated=dilated)
    return DilatedNet(FrontEnd(num_classes, in_channels, width), context, alignment)


def dilation8(
    num_classes: int,
    *,
    in_channels: int = 3,
    channels: Literal["basic", "large"] = "large",
    width: float = 1.0,
    padding: Literal["once", "same"] = "once",
    alignment: Alignment = "corner",
    dilated: bool = True,
) -> DilatedNet:
    """Build the network of the paper's VOC model: the large context of 8 layers, padded once.

    Args:
        num_classes: C.
        in_channels: A.
        channels: of the context module; 'basic' with padding 'same' is the CamVid model.
        width: factor on the front end's channels.
        padding: of the context module.
        alignment: of the up-sampling.
        dilated: False makes all dilations of the context module 1.

    Returns:
        The network: (B, A, H, W) to (B, C, H, W), receptive field 908.

    Source: Yu and Koltun 2016; fyu/dilation, dilation8_pascal_voc and dilation8_camvid.

    Example:
        >>> with torch.device("meta"):
        ...     dilation8(21).geometry.kernel
        (908, 908)
    """
    context = ContextModule(num_classes, channels, 8, padding, dilated=dilated)
    return DilatedNet(FrontEnd(num_classes, in_channels, width), context, alignment)


def dilation10(
    num_classes: int,
    *,
    in_channels: int = 3,
    channels: Literal["basic", "large"] = "basic",
    width: float = 1.0,
    alignment: Alignment = "centre",
    dilated: bool = True,
) -> DilatedNet:
    """Build the network of the paper's Cityscapes model: context of 10 layers, every layer padded.

    Args:
        num_classes: C.
        in_channels: A.
        channels: of the context module.
        width: factor on the front end's channels.
        alignment: of the up-sampling.
        dilated: False makes all dilations of the context module 1.

    Returns:
        The network: (B, A, H, W) to (B, C, H, W), receptive field 2444.

    Source: Yu and Koltun 2016, appendix; fyu/dilation, dilation10_cityscapes.

    Example:
        >>> with torch.device("meta"):
        ...     dilation10(19).geometry.kernel
        (2444, 2444)
    """
    context = ContextModule(num_classes, channels, 10, "same", dilated=dilated)
    return DilatedNet(FrontEnd(num_classes, in_channels, width), context, alignment)


def dilation_small(
    num_classes: int,
    in_channels: int = 3,
    width: float = 0.25,
    *,
    channels: Literal["basic", "large"] = "basic",
    dilated: bool = True,
) -> DilatedNet:
    """Build the same network with three convolutional stages and stride 4, small enough to train on a CPU.

    Args:
        num_classes: C.
        in_channels: A.
        width: factor on the front end's channels.
        channels: of the context module.
        dilated: as above.

    Returns:
        The network: (B, A, H, W) to (B, C, H, W), receptive field 58 in front, 322 with the basic context of 8 layers.

    Source: after Yu and Koltun 2016; the stages are ours.

    Example:
        >>> net = dilation_small(num_classes=8, in_channels=1)
        >>> net.front_end.geometry.kernel, net.geometry.kernel, net.geometry.stride
        ((58, 58), (322, 322), (4, 4))
    """
    front_end = FrontEnd(num_classes, in_channels, width, stages=SMALL, head=SMALL_HEAD)
    return DilatedNet(front_end, ContextModule(num_classes, channels, 8, "same", dilated=dilated), "centre")


def _front_end_layers(
    num_classes: int, in_channels: int, width: float, stages: tuple[Stage, ...], head: Head
) -> OrderedDict[str, torch.nn.Module]:
    layers: OrderedDict[str, torch.nn.Module] = OrderedDict()
    channels = in_channels

    def convolution(name: str, outputs: int, kernel: int, dilation: int) -> None:
        nonlocal channels
        outputs = max(1, round(outputs * width))
        layers[name] = Conv2d(channels, outputs, kernel, dilation=dilation)
        layers[f"{name}_relu"] = torch.nn.ReLU()
        channels = outputs

    for block, stage in enumerate(stages, start=1):
        for index in range(1, stage.convs + 1):
            convolution(f"conv{block}_{index}", stage.channels, 3, stage.dilation)
        if stage.pool:
            layers[f"pool{block}"] = torch.nn.MaxPool2d(2, 2, ceil_mode=True)
    for name, kernel, dilation in (("fc6", head.kernel, head.dilation), ("fc7", 1, 1)):
        convolution(name, head.channels, kernel, dilation)
        if head.dropout:
            layers[f"{name}_dropout"] = torch.nn.Dropout(head.dropout)
    layers["final"] = Conv2d(channels, num_classes, 1)
    return layers
