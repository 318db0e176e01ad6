"""Public helpers for tests: tables of small cases, and budgets of error taken from float64."""

from atrous.testing.budget import assert_within_budget
from atrous.testing.cases import CONV_CASES, TAP_CASES, ConvCase, TapCase

__all__ = ["CONV_CASES", "ConvCase", "TAP_CASES", "TapCase", "assert_within_budget"]
