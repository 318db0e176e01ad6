"""Pictures of results: one picture, one file; each takes a result and computes nothing (extra: plots)."""

from atrous._extras import need

try:
    from atrous.plots.borders import border_errors
    from atrous.plots.comparison import comparison
    from atrous.plots.cost import cost_bars
    from atrous.plots.curves import training_curves
    from atrous.plots.effective import effective_receptive_field, effective_receptive_fields
    from atrous.plots.equivariance import shift_errors
    from atrous.plots.gridding import gridding
    from atrous.plots.inspection import Inspection, write_inspection
    from atrous.plots.kernel import kernel
    from atrous.plots.masks import colourise, indexed, mistakes, overlay, palette, save_indexed, save_picture
    from atrous.plots.movement import movement
    from atrous.plots.pixels import grey, thin, viewable
    from atrous.plots.positions import positions
    from atrous.plots.receptive_field import receptive_field_growth
    from atrous.plots.report import write_report
    from atrous.plots.results import Report, Variant
    from atrous.plots.sheet import contact_sheet
except ModuleNotFoundError:
    need("plots", "atrous.plots")
    raise

__all__ = [
    "Inspection",
    "Report",
    "Variant",
    "border_errors",
    "colourise",
    "comparison",
    "contact_sheet",
    "cost_bars",
    "effective_receptive_field",
    "effective_receptive_fields",
    "grey",
    "gridding",
    "indexed",
    "kernel",
    "mistakes",
    "movement",
    "overlay",
    "palette",
    "positions",
    "receptive_field_growth",
    "save_indexed",
    "save_picture",
    "shift_errors",
    "thin",
    "training_curves",
    "viewable",
    "write_inspection",
    "write_report",
]
