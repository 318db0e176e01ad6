"""torch's own operators, where they are already near the limit of the machine."""

from atrous._backends.aten.conv import conv, conv_gradients, conv_transpose, widening, widens

__all__ = ["conv", "conv_gradients", "conv_transpose", "widening", "widens"]
