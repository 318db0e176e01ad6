"""Readings of a network: receptive fields, gridding, cost, learned positions, behaviour under shifts and at borders."""

from atrous.analysis.borders import Borders, borders
from atrous.analysis.cost import Cost, LayerCost, cost
from atrous.analysis.effective import EffectiveReceptiveField, effective_receptive_field
from atrous.analysis.equivariance import Equivariance, ShiftError, equivariance
from atrous.analysis.gridding import AxisGridding, Gridding, Hdc, gridding, hdc
from atrous.analysis.positions import LayerPositions, Positions, positions
from atrous.analysis.receptive_field import LayerField, ReceptiveFields, receptive_field

__all__ = [
    "AxisGridding",
    "Borders",
    "Cost",
    "EffectiveReceptiveField",
    "Equivariance",
    "Gridding",
    "Hdc",
    "LayerCost",
    "LayerField",
    "LayerPositions",
    "Positions",
    "ReceptiveFields",
    "ShiftError",
    "borders",
    "cost",
    "effective_receptive_field",
    "equivariance",
    "gridding",
    "hdc",
    "positions",
    "receptive_field",
]
