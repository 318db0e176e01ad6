"""A call of a convolution made again, on random numbers, by any backend: what `tune` times.

Legend: B batch, C channels in, D channels out, T taps, N axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from atrous import functional
from atrous._backends.measured import Call, Example


class Passes:
    """The forward and the backward pass of a call by one backend.

    Elements at learned positions are summed as taps by a backend of taps; 'aten' has their dense kernel, which runs on
    whatever is best for it.
    """

    def __init__(self, call: Call, example: Example, backend: str) -> None:
        geometry, ndim = example.geometry, example.geometry.ndim
        weight: Sequence[int] = example.weight
        verb: Callable[..., torch.Tensor]
        options: dict[str, Any]
        if call.operation == "conv_transpose":
            verb = getattr(functional, f"conv_transpose{ndim}d")
            options = {"padding": tuple(before for before, _ in geometry.padding)}
        elif call.operation == "dcls" and backend != "aten":
            verb, options = functional.tap_conv, {"output_size": geometry.output_size(example.input[-ndim:])}
            weight = (*weight[:2], call.taps)
        else:
            if call.operation == "dcls":
                geometry, _ = geometry.trimmed(example.input[-ndim:])
            verb, options = getattr(functional, f"conv{ndim}d"), {"padding": geometry.padding}
            weight = (*weight[:2], *geometry.kernel)
        dense = call.operation == "dcls" and backend == "aten"
        options |= {"stride": geometry.stride, "backend": None if dense else backend}
        tensors = [torch.randn(shape, dtype=example.dtype, device=example.device) for shape in (example.input, weight)]
        if call.last:  # as the weights of such a model do
            tensors = [tensor.movedim(1, -1).contiguous().movedim(-1, 1) for tensor in tensors]
        arguments = self.leaves = [tensor.requires_grad_() for tensor in tensors]
        if verb is functional.tap_conv:
            arguments = [*arguments, _scattered(weight, example)]
        else:
            options |= {"dilation": geometry.dilation, "groups": call.groups}
        self.run = partial(verb, *arguments, **options)
        self.output = self.run()
        self.grad = torch.randn_like(self.output)

    def forward(self) -> torch.Tensor:
        """Run the call without anything to remember."""
        with torch.no_grad():
            return self.run()

    def backward(self) -> tuple[torch.Tensor, ...]:
        """Return the gradients in input and weight."""
        return torch.autograd.grad(self.output, self.leaves, self.grad, retain_graph=True)


def _scattered(weight: Sequence[int], example: Example) -> torch.Tensor:
    """Return offsets (D, C/groups, T, N) anywhere in the window of an example."""
    geometry = example.geometry
    axes = zip(geometry.kernel, geometry.dilation, geometry.padding, strict=True)
    columns = [torch.randint(size, tuple(weight)) * gap - before for size, gap, (before, _) in axes]
    return torch.stack(columns, -1).int().to(example.device)
