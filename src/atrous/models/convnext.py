"""Liu et al. 2022, A ConvNet for the 2020s: classes of images, by depthwise 7x7 convolutions and little else.

Legend: B batch, C classes, A image channels, D channels of a stage, H, W image size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Unpack, cast

import torch

from atrous._errors import ShapeError
from atrous.models._kernels import DclsOptions, KernelOptions, chosen
from atrous.nn import Conv2d, Dcls2d
from atrous.recipe import share_positions

Kernel = Literal["7x7", "dilated", "dcls", "dense17"]

_KERNELS: dict[str, dict[str, Any]] = {
    "7x7": {},
    "dilated": {"dilation": 2},
    "dcls": {"kernel_count": 34, "dilated_kernel_size": 17, "interpolation": "bilinear", "share": True},
    "dense17": {},
}
"""Kernel -> its options and their defaults."""
_EPS = 1e-6
"""Of all norms."""

_Depthwise = Callable[[int], torch.nn.Module]


class _Settings(KernelOptions, total=False):
    patch: int
    drop_path: float
    kernel: Kernel


class _Options(_Settings, total=False):
    width: float


class _SpacedOptions(DclsOptions, total=False):
    patch: int
    drop_path: float
    width: float


class ConvNeXt(torch.nn.Module):
    """Classify an image: patches, then stages of residual blocks, each stage at half the size of the one before.

    A block is a depthwise 7x7 convolution, a norm over channels and two linear layers with four times the channels
    between them. Layers carry the names of timm, whose weights load unchanged. `channels` are the D of the stages.

    Args:
        num_classes: C.
        in_channels: A.
        depths: blocks of every stage.
        dims: D of every stage.
        patch: pixels of an image that make one of the first map, per axis; 1 or 2 for small images.
        drop_path: share of the residual branches left out of training in the last block; it rises to this from 0 in
            the first.
        layer_scale: first value of the factors on a residual branch, one for each channel.
        kernel: of the depthwise convolutions: '7x7'; 'dilated', 7x7 with holes; 'dcls', `atrous.nn.Dcls2d`; 'dense17'.
        **options: of the kernel, no others. 'dilated': dilation, by default 2. 'dcls': kernel_count, elements of a
            kernel (34); dilated_kernel_size, pixels of its window per axis (17); interpolation ('bilinear'); share,
            whether the blocks of a stage have the same positions (True).

    Shape:
        (B, A, H, W) to (B, C). What is left of H or W after whole patches, or before a halving, is not read.

    Raises:
        ShapeError: a number out of range, as many depths as there are no dims, or in the call an image of other
            channels, or so small that nothing of it is left for the last stage.
        GeometryError: an unknown kernel, an option of another one, or one that cannot be.

    Source: Liu et al., A ConvNet for the 2020s, 2022; depth-dependent drop path from Huang et al. 2016; 'dcls' and
    'dilated' from Khalfaoui-Hassani, Pellegrini and Masquelier, ICLR 2023.

    Example:
        >>> net = ConvNeXt(10, 1, depths=(1, 1), dims=(8, 16), patch=2)
        >>> net(torch.zeros(3, 1, 28, 28)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        depths: Sequence[int] = (3, 3, 9, 3),
        dims: Sequence[int] = (96, 192, 384, 768),
        *,
        patch: int = 4,
        drop_path: float = 0.0,
        layer_scale: float = 1e-6,
        kernel: Kernel = "7x7",
        **options: Unpack[KernelOptions],
    ) -> None:
        super().__init__()
        _check(num_classes, in_channels, depths, dims, patch, drop_path)
        found = chosen("ConvNeXt", _KERNELS, kernel, options)
        share = found.pop("share", False)
        depthwise = partial(_depthwise, kernel, **found)
        self.in_channels, self.channels = in_channels, tuple(dims)
        self.smallest = patch * 2 ** (len(depths) - 1)
        """Least H and W, pixels."""
        self.stem = torch.nn.Sequential(Conv2d(in_channels, dims[0], patch, patch), ChannelNorm(dims[0], _EPS))
        drops = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
        self.stages = torch.nn.ModuleList(
            _Stage(before, after, [next(drops) for _ in range(depth)], layer_scale, depthwise)
            for before, after, depth in zip([None, *dims[:-1]], dims, depths, strict=True)
        )
        self.head = torch.nn.Sequential(
            OrderedDict(norm=torch.nn.LayerNorm(dims[-1], _EPS), fc=torch.nn.Linear(dims[-1], num_classes))
        )
        self.apply(_initialise)
        if share:
            for stage in self.stages:
                share_positions(stage)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return scores (B, C) of images (B, A, H, W)."""
        scores: torch.Tensor = self.head(self.features(image)[-1].mean((2, 3)))
        return scores

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the last map of every stage, (B, D, H / patch, W / patch) and so on by halves."""
        if not torch.compiler.is_compiling() and (
            image.ndim != 4 or image.shape[1] != self.in_channels or min(image.shape[2:]) < self.smallest
        ):
            raise ShapeError(
                f"ConvNeXt: got images of shape {tuple(image.shape)}, expected (B, {self.in_channels}, H, W) with H "
                f"and W of at least {self.smallest}; small images take a smaller patch"
            )
        maps, features = [], self.stem(image)
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return maps

    def layers(self) -> list[list[torch.nn.Module]]:
        """Return the layers from image to scores: stem, one for each block, head.

        What halves the map belongs to the block behind it.
        """
        found: list[list[torch.nn.Module]] = [[self.stem]]
        for stage in cast("list[_Stage]", self.stages):
            first, *others = stage.blocks
            found += [[stage.downsample, first], *([block] for block in others)]
        return [*found, [self.head]]


