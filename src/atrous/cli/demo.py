"""Train a front end and a dilated context module on texture mosaics, and show what the context is worth."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `atrous demo`."""
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and order (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="FOLDER", help="default: demo")


def run(options: argparse.Namespace) -> None:
    """Run the demo."""
    from atrous.train import run_demo

    metrics = run_demo(options.out, options.seed)
    for name in ("front_end", "with_context", "undilated", "default_init"):
        print(f"{name:>12}  mean IoU {metrics[name]:.3f}")
    print(f"{metrics['seconds']:.0f} seconds; look at {options.out / 'report.html'}")
