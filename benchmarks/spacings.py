"""Layers with learnable spacings beside the `dcls` package, dense kernels and plain 7x7: `python -m benchmarks dcls`.

Everything is depthwise with a batch of 8 in float32. Building the kernel is part of every time but that of `kept`.
Images are contiguous or have channels last, and of every competitor the faster one counts.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from atrous import functional
from atrous._backends.table import SPREADS, Spread, find_spread
from atrous.functional import dcls_kernel, dcls_taps, tap_conv
from atrous.nn import Dcls2d
from benchmarks.measure import ALLOCATOR
from benchmarks.results import SLOWER, text
from benchmarks.suite import machine
from benchmarks.turns import medians

SHAPES = ((96, 56), (192, 28), (384, 14), (768, 7))
"""(C, H) of the four stages of a ConvNeXt for images of 224 x 224."""
BATCH = 8
DEVIATIONS = {"uniform": None, "deviation 2": 2.0}
"""Positions lie everywhere in the window alike, or around its centre as after training."""
LAYOUTS = {"": torch.contiguous_format, " last": torch.channels_last}

Run = Callable[[], object]
Layer = Callable[[torch.Tensor], torch.Tensor]
Times = dict[str, float]


class Stage:
    """One layer of each kind with the same elements, and images for it.

    Args:
        channels: C.
        extent: H and W.
        interpolation: 'bilinear' or 'gaussian'.
        window: K on both axes.
        elements: P.
        deviation: of the positions, None for uniform ones.
    """

    def __init__(
        self,
        channels: int,
        extent: int,
        interpolation: str = "bilinear",
        window: int = 17,
        elements: int = 34,
        deviation: float | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.shape = channels, channels, elements
        self.options: dict[str, Any] = {"padding": window // 2, "groups": channels}
        options = {**self.options, "dilated_kernel_size": window}
        self.ours = Dcls2d(*self.shape, **options, interpolation=interpolation)
        with torch.no_grad():
            middle = self.ours.P
            middle.uniform_(-(window // 2), window // 2) if deviation is None else middle.normal_(0, deviation)
        self.ours.clamp_parameters()
        self.plain = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.window = window
        shape = BATCH, channels, extent, extent
        pair = torch.randn(shape), torch.randn(shape)
        self.images = {name: [one.to(memory_format=layout) for one in pair] for name, layout in LAYOUTS.items()}

    def official(self) -> Any:
        """Return the layer of the `dcls` package with the same parameters."""
        from DCLS.construct.modules import Dcls2d as Official  # type: ignore[import-untyped]

        version = {"bilinear": "v0", "gaussian": "gauss"}[self.ours.interpolation]
        layer = Official(*self.shape, **self.options, dilated_kernel_size=self.window, version=version)
        theirs = layer.state_dict()
        for name, tensor in self.ours.state_dict().items():
            # All versions but the first have W before H.
            swapped = name in ("P", "SIG") and version != "v0"
            theirs[name].copy_(tensor.flip(0) if swapped else tensor)
        return layer

    def dense(self, input: torch.Tensor, kernel: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve with torch, by a kernel built by one scatter or one product of bumps unless it is given."""
        return F.conv2d(input, self.ours.kernel() if kernel is None else kernel, self.ours.bias, **self.options)

    def steps(self, layers: dict[str, Layer]) -> dict[str, Run]:
        """Return training steps of every layer in both layouts: forward, and backward to image and parameters."""

        def step(layer: Layer, input: torch.Tensor, gradient: torch.Tensor) -> None:
            layer(input.detach().requires_grad_()).backward(gradient)  # type: ignore[no-untyped-call]

        return {
            name + layout: partial(step, layer, *images)
            for name, layer in layers.items()
            for layout, images in self.images.items()
        }

    def inferences(self, layers: dict[str, Layer]) -> dict[str, Run]:
        """Return inferences of every layer in both layouts."""

        def infer(layer: Layer, input: torch.Tensor) -> None:
            with torch.inference_mode():
                layer(input)

        return {
            name + layout: partial(infer, layer, images[0])
            for name, layer in layers.items()
            for layout, images in self.images.items()
        }

    def builds(self, official: Any) -> dict[str, Run]:
        """Return what a training step does beside convolving: taps or kernel, and back to the parameters."""
        layer = self.ours

        def ours() -> torch.Tensor:
            if layer.interpolation == "bilinear":
                return dcls_taps(layer.weight, layer.P, dilated_kernel_size=self.window)[0]
            return layer.kernel()

        theirs: Callable[[], torch.Tensor] = partial(official.DCK, official.weight, official.P, official.SIG)

        def step(build: Callable[[], torch.Tensor], gradient: torch.Tensor) -> None:
            build().backward(gradient)  # type: ignore[no-untyped-call]

        builds = {"ours": ours, "official": theirs}
        return {name: partial(step, build, torch.ones_like(build())) for name, build in builds.items()}


def saved(layer: nn.Module, image: torch.Tensor) -> float:
    """Return the MiB that a training step keeps for backward, beside the image and the parameters."""
    image = image.detach().requires_grad_()
    known = {tensor.untyped_storage().data_ptr() for tensor in (image, *layer.parameters())}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = layer(image)
    del output
    return sum(kept.values()) / 2**20


