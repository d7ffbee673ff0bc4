"""How `search` and `verify` write a front: as JSON, and with `--csv` as CSV too."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ramnas_host.search.front import Front


def csv_option(verb: argparse.ArgumentParser) -> None:
    """Add `--csv`."""
    verb.add_argument(
        "--csv", action="store_true", help="also write the candidates as a .csv beside --out"
    )


def write(args: argparse.Namespace, found: Front) -> None:
    """Write the front to `--out`, and its rows beside it if `--csv` was given."""
    from ramnas_host.cli.records import csv_of
    from ramnas_host.report import tables
    from ramnas_host.search import front
    from ramnas_models.files import write_file

    front.save(found, args.out)
    if args.csv:
        path = args.out.with_suffix(".csv")
        write_file(path, csv_of(tables.rows(found)))
        print(f"as a table: {path}")
