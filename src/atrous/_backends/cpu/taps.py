"""The compiled operations on a CPU, not differentiable here (`atrous._ops` makes them so).

Legend: B batch, C channels in, D channels out, S input size, P output size, T taps, N axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""What they run: one dtype in a call, but for the offsets. 16 bits are summed in float32."""


def tap_conv(
    input: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    upsample: Sequence[int],
    output_size: Sequence[int],
    isa: str = "",
) -> torch.Tensor:
    """Run the reference's `tap_conv`, with int32 `offsets`; `isa` forces an instruction set, '' chooses."""
    call = torch.ops.atrous.tap_conv.default
    result: torch.Tensor = call(input, weight, offsets, bias, stride, upsample, output_size, isa)
    return result


def tap_conv_weight(
    grad: torch.Tensor,
    input: torch.Tensor,
    offsets: torch.Tensor,
    stride: Sequence[int],
    upsample: Sequence[int],
    groups: int,
    isa: str = "",
) -> torch.Tensor:
    """Run the reference's `tap_conv_weight`, with int32 `offsets`; `isa` forces an instruction set, '' chooses."""
    call = torch.ops.atrous.tap_conv_weight.default
    result: torch.Tensor = call(grad, input, offsets, stride, upsample, groups, isa)
    return result
