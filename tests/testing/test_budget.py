import pytest
import torch

from atrous.testing import assert_within_budget

EXACT = torch.tensor([1.0, 2.0], dtype=torch.float64)


def test_as_good_as_the_reference_times_the_factor():
    reference = (EXACT + 1e-4).float()
    assert_within_budget((EXACT + 7e-4).float(), reference, EXACT)
    with pytest.raises(AssertionError, match=r"taps: error 0.0009 against float64, expected at most 0.0008"):
        assert_within_budget((EXACT + 9e-4).float(), reference, EXACT, what="taps")
    with pytest.raises(AssertionError):
        assert_within_budget((EXACT + 7e-4).float(), reference, EXACT, factor=2)


def test_a_lucky_reference_leaves_one_rounding():
    assert_within_budget((EXACT + 1e-7).float(), EXACT.float(), EXACT)
    with pytest.raises(AssertionError):
        assert_within_budget((EXACT + 1e-5).float(), EXACT.float(), EXACT)


def test_nan_shape_and_empty():
    with pytest.raises(AssertionError, match="error nan"):
        assert_within_budget(EXACT.float() * float("nan"), EXACT.float(), EXACT)
    with pytest.raises(AssertionError, match=r"got shape \(1,\), expected \(2,\)"):
        assert_within_budget(EXACT[:1], EXACT, EXACT)
    assert_within_budget(EXACT[:0], EXACT[:0], EXACT[:0])


def test_float64_is_held_to_the_float32_reference_in_units_of_rounding():
    reference = (EXACT + 1e-6).float()
    assert_within_budget(EXACT + 1e-15, reference, EXACT)
    with pytest.raises(AssertionError):
        assert_within_budget(EXACT + 1e-12, reference, EXACT)