def convnext_pico(num_classes: int, in_channels: int = 3, **options: Unpack[_Options]) -> ConvNeXt:
    """Return a ConvNeXt with 2, 2, 6, 2 blocks of 64, 128, 256, 512 channels: 9.0 M parameters for 1000 classes.

    Args:
        num_classes: C.
        in_channels: A.
        **options: width, a factor on the channels, by default 1; and keywords of `ConvNeXt`: patch, drop_path, kernel
            and the options of that kernel.

    Raises:
        ShapeError: a number out of range.
        GeometryError: a kernel or an option of it that cannot be.

    Source: the smallest but two of timm; not in the paper.

    Example:
        >>> convnext_pico(10, 1, patch=2, width=1 / 8)(torch.zeros(1, 1, 28, 28)).shape
        torch.Size([1, 10])
    """
    return _scaled(num_classes, in_channels, (2, 2, 6, 2), 64, **options)


def convnext_tiny(num_classes: int, in_channels: int = 3, **options: Unpack[_Options]) -> ConvNeXt:
    """Return ConvNeXt-T: 3, 3, 9, 3 blocks of 96, 192, 384, 768 channels, 28.6 M parameters for 1000 classes.

    Arguments and errors as in `convnext_pico`.

    Source: Liu et al. 2022, section 2.7.

    Example:
        >>> with torch.device("meta"):
        ...     sum(weight.numel() for weight in convnext_tiny(1000).parameters())
        28589128
    """
    return _scaled(num_classes, in_channels, (3, 3, 9, 3), 96, **options)


def convnext_small(num_classes: int, in_channels: int = 3, **options: Unpack[_Options]) -> ConvNeXt:
    """Return ConvNeXt-S: 3, 3, 27, 3 blocks of 96, 192, 384, 768 channels, 50.2 M parameters for 1000 classes.

    Arguments and errors as in `convnext_pico`.

    Source: Liu et al. 2022, section 2.7.

    Example:
        >>> with torch.device("meta"):
        ...     sum(weight.numel() for weight in convnext_small(1000).parameters())
        50223688
    """
    return _scaled(num_classes, in_channels, (3, 3, 27, 3), 96, **options)


def convnext_base(num_classes: int, in_channels: int = 3, **options: Unpack[_Options]) -> ConvNeXt:
    """Return ConvNeXt-B: 3, 3, 27, 3 blocks of 128, 256, 512, 1024 channels, 88.6 M parameters for 1000 classes.

    Arguments and errors as in `convnext_pico`.

    Source: Liu et al. 2022, section 2.7.

    Example:
        >>> with torch.device("meta"):
        ...     sum(weight.numel() for weight in convnext_base(1000).parameters())
        88591464
    """
    return _scaled(num_classes, in_channels, (3, 3, 27, 3), 128, **options)


def convnext_tiny_dcls(num_classes: int, in_channels: int = 3, **options: Unpack[_SpacedOptions]) -> ConvNeXt:
    """Return ConvNeXt-T with 34 elements at learned positions in windows of 17x17, and about as many parameters.

    Arguments and errors as in `convnext_pico`, for the kernel 'dcls'.

    Source: Khalfaoui-Hassani, Pellegrini and Masquelier, ICLR 2023.

    Example:
        >>> with torch.device("meta"):
        ...     sum(weight.numel() for weight in convnext_tiny_dcls(1000).parameters())
        28587688
    """
    return convnext_tiny(num_classes, in_channels, kernel="dcls", **options)


def convnext_small_dcls(num_classes: int, in_channels: int = 3, **options: Unpack[_SpacedOptions]) -> ConvNeXt:
    """Return ConvNeXt-S with 40 elements at learned positions in windows of 17x17, and about as many parameters.

    Arguments and errors as in `convnext_pico`, for the kernel 'dcls'.

    Source: Khalfaoui-Hassani, Pellegrini and Masquelier, ICLR 2023.

    Example:
        >>> with torch.device("meta"):
        ...     sum(weight.numel() for weight in convnext_small_dcls(1000).parameters())
        50217064
    """
    options.setdefault("kernel_count", 40)
    return convnext_small(num_classes, in_channels, kernel="dcls", **options)


