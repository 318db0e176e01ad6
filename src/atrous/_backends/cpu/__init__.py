"""Compiled operations for the CPU; they are missing where no C++ compiler could build them."""

from atrous._backends.cpu.library import load
from atrous._backends.cpu.taps import DTYPES, tap_conv, tap_conv_weight

UNAVAILABLE = load("atrous._C")
"""Why the compiled operations are not there and what to do, or None."""

__all__ = ["DTYPES", "UNAVAILABLE", "tap_conv", "tap_conv_weight"]
