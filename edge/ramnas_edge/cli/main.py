"""The command `ramnas-edge`: finds the verb that is asked for and calls it."""

from __future__ import annotations

import argparse
from typing import List, Optional

from ramnas_edge.cli import agent, build, calibrate, doctor, keys, profile, run
from ramnas_edge.cli.terminal import guarded


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="ramnas-edge", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in (run, calibrate, build, profile, agent, doctor):
        verb.add(verbs)
    keys.add(verbs, host=False)
    args = parser.parse_args(argv)
    return guarded(lambda: args.call(args))
