"""Convolutions with holes for PyTorch: the kernels, the networks built on them, and what those networks read."""

from importlib.metadata import version as _version

from atrous import analysis, convert, footprint, functional, models, nn
from atrous._errors import (
    AtrousError,
    BackendError,
    CheckpointError,
    DataError,
    GeometryError,
    MissingExtra,
    ShapeError,
    UnsupportedModule,
)
from atrous._geometry import Geometry
from atrous.convert import accelerate, merge_dcls, replace_depthwise, restore, tune
from atrous.footprint import Footprint, trace_footprint
from atrous.functional.routes import explain

__version__ = _version("atrous")

__all__ = [
    "AtrousError",
    "BackendError",
    "CheckpointError",
    "DataError",
    "Footprint",
    "Geometry",
    "GeometryError",
    "MissingExtra",
    "ShapeError",
    "UnsupportedModule",
    "accelerate",
    "analysis",
    "convert",
    "explain",
    "footprint",
    "functional",
    "merge_dcls",
    "models",
    "nn",
    "replace_depthwise",
    "restore",
    "trace_footprint",
    "tune",
]
