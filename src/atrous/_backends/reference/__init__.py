"""The definitions: plain differentiable PyTorch, slow, and the oracle of every test."""

from atrous._backends.reference.conv import conv

__all__ = ["conv"]
