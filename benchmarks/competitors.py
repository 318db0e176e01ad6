"""What is timed in a cell: functions without arguments, on tensors made beforehand.

Legend: N batch, C channels, T taps, G groups, A and B channels in and out of one group.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.cells import TINY, Cell

Call = Callable[[], Any]

MASKS = {"backward": (True, True), "input_gradient": (True, False), "weight_gradient": (False, True)}
"""Pass -> which gradients it computes: of the input, of the weight."""


class MissingOperationsError(RuntimeError):
    """The compiled operations are not in this install."""


def operations() -> Any:
    """Return `torch.ops.atrous`, loaded.

    Raises:
        MissingOperationsError: nothing to load.
    """
    import atrous  # noqa: F401  (may load them itself)

    if not hasattr(torch.ops.atrous, "tap_conv"):
        spec = importlib.util.find_spec("atrous._C")
        if spec is None or spec.origin is None:
            raise MissingOperationsError("the compiled operations are missing; run make install with a compiler")
        torch.ops.load_library(spec.origin)  # type: ignore[no-untyped-call]
    return torch.ops.atrous


def names(cell: Cell | None, pass_: str, grid: str) -> list[str]:
    """Return who competes in a pass of a cell, the judge of correct results first; no cell is the machine itself."""
    if cell is None:
        return ["dense", "stream"]
    if grid == "routes":
        return ["stock", "forced", "routed"]
    if grid == "wide":
        found = ["stock", "forced", "routed"]
        return found + ["forced_undilated"] * (cell.dilation > 1) + ["forced_float32"] * cell.narrow
    if cell == TINY:
        # Here a call costs more than its arithmetic, so both sides go through autograd.
        return ["stock", "stock_autograd", "routed", "forced"] if pass_ != "forward" else ["stock", "routed", "forced"]
    found = ["stock", "stock_channels_last", "forced", "routed"]
    if cell.dilation > 1:
        found += ["stock_undilated", "forced_undilated"]
    return found + (["copy"] if pass_ == "forward" else [])


class Competitors:
    """Make the calls of one cell.

    Args:
        cell: the convolution, or None for the limits of the machine.
        isa: instruction path of the raw operations, '' for the best.
    """

    def __init__(self, cell: Cell | None, isa: str = "") -> None:
        self.cell = cell
        self.isa = isa
        if cell is not None:
            generator = torch.Generator().manual_seed(0)
            weight = (cell.shape[1], cell.outputs) if cell.transposed else (cell.channels, cell.inputs)
            shapes = (
                (*cell.shape[:2], *cell.sizes),
                (*weight, *[cell.kernel] * cell.ndim),
                (cell.shape[0], cell.channels, *cell.output),
            )
            made = (torch.randn(shape, generator=generator).to(getattr(torch, cell.dtype)) for shape in shapes)
            self.tensors = _laid(made, cell.last)

    def make(self, pass_: str, who: str) -> Call:
        """Return the call of one competitor in one pass."""
        if self.cell is None:
            return {"dense": _dense, "stream": _stream}[who]()
        if who == "copy":
            source = self.tensors[0]
            copy = torch.empty_like(source)
            return lambda: copy.copy_(source)
        own = who.startswith(("forced", "routed"))
        dilation = 1 if who.endswith("undilated") else self.cell.dilation
        if who.startswith("forced"):
            tensors = [t.float() for t in self.tensors] if who == "forced_float32" else self.tensors
            tensors = _laid(tensors, last=True) if who == "forced_channels_last" else tensors
            return self._forced(self.cell, pass_, dilation, tensors)
        if own or who == "stock_autograd":
            return self._through_autograd(self.cell, pass_, _functional(self.cell, own))
        if self.cell.transposed and self.cell.narrow:
            # What the table chooses between: torch's own may be wrong here, so our `aten` widens.
            conv = partial(_functional(self.cell, own=True), backend="aten")
            return self._through_autograd(self.cell, pass_, conv)
        tensors = _laid(self.tensors, last=True) if who == "stock_channels_last" else self.tensors
        return self._stock(self.cell, pass_, dilation, tensors)

    def judge(self, pass_: str) -> Call | None:
        """Return what the first results of a pass are compared with; None is that of the first competitor.

        In 16 bits, where the first competitor may be wrong, this is torch on the same numbers, contiguous in float32.
        """
        if self.cell is None or not self.cell.narrow:
            return None
        exact = _laid([t.float() for t in self.tensors], last=False)
        return self._stock(self.cell, pass_, self.cell.dilation, exact)

    def _forced(self, cell: Cell, pass_: str, dilation: int, tensors: Sequence[torch.Tensor]) -> Call:
        ops = operations()
        forward, weight_gradient = _bare(ops.tap_conv.default), _bare(ops.tap_conv_weight.default)
        padding = cell.padding if dilation == cell.dilation else dilation * (cell.kernel - 1) // 2
        steps = torch.arange(cell.kernel, dtype=torch.int32) * dilation - padding
        input, weight, grad = tensors
        offsets = torch.cartesian_prod(*[steps] * cell.ndim).reshape(-1, cell.ndim).to(input.device)
        negated = -offsets
        weight, isa = weight.flatten(2), self.isa
        stride, one = [cell.stride] * cell.ndim, [1] * cell.ndim
        output, size, groups = cell.output, cell.sizes, cell.groups
        want_input, want_weight = MASKS.get(pass_, (False, False))

        def exchanged(weight: torch.Tensor) -> torch.Tensor:
            # From (G B, A, T) to (G A, B, T) or back: each call pays for this copy, as a training step does.
            return weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)

        def spread() -> torch.Tensor:
            return forward(input, exchanged(weight), negated, None, one, stride, output, isa)

        def spread_backward() -> tuple[torch.Tensor | None, torch.Tensor | None]:
            return (
                forward(grad, weight, offsets, None, stride, one, size, isa) if want_input else None,
                exchanged(weight_gradient(grad, input, negated, one, stride, groups, isa)) if want_weight else None,
            )

        def gather() -> torch.Tensor:
            return forward(input, weight, offsets, None, stride, one, output, isa)

        def gather_backward() -> tuple[torch.Tensor | None, torch.Tensor | None]:
            return (
                forward(grad, exchanged(weight), negated, None, one, stride, size, isa) if want_input else None,
                weight_gradient(grad, input, offsets, stride, one, groups, isa) if want_weight else None,
            )

        if cell.transposed:
            return spread if pass_ == "forward" else spread_backward
        return gather if pass_ == "forward" else gather_backward

    def _through_autograd(self, cell: Cell, pass_: str, conv: Callable[..., torch.Tensor]) -> Call:
        options = {
            "stride": cell.stride, "padding": cell.padding, "dilation": cell.dilation, "groups": cell.groups
        }  # fmt: skip
        if cell.transposed:
            options["output_padding"] = cell.output_padding
        input, weight, grad = self.tensors
        if pass_ == "forward":
            return lambda: conv(input, weight, None, **options)
        wanted = MASKS[pass_]
        leaves = [t.detach().requires_grad_(want) for t, want in zip((input, weight), wanted, strict=True)]
        output = conv(*leaves, None, **options)
        sought = [leaf for leaf in leaves if leaf.requires_grad]
        return lambda: torch.autograd.grad(output, sought, grad, retain_graph=True)

    def _stock(self, cell: Cell, pass_: str, dilation: int, tensors: Sequence[torch.Tensor]) -> Call:
        input, weight, grad = tensors
        padding = cell.padding if dilation == cell.dilation else dilation * (cell.kernel - 1) // 2
        stride, groups, transposed = cell.stride, cell.groups, cell.transposed
        more = cell.output_padding if transposed else 0
        if pass_ == "forward":
            conv = _functional(cell)
            if transposed:
                return lambda: conv(input, weight, None, stride, padding, more, groups, dilation)
            return lambda: conv(input, weight, None, stride, padding, dilation, groups)
        backward = torch.ops.aten.convolution_backward.default
        strides, paddings, dilations, mores = ([value] * cell.ndim for value in (stride, padding, dilation, more))
        mask = [*MASKS[pass_], False]
        return lambda: backward(
            grad, input, weight, None, strides, paddings, dilations, transposed, mores, groups, mask
        )  # fmt: skip


def _laid(tensors: Iterable[torch.Tensor], last: bool) -> list[torch.Tensor]:
    """Return the tensors with channels last in memory, or contiguous."""
    return [t.movedim(1, -1).contiguous().movedim(-1, 1) if last else t.contiguous() for t in tensors]


def _bare(operation: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return the operation as `atrous` itself calls it: below the derivative that is registered for compilers."""

    def call(*arguments: Any) -> torch.Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return operation(*arguments)

    return call


def _functional(cell: Cell, own: bool = False) -> Callable[..., torch.Tensor]:
    """Return the convolution of torch, or our own."""
    module = importlib.import_module("atrous.functional") if own else F
    conv: Callable[..., torch.Tensor] = getattr(module, f"conv{'_transpose' * cell.transposed}{cell.ndim}d")
    return conv


def _dense() -> Call:
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(DENSE[:4], generator=generator).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(DENSE[4], DENSE[1], 3, 3, generator=generator).contiguous(memory_format=torch.channels_last)
    return lambda: F.conv2d(input, weight, None, 1, 1)


def _stream() -> Call:
    source = torch.rand(STREAM_BYTES // 4)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


DENSE = (1, 128, 56, 56, 128)
"""N, C, H, W and output channels of the dense 3x3 channels_last convolution that is the ceiling of arithmetic."""
DENSE_FLOP = 2 * 9 * DENSE[0] * DENSE[1] * DENSE[2] * DENSE[3] * DENSE[4]
STREAM_BYTES = 128 * 2**20
"""Of the copy that is the ceiling of memory; out of every cache."""
