"""How wrong a kernel may be: no worse than the definition itself in the same dtype, times a stated factor."""

from __future__ import annotations

import torch


def assert_within_budget(
    result: torch.Tensor, reference: torch.Tensor, exact: torch.Tensor, *, factor: float = 8.0, what: str = "result"
) -> None:
    """Fail unless `result` is as near to `exact` as `reference` is, times `factor`.

    The budget is `factor` times the larger of the reference's own error and one rounding of the largest value. A
    reference of another dtype lends its error in units of rounding: float64 is held to the float32 reference's.

    Args:
        result: any shape, the dtype under test.
        reference: the definition's result, same shape.
        exact: the definition's result in float64, same shape.
        factor: how much worse than the reference is allowed; the default leaves room for another order of summation.
        what: the name in the message.

    Raises:
        AssertionError: another shape, or an error over the budget.

    Example:
        >>> exact = torch.tensor([1 / 3], dtype=torch.float64)
        >>> assert_within_budget(exact.float(), exact.float(), exact)
    """
    if result.shape != exact.shape:
        raise AssertionError(f"{what}: got shape {tuple(result.shape)}, expected {tuple(exact.shape)}")
    if not exact.numel():
        return
    error, own = ((tensor.double() - exact).abs().max().item() for tensor in (result, reference))
    unit = torch.finfo(result.dtype).eps
    budget = factor * max(own * unit / torch.finfo(reference.dtype).eps, unit * exact.abs().max().item())
    if not error <= budget:
        raise AssertionError(f"{what}: error {error:.3g} against float64, expected at most {budget:.3g}")
