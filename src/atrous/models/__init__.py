"""Networks of the papers: one paper, one file."""

from atrous.models.convnext import (
    ConvNeXt,
    convnext_base,
    convnext_base_dcls,
    convnext_pico,
    convnext_small,
    convnext_small_dcls,
    convnext_tiny,
    convnext_tiny_dcls,
)
from atrous.models.dense_map import DenseMap
from atrous.models.ircnn import IRCNN
from atrous.models.resnet import ResNet, resnet18, resnet34, resnet50, resnet50_dcls, resnet101
from atrous.models.segnet import SegNet
from atrous.models.upernet import UPerNet
from atrous.models.yu_koltun import (
    DilatedNet,
    FrontEnd,
    ScoreUpsample,
    dilation7,
    dilation8,
    dilation10,
    dilation_small,
)

__all__ = [
    "ConvNeXt",
    "DenseMap",
    "DilatedNet",
    "FrontEnd",
    "IRCNN",
    "ResNet",
    "ScoreUpsample",
    "SegNet",
    "UPerNet",
    "convnext_base",
    "convnext_base_dcls",
    "convnext_pico",
    "convnext_small",
    "convnext_small_dcls",
    "convnext_tiny",
    "convnext_tiny_dcls",
    "dilation10",
    "dilation7",
    "dilation8",
    "dilation_small",
    "resnet101",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet50_dcls",
]
