"""The operations on a GPU, written in Triton; they are missing where Triton is."""

from importlib.util import find_spec

from atrous._backends.triton.taps import tap_conv, tap_conv_weight

# Not imported before it is used: it takes long.
UNAVAILABLE = None if find_spec("triton") else "Triton is missing; `pip install triton` brings it, on Linux"
"""Why the operations are not there and what to do, or None."""

__all__ = ["UNAVAILABLE", "tap_conv", "tap_conv_weight"]
