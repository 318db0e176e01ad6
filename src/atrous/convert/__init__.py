"""Rewritings of a model that is there already, and weights of other packages."""

from atrous.convert.accelerate import Report, Row, accelerate, restore
from atrous.convert.checkpoints import LoadedDcls, load_dcls

__all__ = ["LoadedDcls", "Report", "Row", "accelerate", "load_dcls", "restore"]
