"""Public verbs: each validates once, chooses a backend and calls it."""

from atrous.functional import tf
from atrous.functional.adaptive import adaptive_conv2d
from atrous.functional.cascade import compose, dilate_kernel
from atrous.functional.conv import conv1d, conv2d, conv3d, dilated_convolve
from atrous.functional.dcls import dcls_conv1d, dcls_conv2d, dcls_conv3d
from atrous.functional.interpolation import dcls_kernel, dcls_taps
from atrous.functional.kronecker import kronecker, kronecker_kernel
from atrous.functional.kronecker_conv import kronecker_conv1d, kronecker_conv2d, kronecker_conv3d, kronecker_linear
from atrous.functional.kronecker_nearest import KroneckerChoice, choose_kronecker, kronecker_factors, nearest_kronecker
from atrous.functional.low_rank import (
    cp_conv2d,
    cp_kernel,
    nearest_cp,
    nearest_separable,
    separable_conv2d,
    separable_kernel,
)
from atrous.functional.pad import reflect_pad
from atrous.functional.phases import batch_to_space, in_phases, space_to_batch
from atrous.functional.smoothed import smoothed_conv2d
from atrous.functional.switchable import standardized_weight, switchable_conv2d
from atrous.functional.taps import tap_conv
from atrous.functional.transposed import conv_transpose1d, conv_transpose2d, conv_transpose3d, zero_insert

__all__ = [
    "KroneckerChoice",
    "adaptive_conv2d",
    "batch_to_space",
    "choose_kronecker",
    "compose",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cp_conv2d",
    "cp_kernel",
    "dcls_conv1d",
    "dcls_conv2d",
    "dcls_conv3d",
    "dcls_kernel",
    "dcls_taps",
    "dilate_kernel",
    "dilated_convolve",
    "in_phases",
    "kronecker",
    "kronecker_conv1d",
    "kronecker_conv2d",
    "kronecker_conv3d",
    "kronecker_factors",
    "kronecker_kernel",
    "kronecker_linear",
    "nearest_cp",
    "nearest_kronecker",
    "nearest_separable",
    "reflect_pad",
    "separable_conv2d",
    "separable_kernel",
    "smoothed_conv2d",
    "space_to_batch",
    "standardized_weight",
    "switchable_conv2d",
    "tap_conv",
    "tf",
    "zero_insert",
]
