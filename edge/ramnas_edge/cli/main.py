"""The command `ramnas-edge`: finds the verb that is asked for and calls it."""

from __future__ import annotations

import argparse
from typing import List, Optional

from ramnas_edge.cli import agent, build, calibrate, doctor, keys, profile, run
from ramnas_edge.cli.terminal import group_verbs, guarded

_GROUPS = {
    "look at this board": ("doctor",),
    "run a bundle": ("run", "calibrate", "build"),
    "measure for a host, or alone": ("agent", "profile", "keys"),
}


def main(argv: Optional[List[str]] = None) -> int:
    """Run `ramnas-edge` with `argv`, by default the arguments of this process; the exit code."""
    args = command_line().parse_args(argv)
    return guarded(lambda: args.call(args))


def command_line() -> argparse.ArgumentParser:
    """The parser with all verbs; what it returns has `call`, the function of the chosen verb."""
    parser = argparse.ArgumentParser(
        prog="ramnas-edge",
        description="Runs on the board: it serves the vision model that fits a latency budget, and "
        "measures how fast networks are here.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb in (doctor, run, calibrate, build, agent, profile):
        verb.add(verbs)
    keys.add(verbs, host=False)
    group_verbs(parser, verbs, _GROUPS)
    return parser
