"""torch's own operators, where they are already near the limit of the machine."""

from atrous._backends.aten.conv import CONV, conv, conv_gradients, conv_transpose, pads_slowly, widening, widens

__all__ = ["CONV", "conv", "conv_gradients", "conv_transpose", "pads_slowly", "widening", "widens"]
