"""Networks of the papers: one paper, one file."""

from atrous.models.convnext import ConvNeXt, convnext_base, convnext_pico, convnext_small, convnext_tiny
from atrous.models.dense_map import DenseMap
from atrous.models.ircnn import IRCNN
from atrous.models.resnet import ResNet, resnet18, resnet34, resnet50, resnet101
from atrous.models.segnet import SegNet
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
    "convnext_base",
    "convnext_pico",
    "convnext_small",
    "convnext_tiny",
    "dilation10",
    "dilation7",
    "dilation8",
    "dilation_small",
    "resnet101",
    "resnet18",
    "resnet34",
    "resnet50",
]
