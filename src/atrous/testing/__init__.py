"""Public helpers for tests: one table of small cases, and budgets of error taken from float64."""

from atrous.testing.budget import assert_within_budget
from atrous.testing.cases import CONV_CASES, ConvCase

__all__ = ["CONV_CASES", "ConvCase", "assert_within_budget"]
