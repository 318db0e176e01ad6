"""Show that torch is wrong in bfloat16 `channels_last` on some CPUs, and that `atrous` is right there.

    python examples/bfloat16_channels_last.py

torch 2.13 reads and writes beside its tensors in strided, dilated and 3-D convolutions on a CPU with AVX-512, some of
them in contiguous layout too. Results differ from run to run and some runs crash, so each way runs in a process of its
own. `atrous` runs these calls in float32, or on kernels of its own.
"""

import subprocess
import sys

CASES = {
    "dense, strided": ((4, 5, 12, 1), (3, 5, 2, 4), {"stride": (3, 2), "padding": (1, 2)}),
    "dense, dilated": ((4, 17, 19, 17), (40, 17, 5, 5), {"dilation": (2, 3), "padding": (3, 12)}),
    "multiplier, strided": ((2, 4, 14, 1), (20, 1, 1, 3), {"stride": (1, 2), "padding": (0, 1), "groups": 4}),
    "dense, 3-D": ((3, 64, 1, 5, 9), (40, 64, 2, 3, 3), {"padding": (1, 1, 2)}),
    "multiplier, strided, 3-D": (
        (1, 2, 1, 18, 13), (8, 1, 3, 3, 2), {"stride": (2, 1, 2), "padding": (2, 0, 0), "groups": 2},
    ),
}  # fmt: skip
"""Shapes of input and weight, and options; found among random ones."""

RUNS = 20
WRONG = 0.02
"""Off by more than this part of the largest value, five roundings of bfloat16, is no rounding."""


def measure(library: str, names: list[str]) -> None:
    """Print, for each of these cases, the largest relative error of the output and both gradients over all runs."""
    # Here, so that the process that only waits starts at once.
    import torch

    import atrous

    rooms = {"torch": torch.nn.functional, "atrous": atrous.functional}
    torch.manual_seed(0)
    for name in names:
        input, weight, options = CASES[name]
        print(name, end="\t", flush=True)
        ndim = len(input) - 2
        layout = torch.channels_last if ndim == 2 else torch.channels_last_3d
        worst = 0.0
        for _ in range(RUNS):
            leaves = [torch.randn(shape).bfloat16().to(memory_format=layout) for shape in (input, weight)]
            exact = results(getattr(torch.nn.functional, f"conv{ndim}d"), [leaf.double() for leaf in leaves], options)
            found = results(getattr(rooms[library], f"conv{ndim}d"), leaves, options)
            for one, other in zip(found, exact, strict=True):
                error = float((one.double() - other).abs().max() / other.abs().max())
                worst = max(worst, error if error == error else float("inf"))  # NaN is no small error
        print(worst, flush=True)


def results(convolve, leaves, options):
    """Return the output of a convolution and the gradients of its sum in input and weight."""
    import torch

    input, weight = (leaf.detach().requires_grad_() for leaf in leaves)
    output = convolve(input, weight, **options)
    seed = torch.ones_like(output)
    return output.detach(), *torch.autograd.grad(output, (input, weight), seed)


def run(library: str) -> dict[str, str]:
    """Return what became of each case, in a process that starts again behind a case that crashed."""
    words: dict[str, str] = {}
    while left := [name for name in CASES if name not in words]:
        command = [sys.executable, __file__, library, *left]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            name, _, worst = line.partition("\t")
            if not worst:
                words[name] = f"crashed (signal {-done.returncode})"
            else:
                words[name] = "right" if float(worst) <= WRONG else f"wrong by {float(worst):.3g} of the largest value"
        if done.returncode > 0 or not done.stdout:
            raise SystemExit(f"{' '.join(command)} failed ({done.returncode}): {done.stderr}")
    return words


def main() -> None:
    """Print both ways, side by side."""
    stock, ours = run("torch"), run("atrous")
    for name in CASES:
        print(f"{name}: torch {stock[name]}, atrous {ours[name]}")
    if set(stock.values()) == {"right"}:
        print("torch is right on this machine, as far as these cases show")


if __name__ == "__main__":
    measure(sys.argv[1], sys.argv[2:]) if sys.argv[1:] else main()
