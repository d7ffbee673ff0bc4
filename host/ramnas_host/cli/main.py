"""The command `ramnas`: a command line -> one of its verbs, called with its options."""

from __future__ import annotations

import argparse
import os

from ramnas_edge.board import cores
from ramnas_edge.cli import keys
from ramnas_edge.cli.terminal import group_verbs, guarded
from ramnas_host.cli import (
    bundle,
    calibrate,
    compare_fronts,
    data,
    demo,
    evaluate,
    export,
    family,
    finetune,
    import_weights,
    records,
    report,
    scenes,
    search,
    train,
    verify,
)

PURPOSE = (
    "Trains or imports a supernet, searches it for the networks that are accurate and fast on your "
    "boards, and writes them as a bundle that ramnas-edge runs there."
)
# the steps of the main line in order, and their verbs
STEPS = {
    "make a supernet": ("train", "import", "evaluate", "data"),
    "measure on boards": ("keys", "calibrate", "records"),
    "search": ("search", "verify", "compare-fronts"),
    "write a bundle": ("bundle", "family", "export"),
    "a task of your own": ("scenes", "finetune"),
    "look at a run": ("report", "demo"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code, which `guarded` explains."""
    # torch counts the cores and knows no quota: its threads would then stop each other
    if cores.usable() < cores.affinity():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores.usable()))
    return guarded(lambda: call(argv))


def call(argv: list[str] | None) -> None:
    """Run one verb; RamnasError if it fails."""
    args = parser().parse_args(argv)
    args.call(args)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    made = argparse.ArgumentParser(prog="ramnas", description=PURPOSE)
    verbs = made.add_subparsers(required=True, metavar="VERB")
    for verb in (
        train, import_weights, evaluate, data, keys, calibrate, records, search, verify,
        compare_fronts, bundle, family, export, scenes, finetune, report,
    ):  # fmt: skip
        verb.add(verbs)
    demo.add(verbs, call)
    group_verbs(made, verbs, STEPS)
    return made
