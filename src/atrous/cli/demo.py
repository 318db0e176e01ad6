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

    run_demo(options.out, options.seed)
