"""Rewritings of a model that is there already."""

from atrous.convert.accelerate import Report, Row, accelerate, restore

__all__ = ["Report", "Row", "accelerate", "restore"]
