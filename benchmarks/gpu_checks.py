"""What has to hold on a GPU beside speed: the tables of cases, learned positions, and no waiting for the device."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

import atrous
from atrous import functional, nn, recipe
from atrous._backends import measured
from atrous.convert import forget_timings
from atrous.testing import CONV_CASES, TAP_CASES, ConvCase, TapCase, assert_within_budget

CPU = torch.device("cpu")


def check_cases(device: torch.device, step: int) -> list[str]:
    """Run every `step`-th case, forward and every gradient; print who served them, return what is wrong."""
    taps = "triton" if device.type == "cuda" else None
    runs: list[tuple[str, Sequence[ConvCase | TapCase], str | None]] = [
        ("conv", CONV_CASES[::step], None), ("conv", CONV_CASES[::step], taps), ("tap_conv", TAP_CASES[::step], taps)
    ]  # fmt: skip
    return [failure for run in runs for failure in _check(*run, device)]


def _check(verb: str, cases: Sequence[ConvCase | TapCase], backend: str | None, device: torch.device) -> list[str]:
    served: Counter[str] = Counter()
    failures = []
    for case in cases:
        try:
            served[_served(case, device, backend)] += 1
            result = _outcome(case, torch.float32, device, backend)
            reference, exact = (_outcome(case, dtype, CPU, "reference") for dtype in (torch.float32, torch.float64))
            for tensors in zip(result, reference, exact, strict=True):
                assert_within_budget(*tensors, what="error")
        except (AssertionError, RuntimeError) as error:
            failures.append(f"{verb} {case.name}: {error}")
    who = ", ".join(f"{count} by {backends}" for backends, count in served.items())
    print(f"{verb}: {len(cases) - len(failures)} of {len(cases)} cases within their budget; served: {who}", flush=True)
    return failures


def _verb(case: ConvCase | TapCase) -> Callable[..., torch.Tensor]:
    verb: Callable[..., torch.Tensor] = getattr(
        functional, "tap_conv" if isinstance(case, TapCase) else f"conv{case.ndim}d"
    )
    return verb


def _tensors(case: ConvCase | TapCase, dtype: torch.dtype, device: torch.device) -> list[torch.Tensor | None]:
    return [tensor if tensor is None else tensor.to(device) for tensor in case.tensors(dtype)]


def _served(case: ConvCase | TapCase, device: torch.device, backend: str | None) -> str:
    """Return which backends run a case."""
    line = atrous.explain(_verb(case), *_tensors(case, torch.float32, device), **case.options, backend=backend)
    found = re.search(r"runs on (.+?),", line)
    return found[1] if found else line


def _outcome(
    case: ConvCase | TapCase, dtype: torch.dtype, device: torch.device, backend: str | None = None
) -> list[torch.Tensor]:
    """Return the output and every gradient of a case, on the CPU."""
    tensors = _tensors(case, dtype, device)
    leaves = [t.requires_grad_() for t in tensors if t is not None and t.is_floating_point()]
    output = _verb(case)(*tensors, **case.options, backend=backend)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(output, leaves, grad.to(device, dtype))
    return [tensor.detach().cpu() for tensor in (output, *gradients)]


def behaviours(device: torch.device) -> Iterator[str]:
    """Check what is no matter of one call's numbers; print what holds, yield what does not."""
    checks: list[Callable[[torch.device], None]] = [
        learned_positions, same_bits, compiled_under_autocast, recipe_compiled_under_autocast, tuned
    ]  # fmt: skip
    if device.type == "cuda":
        checks += [no_waiting, cuda_graph]
    for check in checks:
        name = check.__name__.replace("_", " ")
        try:
            check(device)
        except (AssertionError, RuntimeError) as error:
            yield f"{name}: {error}"
        else:
            print(f"{name}: holds", flush=True)


