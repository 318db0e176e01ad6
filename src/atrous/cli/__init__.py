"""The command `atrous`: one file per subcommand, each importing what it needs when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from atrous import AtrousError, __version__
from atrous.cli import demo, evaluate, experiment, info, inspect, predict, train

_COMMANDS = (demo, evaluate, experiment, info, inspect, predict, train)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; return 0, or 2 after one sentence on standard error, or 130 when interrupted.

    Args:
        arguments: the words after `atrous`; None takes those of the process.

    Example:
        >>> main(["predict", "absent.png", "--weights", "absent.safetensors", "--out", "out"])
        2
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        options = _parser(words[:1]).parse_args(words)
        options.run(options)
    except (AtrousError, OSError) as error:
        print(f"atrous: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("atrous: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser(chosen: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser, with the options of the chosen command alone: those of some take long to know."""
    parser = argparse.ArgumentParser("atrous", description="Convolutions with holes for PyTorch.")
    parser.add_argument("--version", action="version", version=f"atrous {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        name = command.__name__.rpartition(".")[2]
        summary = (command.__doc__ or "").partition("\n")[0]
        subparser = commands.add_parser(name, help=summary, description=summary)
        if name in chosen:
            command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser
