"""`python -m benchmarks taps --json F` measures; `python -m benchmarks table F` prints Markdown."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from atrous._errors import AtrousError
from benchmarks import table, taps


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    verbs = parser.add_subparsers(dest="verb", required=True)
    taps.add_arguments(verbs.add_parser("taps", help="time depthwise convolutions; print the table"))
    shown = verbs.add_parser("table", help="print what was measured as Markdown")
    shown.add_argument("json", type=Path, metavar="FILE")
    options = parser.parse_args()
    try:
        results = taps.run(options) if options.verb == "taps" else json.loads(options.json.read_text(encoding="utf-8"))
    except (AtrousError, OSError, ValueError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    print(table.markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
