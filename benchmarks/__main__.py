"""`python -m benchmarks taps --json F`, `routes` or `wide` measures; `python -m benchmarks table F` prints Markdown."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from atrous._errors import AtrousError
from benchmarks import suite, table


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    verbs = parser.add_subparsers(dest="verb", required=True)
    suite.add_arguments(verbs.add_parser("taps", help="time depthwise convolutions; print the tables"), "taps")
    routes = verbs.add_parser("routes", help="time both sides of every row of the routing table; print who is faster")
    suite.add_arguments(routes, "routes")
    wide = verbs.add_parser("wide", help="time every data type, layout and rank; print a line for each, then the cells")
    suite.add_arguments(wide, "wide")
    shown = verbs.add_parser("table", help="print what was measured as Markdown")
    shown.add_argument("json", type=Path, metavar="FILE")
    options = parser.parse_args()
    try:
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
