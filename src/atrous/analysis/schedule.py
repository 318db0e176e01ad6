"""Dilations for a chain of convolutions that reads every pixel of its receptive field.

Legend: F receptive field in pixels, K kernel size, n layers, r dilation of a layer.
"""

from __future__ import annotations

import math

from atrous._errors import GeometryError
from atrous._geometry import integers


def hybrid_schedule(field: int, kernel: int = 3, layers: int | None = None) -> tuple[int, ...]:
    """Return dilations of convolutions of stride 1 whose chain reads every pixel of a receptive field of F.

    They grow by one factor from layer to layer, but for rounding: `r_i` is near to `g^(i - 1)`, where g makes the field
    F. The first is 1, so they have no common factor. The rule of hybrid dilated convolution mostly holds too; `hdc`
    says so, and what the chain truly covers.

    No hole is left because no layer has a dilation above the field of the layers before it: shifted copies of a whole
    interval then touch one another. The order of the layers does not matter for that.

    Args:
        field: F at least, in pixels; the field of the chain is the least of `1 + (K - 1) m` that is.
        kernel: K of all layers.
        layers: n; None for the fewest that reach F, the next integer to log F / log K.

    Raises:
        GeometryError: a field below K, a kernel below 2, or so few layers that there would be holes, or so many that
            they would reach farther.

    Source: the configurations 1, 2, 5 and 1, 2, 5, 9 of Wang et al. 2018 (arXiv:1702.08502) are of this kind, and so is
    the 1, 2, 4, 8, 16 of Yu and Koltun 2016.

    Example:
        >>> from atrous.analysis import hdc
        >>> hybrid_schedule(17), hybrid_schedule(35), hybrid_schedule(63, layers=5), hybrid_schedule(81)
        ((1, 2, 5), (1, 2, 5, 9), (1, 2, 4, 8, 16), (1, 3, 9, 27))
        >>> print(hdc(hybrid_schedule(100)))
        dilations        kernel  M_2  rule    common factor  coverage
        1, 2, 6, 12, 29       3    2  passes              1   101/101
    """
    (kernel,) = integers("hybrid_schedule: kernel", kernel, 1, 2)
    (field,) = integers("hybrid_schedule: field", field, 1, kernel)
    total = -(-(field - 1) // (kernel - 1))
    fewest = next(n for n in range(1, total + 1) if _sum(kernel, n) >= total)
    (count,) = integers("hybrid_schedule: layers", fewest if layers is None else layers, 1, 1)
    if not fewest <= count <= total:
        raise GeometryError(
            f"hybrid_schedule: layers: got {count} for a field of {field}, expected {fewest} to {total}: fewer leave "
            f"holes, and more reach farther, with kernels of {kernel}"
        )
    factor = _factor(total, count, kernel)
    # Sums of dilations, from the last layer to the first. That of the layers before is held at what the next one needs.
    sums = [total]
    for before in range(count - 1, -1, -1):
        sums.append(max(math.floor(_sum(factor, before) + 0.5), -(-(sums[-1] - 1) // kernel)))
    return tuple(sorted(sums[i] - sums[i + 1] for i in range(count)))


def _sum(factor: float, count: int) -> float:
    """Return 1 + g + ... + g^(n - 1)."""
    return sum(factor**power for power in range(count))


def _factor(total: int, count: int, kernel: int) -> float:
    """Return the g whose powers sum up to the dilations wanted, between 1 and K."""
    low, high = 1.0, float(kernel)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _sum(middle, count) < total else (low, middle)
    return high
