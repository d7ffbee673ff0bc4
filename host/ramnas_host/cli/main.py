"""The command `ramnas`: finds the verb that is asked for and calls it."""

from __future__ import annotations

import argparse

from ramnas_edge.cli import keys
from ramnas_edge.cli.terminal import guarded
from ramnas_host.cli import (
    bundle,
    calibrate,
    compare_fronts,
    data,
    demo,
    evaluate,
    export,
    finetune,
    import_weights,
    records,
    report,
    scenes,
    search,
    train,
    verify,
)

_VERBS = (
    train, import_weights, evaluate, data, calibrate, keys, records, search, verify,
    compare_fronts, bundle, export, report, scenes, finetune,
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    return guarded(lambda: call(argv))


def call(argv: list[str] | None) -> None:
    """Run one verb; RamnasError if it cannot be done."""
    args = _parser().parse_args(argv)
    args.call(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ramnas", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    demo.add(verbs, call)
    for verb in _VERBS:
        verb.add(verbs)
    return parser
