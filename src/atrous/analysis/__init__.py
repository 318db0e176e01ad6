"""Readings of a network: receptive fields, gridding, cost, learned positions, behaviour under shifts and at borders."""

from atrous.analysis.borders import Borders, borders
from atrous.analysis.comparison import Comparison, Contender
from atrous.analysis.cost import Cost, LayerCost, cost
from atrous.analysis.effective import EffectiveReceptiveField, effective_receptive_field
from atrous.analysis.equivariance import Equivariance, ShiftError, equivariance
from atrous.analysis.gridding import AxisGridding, Gridding, Hdc, gridding, hdc
from atrous.analysis.movement import LayerMovement, Movement, Snapshot, movement, snapshot
from atrous.analysis.positions import LayerPositions, Positions, positions
from atrous.analysis.receptive_field import LayerField, ReceptiveFields, receptive_field
from atrous.analysis.schedule import hybrid_schedule

__all__ = [
    "AxisGridding",
    "Borders",
    "Comparison",
    "Contender",
    "Cost",
    "EffectiveReceptiveField",
    "Equivariance",
    "Gridding",
    "Hdc",
    "LayerCost",
    "LayerField",
    "LayerMovement",
    "LayerPositions",
    "Movement",
    "Positions",
    "ReceptiveFields",
    "ShiftError",
    "Snapshot",
    "borders",
    "cost",
    "effective_receptive_field",
    "equivariance",
    "gridding",
    "hdc",
    "hybrid_schedule",
    "movement",
    "positions",
    "receptive_field",
    "snapshot",
]
