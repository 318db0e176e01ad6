"""Compare plain, dilated, dense and learned kernels: train a small ConvNeXt with each, from several seeds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `atrous experiment`."""
    from atrous.train.experiment import DATA
    from atrous.train.kernels import KERNELS

    parser.add_argument("--data", required=True, choices=DATA, help="images to classify")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="for results; goes on with its runs")
    parser.add_argument("--seeds", type=int, default=3, metavar="S", help="of every kernel (default: 3)")
    parser.add_argument("--kernels", nargs="+", default=[*KERNELS], metavar="K", help=f"of {', '.join(KERNELS)}")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: one for each processor)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(options: argparse.Namespace) -> None:
    """Run the experiment, and print its table."""
    from atrous.train.experiment import run_experiment

    result = run_experiment(options.data, options.out, seeds=options.seeds, kernels=options.kernels, jobs=options.jobs)
    if options.json:
        print(json.dumps(result.to_dict()))
        return
    print(result)
    print(f"look at {options.out / 'comparison.png'}")
