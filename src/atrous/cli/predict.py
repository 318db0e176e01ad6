"""Run a trained network on images: masks, restored images, maps or classes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `atrous predict`."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="JPEG, PNG or TIFF, or a folder of them")
    parser.add_argument("--weights", required=True, type=Path, metavar="FILE", help="a weights file of atrous")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="for the predictions")
    parser.add_argument("--probabilities", action="store_true", help="of every class at every pixel, as TIFF")
    parser.add_argument("--skip-bad", action="store_true", help="leave out broken images, and list them")
    parser.add_argument("--json", action="store_true", help="print the files written as one JSON list")


def run(options: argparse.Namespace) -> None:
    """Predict, and print the files written."""
    from atrous.train import predict_files

    more = {"probabilities": options.probabilities, "skip_bad": options.skip_bad}
    written = predict_files(options.images, options.weights, options.out, **more)
    if options.json:
        print(json.dumps([str(path) for path in written]))
        return
    for path in written:
        print(path)
