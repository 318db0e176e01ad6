"""Modules: state and nothing else; the arithmetic is in `atrous.functional`."""

from atrous.nn import init
from atrous.nn.adaptive import AdaptiveDilationConv2d
from atrous.nn.bilinear import BilinearUpsample
from atrous.nn.branches import DilatedBranches
from atrous.nn.cascade import Cascade
from atrous.nn.context import ContextModule
from atrous.nn.conv import Conv1d, Conv2d, Conv3d
from atrous.nn.conv_transposed import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from atrous.nn.dcls import Dcls1d, Dcls2_1d, Dcls2d, Dcls3_1d, Dcls3_2d, Dcls3d
from atrous.nn.kronecker import KroneckerConv1d, KroneckerConv2d, KroneckerConv3d, KroneckerLinear
from atrous.nn.low_rank import CPConv2d, SeparableConv2d
from atrous.nn.phases import DilatedStack, PhasedSequential
from atrous.nn.smoothed import SmoothedDilatedConv2d
from atrous.nn.switchable import SwitchableAtrousConv2d

__all__ = [
    "AdaptiveDilationConv2d",
    "BilinearUpsample",
    "CPConv2d",
    "Cascade",
    "ContextModule",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Dcls1d",
    "Dcls2_1d",
    "Dcls2d",
    "Dcls3_1d",
    "Dcls3_2d",
    "Dcls3d",
    "DilatedBranches",
    "DilatedStack",
    "KroneckerConv1d",
    "KroneckerConv2d",
    "KroneckerConv3d",
    "KroneckerLinear",
    "PhasedSequential",
    "SeparableConv2d",
    "SmoothedDilatedConv2d",
    "SwitchableAtrousConv2d",
    "init",
]