def better(times: Times, name: str) -> float:
    """Return the milliseconds of a competitor in its faster layout."""
    return 1e3 * min(times[name + layout] for layout in LAYOUTS)


def training(samples: int) -> Iterator[list[str]]:
    """Time training steps."""
    yield ["positions", "C x H", "ours ms", "last ms", "official", "official last", "dense", "7x7"]
    for spread, deviation in DEVIATIONS.items():
        for channels, extent in SHAPES:
            stage = Stage(channels, extent, deviation=deviation)
            layers = {"ours": stage.ours, "dense": stage.dense, "7x7": stage.plain, "official": stage.official()}
            times = medians(stage.steps(layers), samples)
            ours = better(times, "ours")
            over = [1e3 * times[name] / ours for name in ("official", "official last")]
            over += [better(times, name) / ours for name in ("dense", "7x7")]
            own = [text(1e3 * times[name]) for name in ("ours", "ours last")]
            yield [spread, f"{channels} x {extent}", *own, *map(text, over)]


def inference(samples: int) -> Iterator[list[str]]:
    """Time inferences, with all that is built anew, and with what can be kept."""
    yield ["positions", "C x H", "ours ms", "dense", "kept ms", "dense kept", "contiguous ms", "dense contiguous"]
    for spread, deviation in DEVIATIONS.items():
        for channels, extent in SHAPES:
            stage = Stage(channels, extent, deviation=deviation)
            layer = stage.ours.eval()
            with torch.no_grad():
                kernel = layer.kernel()
            anew: dict[str, Layer] = {"ours": partial(_forgetful, layer), "dense": stage.dense}
            kept: dict[str, Layer] = {"ours": layer, "dense": partial(stage.dense, kernel=kernel)}
            new, old = (medians(stage.inferences(layers), samples) for layers in (anew, kept))
            cells: list[str] = []
            for times in (new, old):
                cells += [text(better(times, "ours")), text(better(times, "dense") / better(times, "ours"))]
            cells += [text(1e3 * old["ours"]), text(old["dense"] / old["ours"])]
            yield [spread, f"{channels} x {extent}", *cells]


def _forgetful(layer: nn.Module, image: torch.Tensor) -> Any:
    # eval() drops what is kept.
    return layer.eval()(image)


def construction(samples: int) -> Iterator[list[str]]:
    """Time the construction of taps and kernels beside whole training steps, forward and backward."""
    yield ["layer", "C x H", "ours: construction ms", "convolution ms", "official: construction ms", "convolution ms"]
    for channels, extent in SHAPES:
        stage = Stage(channels, extent)
        official = stage.official()
        builds = medians(stage.builds(official), samples)
        steps = medians(stage.steps({"ours": stage.ours, "official": official}), samples)
        cells: list[str] = []
        for name in ("ours", "official"):
            built = 1e3 * builds[name]
            cells += [text(built), text(better(steps, name) - built)]
        yield ["bilinear, 17 x 17, 34", f"{channels} x {extent}", *cells]


def extents(samples: int) -> Iterator[list[str]]:
    """Time windows of 17 and of 31 pixels with as many elements."""
    yield ["C x H", "step 17 x 17 ms", "31 x 31", "inference 17 x 17 ms", "31 x 31"]
    for channels, extent in SHAPES:
        stages = {str(window): Stage(channels, extent, window=window) for window in (17, 31)}
        row = [f"{channels} x {extent}"]
        for passes in ("steps", "inferences"):
            runs = {}
            for name, stage in stages.items():
                stage.ours.train(passes == "steps")
                runs.update(getattr(stage, passes)({name: stage.ours}))
            times = medians(runs, samples)
            row += [text(better(times, "17")), text(better(times, "31") / better(times, "17"))]
        yield row


def gaussian(samples: int) -> Iterator[list[str]]:
    """Time training steps of the other interpolation that the papers use."""
    yield ["positions", "C x H", "ours ms", "construction ms", "official", "official last"]
    for spread, deviation in DEVIATIONS.items():
        for channels, extent in SHAPES:
            stage = Stage(channels, extent, "gaussian", 23, 26, deviation)
            official = stage.official()
            times = medians(stage.steps({"ours": stage.ours, "official": official}), samples)
            built = medians({"ours": stage.builds(official)["ours"]}, samples)["ours"]
            ours = better(times, "ours")
            over = [text(1e3 * times[name] / ours) for name in ("official", "official last")]
            yield [spread, f"{channels} x {extent}", text(ours), text(1e3 * built), *over]


def memory(samples: int) -> Iterator[list[str]]:
    """Count what is kept for backward."""
    del samples
    yield ["layer", "C x H", "ours MiB", "official MiB"]
    for interpolation, window, elements in (("bilinear", 17, 34), ("gaussian", 23, 26)):
        for channels, extent in SHAPES:
            stage = Stage(channels, extent, interpolation, window, elements)
            found = [text(saved(layer, stage.images[""][0])) for layer in (stage.ours, stage.official())]
            yield [f"{interpolation}, {window} x {window}, {elements}", f"{channels} x {extent}", *found]


