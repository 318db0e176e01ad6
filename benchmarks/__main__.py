"""`python -m benchmarks taps --json F`, `routes` or `wide` measures; `python -m benchmarks table F` prints Markdown.

`python -m benchmarks dcls` measures learnable spacings, `python -m benchmarks convnext` a whole network with them, and
`python -m benchmarks algebra` layers that are products of smaller ones; they print their tables at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from atrous._errors import AtrousError
from benchmarks import algebra, networks, spacings, suite, table

AT_ONCE = {"dcls": spacings, "convnext": networks, "algebra": algebra}


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    verbs = parser.add_subparsers(dest="verb", required=True)
    suite.add_arguments(verbs.add_parser("taps", help="time depthwise convolutions; print the tables"), "taps")
    routes = verbs.add_parser("routes", help="time both sides of every row of the routing table; print who is faster")
    suite.add_arguments(routes, "routes")
    wide = verbs.add_parser("wide", help="time every data type, layout and rank; print a line for each, then the cells")
    suite.add_arguments(wide, "wide")
    learned = verbs.add_parser("dcls", help="time learnable spacings beside the dcls package and dense kernels")
    whole = verbs.add_parser("convnext", help="time training steps of ConvNeXt-T with plain and learned kernels")
    products = verbs.add_parser("algebra", help="time cascades, Kronecker products and low ranks beside dense layers")
    for verb, threads in ((learned, 1), (whole, 2), (products, 1)):
        verb.add_argument("--threads", type=int, default=threads, metavar="N", help=f"default: {threads}")
        verb.add_argument("--samples", type=int, default=9, metavar="N", help="of each median (default: 9)")
    shown = verbs.add_parser("table", help="print what was measured as Markdown")
    shown.add_argument("json", type=Path, metavar="FILE")
    options = parser.parse_args()
    try:
        if options.verb in AT_ONCE:
            AT_ONCE[options.verb].run(options.threads, options.samples)
            return 0
        results = (
            json.loads(options.json.read_text(encoding="utf-8")) if options.verb == "table" else suite.run(options)
        )
    except (AtrousError, OSError, ValueError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    print(table.markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
