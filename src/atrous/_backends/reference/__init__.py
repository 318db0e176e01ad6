"""The definitions: plain differentiable PyTorch, slow, and the oracle of every test."""

from atrous._backends.reference.conv import conv, conv_transpose
from atrous._backends.reference.taps import tap_conv, tap_conv_weight

__all__ = ["conv", "conv_transpose", "tap_conv", "tap_conv_weight"]
