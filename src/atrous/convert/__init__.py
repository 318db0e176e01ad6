"""Rewritings of a model that is there already, and weights of other packages."""

from atrous.convert.accelerate import accelerate, restore
from atrous.convert.checkpoints import LoadedDcls, load_dcls
from atrous.convert.merge import merge_dcls
from atrous.convert.report import Report, Row
from atrous.convert.respace import replace_depthwise
from atrous.convert.weights import LoadedWeights, load_weights

__all__ = [
    "LoadedDcls",
    "LoadedWeights",
    "Report",
    "Row",
    "accelerate",
    "load_dcls",
    "load_weights",
    "merge_dcls",
    "replace_depthwise",
    "restore",
]
