"""`ramnas`: the commands on the host. One verb, one step of the main line, files between them."""

from __future__ import annotations

import argparse
from pathlib import Path

from ramnas_edge.cli import guarded
from ramnas_host import (
    verbs_bundle,
    verbs_compare,
    verbs_finetune,
    verbs_fleet,
    verbs_records,
    verbs_report,
    verbs_search,
    verbs_train,
)


def main(argv: list[str] | None = None) -> int:
    return guarded(lambda: call(argv))


def call(argv: list[str] | None) -> None:
    """Run one verb; RamnasError if it cannot be done."""
    args = _parser().parse_args(argv)
    args.call(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ramnas", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    demo = verbs.add_parser("demo", help="the whole main line, small, on real digits")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"))
    demo.add_argument("--fresh", action="store_true", help="start over")
    demo.set_defaults(call=_demo)

    for group in (
        verbs_train, verbs_fleet, verbs_search, verbs_compare, verbs_finetune, verbs_bundle,
        verbs_report, verbs_records,
    ):  # fmt: skip
        group.add(verbs)
    return parser


def _demo(args: argparse.Namespace) -> None:
    from ramnas_host import demo

    demo.run(args.out, fresh=args.fresh)