def convnext_base_dcls(num_classes: int, in_channels: int = 3, **options: Unpack[_SpacedOptions]) -> ConvNeXt:
    """Return ConvNeXt-B with 40 elements at learned positions in windows of 17x17, and about as many parameters.

    Arguments and errors as in `convnext_pico`, for the kernel 'dcls'.

    Source: Khalfaoui-Hassani, Pellegrini and Masquelier, ICLR 2023.

    Example:
        >>> with torch.device("meta"):
        ...     sum(weight.numel() for weight in convnext_base_dcls(1000).parameters())
        88582632
    """
    options.setdefault("kernel_count", 40)
    return convnext_base(num_classes, in_channels, kernel="dcls", **options)


class ChannelNorm(torch.nn.LayerNorm):
    """Norm over D of (B, D, H, W), each pixel by itself."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return `input`, normed."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Stage(torch.nn.Module):
    def __init__(
        self, before: int | None, after: int, drops: list[float], layer_scale: float, depthwise: _Depthwise
    ) -> None:
        super().__init__()
        self.downsample: torch.nn.Module = torch.nn.Identity()
        if before is not None:
            self.downsample = torch.nn.Sequential(ChannelNorm(before, _EPS), Conv2d(before, after, 2, 2))
        self.blocks = torch.nn.Sequential(*(_Block(after, drop, layer_scale, depthwise) for drop in drops))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.blocks(self.downsample(features))
        return found


class _Block(torch.nn.Module):
    def __init__(self, channels: int, drop_path: float, layer_scale: float, depthwise: _Depthwise) -> None:
        super().__init__()
        self.conv_dw = depthwise(channels)
        self.norm = torch.nn.LayerNorm(channels, _EPS)
        self.mlp = torch.nn.Sequential(
            OrderedDict(
                fc1=torch.nn.Linear(channels, 4 * channels),
                act=torch.nn.GELU(),
                fc2=torch.nn.Linear(4 * channels, channels),
            )
        )
        self.gamma = torch.nn.Parameter(torch.full((channels,), layer_scale))
        self.drop_path = drop_path
        self.register_load_state_dict_pre_hook(_flatten_linear)  # type: ignore[no-untyped-call]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        branch = self.norm(self.conv_dw(features).permute(0, 2, 3, 1))
        branch = (self.mlp(branch) * self.gamma).permute(0, 3, 1, 2)
        if self.training and self.drop_path:
            kept = 1 - self.drop_path
            # Divided, so that the mean over what is left out stays.
            branch = branch * (branch.new_empty(len(branch), 1, 1, 1).bernoulli_(kept) / kept)
        found: torch.Tensor = features + branch
        return found


def _depthwise(kernel: Kernel, channels: int, *, dilation: int = 1, **spacing: Any) -> torch.nn.Module:
    """Return the one layer of a block that looks around; maps keep their sizes."""
    if kernel == "dcls":
        return Dcls2d(channels, channels, padding="same", groups=channels, **spacing)
    size = 17 if kernel == "dense17" else 7
    padding = dilation * (size // 2)
    return Conv2d(channels, channels, size, padding=padding, dilation=dilation, groups=channels)


def _flatten_linear(block: torch.nn.Module, state: dict[str, torch.Tensor], prefix: str, *_: object) -> None:
    """Make linear weights of 1x1 kernels: the small networks of timm have those for the same thing."""
    for name in (f"{prefix}mlp.fc1.weight", f"{prefix}mlp.fc2.weight"):
        if name in state:
            state[name] = state[name].flatten(1)


def _initialise(module: torch.nn.Module) -> None:
    if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear, Dcls2d)):
        torch.nn.init.trunc_normal_(module.weight, std=0.02)
        torch.nn.init.zeros_(cast(torch.Tensor, module.bias))


def _scaled(
    num_classes: int,
    in_channels: int,
    depths: Sequence[int],
    dim: int,
    width: float = 1.0,
    **settings: Unpack[_Settings],
) -> ConvNeXt:
    """Return a network whose channels double from stage to stage."""
    if width <= 0:
        raise ShapeError(f"ConvNeXt: width: got {width}, expected above 0; 1 is the network of the paper")
    dims = [max(1, round(dim * 2**stage * width)) for stage in range(len(depths))]
    return ConvNeXt(num_classes, in_channels, depths, dims, **settings)


def _check(
    num_classes: int, in_channels: int, depths: Sequence[int], dims: Sequence[int], patch: int, drop_path: float
) -> None:
    if min(num_classes, in_channels, patch) < 1 or not 0 <= drop_path < 1:
        raise ShapeError(
            f"ConvNeXt: got num_classes={num_classes}, in_channels={in_channels}, patch={patch}, "
            f"drop_path={drop_path}, expected at least 1, at least 1, at least 1, and 0 to below 1"
        )
    if not depths or len(depths) != len(dims) or min(*depths, *dims) < 1:
        raise ShapeError(
            f"ConvNeXt: got depths={tuple(depths)} and dims={tuple(dims)}, expected one of each for every stage, "
            "all at least 1"
        )
