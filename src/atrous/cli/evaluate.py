"""Judge trained weights on a folder of images with known targets."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `atrous evaluate`."""
    parser.add_argument("--data", required=True, metavar="FOLDER", help="as in atrous train")
    parser.add_argument("--weights", required=True, type=Path, metavar="FILE", help="a weights file of atrous")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="default: test")
    parser.add_argument("--skip-bad", action="store_true", help="leave out broken images, and list them")
    parser.add_argument("--json", action="store_true", help="print all metrics as one JSON object")


def run(options: argparse.Namespace) -> None:
    """Judge, and print the metrics."""
    from atrous.train import judge, load_network

    metrics = judge(options.data, options.weights, split=options.split, skip_bad=options.skip_bad)
    if options.json:
        print(json.dumps(metrics))
        return
    classes = load_network(options.weights)[1].classes
    for name, value in metrics.items():
        if not isinstance(value, list):
            print(f"{name}  {_text(value)}")
        elif len(value) == len(classes) and not isinstance(value[0], list):
            for label, entry in zip(classes, value, strict=True):
                print(f"{name}  {label}  {_text(entry)}")


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
