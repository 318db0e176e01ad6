"""Public verbs: each validates once, chooses a backend and calls it."""

from atrous.functional.conv import conv1d, conv2d, conv3d, dilated_convolve
from atrous.functional.dcls import dcls_conv1d, dcls_conv2d, dcls_conv3d
from atrous.functional.interpolation import dcls_kernel, dcls_taps
from atrous.functional.pad import reflect_pad
from atrous.functional.taps import tap_conv
from atrous.functional.transposed import conv_transpose1d, conv_transpose2d, conv_transpose3d

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "dcls_conv1d",
    "dcls_conv2d",
    "dcls_conv3d",
    "dcls_kernel",
    "dcls_taps",
    "dilated_convolve",
    "reflect_pad",
    "tap_conv",
]
