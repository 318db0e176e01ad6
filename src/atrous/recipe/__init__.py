"""What a training loop needs beside the loss, in plain PyTorch."""

from atrous.recipe.param_groups import param_groups

__all__ = ["param_groups"]
