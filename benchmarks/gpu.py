"""What serves tensors on a GPU, held to the reference, and what convolutions with holes take there.

`benchmarks/gpu.sh` installs the package and runs this: `python -m benchmarks.gpu --help`.
"""

from __future__ import annotations

import argparse
import sys

import torch

import atrous
from benchmarks.gpu_checks import behaviours, check_cases
from benchmarks.gpu_tables import DTYPES, GROUPS, QUICK, depthwise, network, spacings


def main() -> int:
    """Check, print the tables, and say whether every check passed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a few cases and small cells")
    parser.add_argument("--only", nargs="+", choices=("checks", "depthwise", "spacings", "network"), help="these parts")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bfloat16"])
    parser.add_argument("--cells", nargs="+", default=["*"], metavar="PATTERN", help="only these, as '64x96x56-k7-*'")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu shows that the script runs")
    # float32 means float32, in what is checked and in what is timed.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}; torch {torch.__version__}; atrous {atrous.__version__}\n", flush=True)
    parts = options.only or ("checks", "depthwise", "spacings", "network")
    failures: list[str] = []
    if "checks" in parts:
        failures = [*check_cases(device, 8 if options.quick else 1), *behaviours(device)]
        print("", *failures, "", sep="\n", flush=True)
    groups = QUICK if options.quick else GROUPS
    tables = {
        "depthwise": depthwise(groups, options.cells, options.dtypes, device),
        "spacings": spacings(options.dtypes, device, options.quick),
        "network": network(device, options.quick),
    }
    for part, lines in tables.items():
        for line in lines if part in parts else ():
            print(line, flush=True)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
