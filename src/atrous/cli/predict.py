"""Segment image files with a trained network: a PNG of class numbers and an overlay for each."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `atrous predict`."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="JPEG, PNG or TIFF")
    parser.add_argument("--weights", required=True, type=Path, metavar="FILE", help="a weights file of atrous")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="for the predictions")


def run(options: argparse.Namespace) -> None:
    """Segment, and print the files written."""
    from atrous.train import predict_files

    for path in predict_files(options.images, options.weights, options.out):
        print(path)
