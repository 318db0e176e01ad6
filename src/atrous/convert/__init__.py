"""Rewritings of a model that is there already, and weights of other packages."""

from atrous.convert.accelerate import accelerate, restore
from atrous.convert.branches import merge_dilated_branches
from atrous.convert.checkpoints import LoadedDcls, load_dcls
from atrous.convert.factorise import Compression, FactorisedLayer, factorise
from atrous.convert.fuse import fuse_same_rate
from atrous.convert.merge import merge_dcls
from atrous.convert.report import Report, Row
from atrous.convert.respace import replace_depthwise
from atrous.convert.tune import Timing, Tuning, forget_timings, tune
from atrous.convert.weights import LoadedWeights, load_weights

__all__ = [
    "Compression",
    "FactorisedLayer",
    "LoadedDcls",
    "LoadedWeights",
    "Report",
    "Row",
    "Timing",
    "Tuning",
    "accelerate",
    "factorise",
    "forget_timings",
    "fuse_same_rate",
    "load_dcls",
    "load_weights",
    "merge_dcls",
    "merge_dilated_branches",
    "replace_depthwise",
    "restore",
    "tune",
]