def rows(samples: int) -> Iterator[list[str]]:
    """Time both sides of every row of `SPREADS`: 1.5 times fewer and 1.5 times more elements than its limit."""
    yield ["axes", "C x size", "window", "elements", "pass", "taps ms", "kernel ms", "runs as", ""]
    for row in SPREADS:
        for few in (True, False):
            yield _row(row, few, samples)


def _row(row: Spread, few: bool, samples: int) -> list[str]:
    ndim, strided, last = row.ndim, bool(row.strided), bool(row.last)
    channels, size = {1: (256, 500), 2: (96, 56) if strided else (192, 28), 3: (32, 16)}[ndim]
    window = {1: 63, 2: 31 if strided else 17, 3: 9}[ndim]
    taps = (window**ndim - row.more) / row.each
    elements = round(taps / 2**ndim / (1.5 if few else 1 / 1.5))
    recorded = next(flag for flag in (True, False) if find_spread(ndim, strided, last, flag) is row)
    torch.manual_seed(0)
    weight = torch.randn(channels, 1, elements, requires_grad=True)
    positions = torch.empty(ndim, channels, 1, elements).uniform_(-(window // 2), window // 2).requires_grad_()
    image = torch.randn(1 if ndim == 3 else BATCH, channels, *[size] * ndim)
    if last:
        image = image.to(memory_format=torch.channels_last)
    stride, half = 2 if strided else 1, window // 2
    convolve: Callable[..., torch.Tensor] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[ndim]

    def build_taps() -> tuple[torch.Tensor, ...]:
        found, offsets = dcls_taps(weight, positions, dilated_kernel_size=window)
        return found, offsets - half

    def build_kernel() -> tuple[torch.Tensor, ...]:
        return (dcls_kernel(weight, positions, dilated_kernel_size=window),)

    def by_taps(image: torch.Tensor, *built: torch.Tensor) -> torch.Tensor:
        return tap_conv(image, *built, stride=stride, output_size=[-(-size // stride)] * ndim)

    def by_kernel(image: torch.Tensor, *built: torch.Tensor) -> torch.Tensor:
        return convolve(image, *built, stride=stride, padding=half, groups=channels)

    gradient = torch.randn_like(by_kernel(image, *build_kernel()))

    def step(run: Callable[..., torch.Tensor], build: Callable[[], tuple[torch.Tensor, ...]]) -> None:
        run(image.detach().requires_grad_(), *build()).backward(gradient)  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def infer(run: Callable[..., torch.Tensor], *built: torch.Tensor) -> None:
        run(image, *built)

    if recorded:
        runs: dict[str, Run] = {
            "taps": partial(step, by_taps, build_taps),
            "kernel": partial(step, by_kernel, build_kernel),
        }
    else:
        with torch.no_grad():
            runs = {
                "taps": partial(infer, by_taps, *build_taps()),
                "kernel": partial(infer, by_kernel, *build_kernel()),
            }
    times = medians(runs, samples)
    chosen, other = ("taps", "kernel") if few else ("kernel", "taps")
    wrong = times[other] < SLOWER * times[chosen]
    where = (
        f"{channels} x {' x '.join([str(size)] * ndim)}"
        + (", channels last" if last else "")
        + (", stride 2" if strided else "")
    )
    return [
        str(ndim), where, str(window), str(elements), "step" if recorded else "inference, kept",
        text(1e3 * times["taps"]), text(1e3 * times["kernel"]), chosen, "wrong side" if wrong else "",
    ]  # fmt: skip


SECTIONS = {
    "Training step": training,
    "Inference": inference,
    "Construction and convolution": construction,
    "Larger windows": extents,
    "Gaussian, 23 x 23, 26 elements": gaussian,
    "Kept for backward": memory,
    "Taps or a kernel": rows,
}


def run(threads: int, samples: int) -> None:
    """Print the tables as Markdown, every line when it is known.

    Raises:
        ValueError: the `dcls` package is missing.
    """
    if find_spec("DCLS") is None:
        raise ValueError("dcls: the package to compare with is missing; the extra 'dev' has it")
    warnings.filterwarnings("ignore", module="DCLS")
    report(SECTIONS, threads, samples)


def report(sections: Mapping[str, Callable[[int], Iterator[list[str]]]], threads: int, samples: int) -> None:
    """Print sections of tables as Markdown, every line when it is known."""
    if not ALLOCATOR.items() <= os.environ.items():
        # The allocator reads its settings when a process starts.
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]], os.environ | ALLOCATOR)
    torch.set_num_threads(threads)
    facts = machine()
    print(f"{facts['processor']}, {facts.get('cores', '?')} cores, {threads} threads; torch {torch.__version__}.\n")
    for title, section in sections.items():
        lines = section(samples)
        heads = next(lines)
        print(f"### {title}\n\n| {' | '.join(heads)} |\n{'|---' * len(heads)}|", flush=True)
        for cells in lines:
            print(f"| {' | '.join(cells)} |", flush=True)
        print()
