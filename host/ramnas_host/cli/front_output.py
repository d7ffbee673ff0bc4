"""How `search` and `verify` write a front: as JSON, and as CSV where that is asked for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ramnas_host.search.front import Front


def csv_option(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--csv", action="store_true", help="write it as .csv too, beside --out")


def write(args: argparse.Namespace, found: Front) -> None:
    from ramnas_host.cli.records import csv_of
    from ramnas_host.report import tables
    from ramnas_host.search import front
    from ramnas_models.files import write_file

    front.save(found, args.out)
    if args.csv:
        write_file(args.out.with_suffix(".csv"), csv_of(tables.rows(found)))
        print(f"as a table: {args.out.with_suffix('.csv')}")