def _model(device: torch.device) -> torch.nn.Module:
    """Return a small network with a convolution, a transposed one and both kinds of learned positions."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(8, 8, 5, padding=4, dilation=2, groups=8),
        torch.nn.GELU(),
        nn.Dcls2d(8, 8, 6, dilated_kernel_size=17, padding="same", groups=8),
        nn.Dcls2d(8, 8, 6, dilated_kernel_size=9, padding="same", groups=8, interpolation="gaussian"),
        torch.nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, groups=8),
    ).to(device)


def _image(device: torch.device) -> torch.Tensor:
    return torch.randn(4, 8, 24, 24, generator=torch.Generator().manual_seed(0)).to(device)


def _step(model: Callable[..., torch.Tensor], image: torch.Tensor) -> None:
    """Run forward and backward; gradients are added up in place."""
    model(image).square().mean().backward()  # type: ignore[no-untyped-call]


def _gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.detach().cpu().clone() for parameter in model.parameters() if parameter.grad is not None]


def _everything_by_taps(model: torch.nn.Module, image: torch.Tensor) -> None:
    """Send every convolution of a model to the taps, whatever is faster."""
    atrous.tune(model, image)
    for call, times in list(measured.timings.items()):
        measured.add(call, {name: (2.0, 2.0) if name == "aten" else (1.0, 1.0) for name in times})
    atrous.accelerate(model)


def learned_positions(device: torch.device) -> None:
    """Elements by taps, and gaussian bumps, have the gradients of the reference, positions' included."""
    backend = "triton" if device.type == "cuda" else "cpu"
    for interpolation in ("bilinear", "bicubic", "gaussian"):
        torch.manual_seed(0)
        tensors = [torch.randn(2, 4, 19, 19), torch.randn(4, 1, 6), 3 * torch.randn(2, 4, 1, 6)]
        if interpolation == "gaussian":
            tensors.append(0.5 + torch.rand(2, 4, 1, 6))
        runs = ((device, torch.float32, backend), (CPU, torch.float32, "reference"), (CPU, torch.float64, "reference"))
        outcomes = []
        for where, dtype, name in runs:
            leaves = [tensor.to(where, dtype).requires_grad_() for tensor in tensors]
            options: dict[str, Any] = {
                "dilated_kernel_size": 17,
                "padding": "same",
                "groups": 4,
                "interpolation": interpolation,
            }
            output = functional.dcls_conv2d(*leaves, **options, backend=name)
            gradients = torch.autograd.grad(output.square().sum(), leaves)
            outcomes.append([one.detach().cpu() for one in (output, *gradients)])
        for triple in zip(*outcomes, strict=True):
            assert_within_budget(*triple, what=interpolation)


def same_bits(device: torch.device) -> None:
    """A training step has the same bits when it is repeated."""
    found = []
    for _ in range(2):
        model = _model(device)
        _everything_by_taps(model, _image(device))
        _step(model, _image(device))
        found.append(_gradients(model))
    if not all(torch.equal(*pair) for pair in zip(*found, strict=True)):
        raise AssertionError("two runs of one step differ")


def compiled_under_autocast(device: torch.device) -> None:
    """A compiled step under autocast has the gradients of an eager one, as far as bfloat16 goes."""
    model, image = _model(device), _image(device)
    with torch.autocast(device.type, torch.bfloat16):
        _everything_by_taps(model, image)
    found = []
    for run in (model, torch.compile(model)):
        model.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            _step(run, image)
        found.append(_gradients(model))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, atol=0.02 * float(expected.abs().max()) + 1e-6, rtol=0.05)


def recipe_compiled_under_autocast(device: torch.device) -> None:
    """Three steps of the whole recipe, compiled under autocast, end near those of eager steps."""
    image, found = _image(device), []
    for compiled in (False, True):
        model = _model(device)
        with torch.autocast(device.type, torch.bfloat16):
            _everything_by_taps(model, image)
        optimizer = torch.optim.SGD(recipe.param_groups(model, 0.01, 0.05))
        recipe.clamp_after_steps(model, optimizer)
        average = recipe.EMA(model, 0.9)
        run: Callable[..., torch.Tensor] = torch.compile(model) if compiled else model
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16):
                loss = run(image).float().square().mean() + 0.1 * recipe.repulsive_loss(model)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            average.update_parameters(model)
        found.append([parameter.detach().cpu() for parameter in (*model.parameters(), *average.module.parameters())])
    start = [parameter.detach().cpu() for parameter in (*_model(device).parameters(), *_model(device).parameters())]
    for eager, ours, old in zip(*found, start, strict=True):
        way, apart = (float((eager - other).abs().max()) for other in (old, ours))
        if not apart < 0.1 * way:
            raise AssertionError(f"a parameter of shape {tuple(old.shape)} went {way:.3g} and {apart:.3g} beside it")


def tuned(device: torch.device) -> None:
    """A tuned model computes what it did before."""
    forget_timings()
    model, image = _model(device), _image(device)
    before = model(image)
    print(atrous.tune(model, image))
    torch.testing.assert_close(model(image), before, atol=1e-4, rtol=1e-4)


def no_waiting(device: torch.device) -> None:
    """Neither forward nor backward waits for the device."""
    model, image = _model(device), _image(device)
    _everything_by_taps(model, image)
    _step(model, image)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        _step(model, image)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def cuda_graph(device: torch.device) -> None:
    """A captured step has the gradients of an eager one."""
    model, image = _model(device), _image(device)
    _everything_by_taps(model, image)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model.zero_grad()
            _step(model, image)
    torch.cuda.current_stream().wait_stream(stream)
    expected = _gradients(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _step(model, image)
    for parameter in model.parameters():
        parameter.grad.zero_()  # type: ignore[union-attr]
    graph.replay()
    torch.cuda.synchronize()
    for ours, other in zip(_gradients(model), expected, strict=True):
        torch.testing.assert_close(ours, other)
