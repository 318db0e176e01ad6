"""Show that an installed wheel works, alone beside torch; `make wheel` runs it with the compiled library and without.

`python -I smoke.py compiled` or `pure` says which of the two is expected.
"""

import sys

import torch
import torch.nn.functional as F

import atrous
from atrous.cli import main
from atrous.functional import conv2d, tap_conv


def check(compiled: bool) -> None:
    """Raise unless a convolution and a sum over taps are right, forward and backward, on the backend that is expected.

    Args:
        compiled: whether the compiled library is installed.
    """
    input, weight = torch.randn(2, 8, 20, 21, requires_grad=True), torch.randn(8, 1, 3, 3, requires_grad=True)
    options = {"padding": 4, "dilation": 4, "groups": 8}
    assert f"runs on '{'cpu' if compiled else 'aten'}'," in atrous.explain(conv2d, input, weight, **options)
    _same(conv2d(input, weight, **options), F.conv2d(input, weight, **options), [input, weight])

    taps, offsets = torch.randn(8, 1, 5, requires_grad=True), torch.randint(-9, 10, (5, 2))
    assert f"runs on '{'cpu' if compiled else 'reference'}'," in atrous.explain(tap_conv, input, taps, offsets)
    sums = (tap_conv(input, taps, offsets, backend=name) for name in (None, "reference"))
    _same(*sums, [input, taps])


def _same(result: torch.Tensor, expected: torch.Tensor, leaves: list[torch.Tensor]) -> None:
    torch.testing.assert_close(result, expected)
    gradients = (torch.autograd.grad(tensor.square().sum(), leaves) for tensor in (result, expected))
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    if "site-packages" not in atrous.__file__:
        sys.exit(f"smoke: {atrous.__file__} is not an installed wheel")
    check(sys.argv[1] == "compiled")
    main(["info"])
    print(f"the wheel works, {sys.argv[1]}, on torch {torch.__version__}")
