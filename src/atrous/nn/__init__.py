"""Modules: state and nothing else; the arithmetic is in `atrous.functional`."""

from atrous.nn import init
from atrous.nn.context import ContextModule
from atrous.nn.conv import Conv1d, Conv2d, Conv3d
from atrous.nn.conv_transposed import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from atrous.nn.dcls import Dcls1d, Dcls2_1d, Dcls2d, Dcls3_1d, Dcls3_2d, Dcls3d

__all__ = [
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
    "init",
]
