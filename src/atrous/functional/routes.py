"""Which backend runs a call, and why, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from atrous._backends import Route
from atrous._errors import UnsupportedModule

_TRAIL: ContextVar[list[str] | None] = ContextVar("trail", default=None)


def explain(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Say which backends would run the convolutions of a call, forward and backward, and why.

    The call runs once on the shapes of its tensors: no pixel is computed, and nothing that the module `call` holds
    changes. The choice is that of an eager call in the same place, so autocast counts; a compiler leaves out the rows
    of the table that depend on a size, and takes one backend for both. A tensor of a subclass without a dispatch of its
    own has no fake of its kind and counts as a plain one.

    Args:
        call: `atrous.functional.conv2d` or another verb, an `atrous.nn` module, or a network that holds some.
        args: arguments of the call.
        kwargs: named arguments of the call.

    Returns:
        One line, a sentence, for each convolution and sum over taps of `atrous`, in the order in which they run.

    Raises:
        UnsupportedModule: a call that reads values of its tensors to decide what it does.
        AtrousError: whatever the call itself would raise.

    Example:
        >>> from atrous.functional import conv2d
        >>> print(explain(conv2d, torch.zeros(1, 8, 32, 32), torch.zeros(8, 1, 3, 3), groups=8, backend="aten"))
        conv2d of (1, 8, 32, 32) by (8, 1, 3, 3) runs on 'aten', because it was named.
        >>> print(explain(torch.nn.Identity(), torch.zeros(1)))
        Identity runs no convolution of atrous.
    """
    trail: list[str] = []
    token = _TRAIL.set(trail)
    try:
        rehearse(call, *args, **kwargs)
    finally:
        _TRAIL.reset(token)
    name = getattr(call, "__name__", type(call).__name__)
    return "\n".join(trail) or f"{name} runs no convolution of atrous."


def rehearse(call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Run a call on the shapes of its tensors alone; nothing that it holds changes."""
    # It costs half a second to import, and nothing else here needs it.
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

    unknown = DataDependentOutputException, DynamicOutputShapeException
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        torch.compiler.set_stance("force_eager"),
        _reworded(unknown, call),
    ):
        args, kwargs = tree_map_only(torch.Tensor, mode.from_tensor, (args, kwargs))
        if isinstance(call, torch.nn.Module):
            state = {**dict(call.named_parameters()), **dict(call.named_buffers())}
            fake = tree_map_only(torch.Tensor, mode.from_tensor, state)
            # Not tied: torch puts a module that stands under two names back wrongly.
            torch.func.functional_call(call, fake, args, kwargs, tie_weights=False)
        else:
            call(*args, **kwargs)


@contextmanager
def _reworded(unknown: tuple[type[Exception], ...], call: object) -> Iterator[None]:
    try:
        yield
    except unknown as error:
        name = getattr(call, "__name__", type(call).__name__)
        raise UnsupportedModule(
            f"{name}: got a call that reads values of its tensors ({error}), expected one that shapes alone decide; "
            "give the part of it that holds the convolutions"
        ) from error


def note(verb: str, input: torch.Tensor, weight: torch.Tensor, route: Route) -> None:
    """Write down the route of a call, if `explain` asks for it."""
    trail = None if torch.compiler.is_compiling() else _TRAIL.get()
    if trail is None:
        return
    forward, backward, reason = route
    halves = f"'{forward}'" if forward == backward else f"'{forward}' forward and '{backward}' backward"
    trail.append(f"{verb} of {tuple(input.shape)} by {tuple(weight.shape)} runs on {halves}, because {reason}.")
