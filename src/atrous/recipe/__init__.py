"""What a training loop needs beside the loss, in plain PyTorch."""

from atrous.recipe.ema import EMA
from atrous.recipe.losses import repulsive_loss
from atrous.recipe.param_groups import param_groups
from atrous.recipe.positions import (
    RoundedPositions,
    anneal_scales,
    clamp_after_steps,
    clamp_positions,
    reset_positions,
    round_positions,
)
from atrous.recipe.sharing import share_positions

__all__ = [
    "EMA",
    "RoundedPositions",
    "anneal_scales",
    "clamp_after_steps",
    "clamp_positions",
    "param_groups",
    "repulsive_loss",
    "reset_positions",
    "round_positions",
    "share_positions",
]
