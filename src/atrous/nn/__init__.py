"""Modules: state and nothing else; the arithmetic is in `atrous.functional`."""

from atrous.nn import init
from atrous.nn.context import ContextModule
from atrous.nn.conv import Conv1d, Conv2d, Conv3d
from atrous.nn.conv_transposed import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

__all__ = [
    "ContextModule",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "init",
]
