"""The definitions: plain differentiable PyTorch, slow, and the oracle of every test."""

from atrous._backends.reference.conv import conv
from atrous._backends.reference.taps import tap_conv, tap_conv_weight

__all__ = ["conv", "tap_conv", "tap_conv_weight"]
