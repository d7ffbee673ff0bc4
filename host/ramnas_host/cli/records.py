"""`ramnas records`: stores of measured records -> one store, an overview, or a table."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ramnas_edge.measuring.record import LatencyRecord, Target
    from ramnas_edge.measuring.store import Store


def add(verbs: Verbs) -> None:
    """Add this verb and its actions to the command line."""
    records = add_verb(
        verbs, "records",
        help="show, merge or export what boards have measured",
        purpose="Shows what a store of measured records holds, adds the records of several stores "
        "to one, or exports them as a table.",
        example="ramnas records show records.sqlite",
    )  # fmt: skip
    actions = records.add_subparsers(required=True, metavar="ACTION")

    merge = add_verb(
        actions, "merge",
        help="add the records of stores to another store",
        purpose="Adds the records of one or more stores to another. A record that is there already "
        "is not added again.",
        example="ramnas records merge board1.sqlite board2.sqlite --into records.sqlite",
    )  # fmt: skip
    merge.add_argument(
        "stores", type=Path, nargs="+", metavar="records.sqlite", help="the stores to read"
    )
    merge.add_argument(
        "--into", type=Path, required=True, metavar="records.sqlite",
        help="the store that the records are added to; it is made if it does not exist",
    )  # fmt: skip
    merge.set_defaults(call=_merge)

    show = add_verb(
        actions, "show",
        help="show what a store holds, run by run",
        purpose="Shows for each run and device class of a store how many records are valid, what "
        "was measured, and why the other records are not valid.",
        example="ramnas records show records.sqlite",
    )  # fmt: skip
    show.add_argument("store", type=Path, metavar="records.sqlite", help="the store to show")
    show.set_defaults(call=_show)

    export = add_verb(
        actions, "export",
        help="write the records of a store as CSV or JSON",
        purpose="Writes the records of a store as a table, one row per record, with the latency "
        "corrected for the drift of the board.",
        example="ramnas records export records.sqlite --out records.csv",
    )  # fmt: skip
    export.add_argument("store", type=Path, metavar="records.sqlite", help="the store to read")
    export.add_argument("--run", help="only this run (default: all runs)")
    export.add_argument(
        "--out", type=_table, required=True, metavar="FILE.csv|FILE.json", help="the file to write"
    )
    export.set_defaults(call=_export)


def _table(text: str) -> Path:
    if Path(text).suffix not in (".csv", ".json"):
        raise argparse.ArgumentTypeError(f"'{text}' is neither a .csv nor a .json file")
    return Path(text)


def _existing(path: Path) -> Store:
    from ramnas_edge.measuring.store import Store

    if not path.is_file():
        raise DataError(f"{path} does not exist; ramnas-edge profile or ramnas calibrate makes it")
    return Store(path)


def _merge(args: argparse.Namespace) -> None:
    from ramnas_edge.measuring.store import Store

    sources = [_existing(path) for path in args.stores]
    into = Store(args.into)
    for source in sources:
        found = [record for run in source.runs() for record in source.records(run)]
        new = sum(into.add(record) for record in found)
        print(f"{source.path}: {len(found)} records, {new} new in {into.path}")
        source.close()
    into.close()


def _show(args: argparse.Namespace) -> None:
    from ramnas_edge.board import short_names

    store = _existing(args.store)
    groups = [group for run in store.runs() for group in _by_target(store.records(run))]
    store.close()
    boards = short_names.short_names(group[0].device_class for group in groups)
    for line in short_names.legend(boards):
        print(line)
    for records in groups:
        first, target = records[0], records[0].target
        counts = Counter(r.validity for r in records)
        found = ", ".join(f"{n} {validity}" for validity, n in counts.most_common())
        print(f"run {first.run} on {boards[first.device_class]}: {found}")
        print(
            f"  {target.task}, {_input(target)}, batch {target.batch}, {target.engine} "
            f"{first.engine_version}, {target.precision}, {target.threads} thread(s)"
        )
        medians = sorted(r.p50_ms for r in records if r.p50_ms is not None)
        if medians:
            print(f"  medians from {medians[0]:.3g} to {medians[-1]:.3g} ms")
        for record in records:
            if record.reason:
                print(f"  {record.arch_id} {record.validity}: {record.reason}")


def _input(target: Target) -> str:
    if target.frame_hw:
        return "whole calls on frames of {}x{}".format(*target.frame_hw)
    return "x".join(map(str, target.input_hw)) if target.input_hw else "the arch's own resolution"


def _export(args: argparse.Namespace) -> None:
    from ramnas_models.files import write_file

    store = _existing(args.store)
    runs = store.runs()
    if args.run and args.run not in runs:
        raise DataError(
            f"{args.store} has no run '{args.run}'; its runs are: {', '.join(runs) or 'none'}"
        )
    rows = [
        row
        for run in ([args.run] if args.run else runs)
        for records in _by_target(store.records(run))
        for row in _rows(records)
    ]
    store.close()
    write: Callable[[list[dict[str, object]]], bytes] = (
        csv_of if args.out.suffix == ".csv" else _json
    )
    write_file(args.out, write(rows))
    print(f"{len(rows)} rows: {args.out}")


def _by_target(records: list[LatencyRecord]) -> list[list[LatencyRecord]]:
    """The records in groups of one device class and target, whose drift is removed together."""
    groups: dict[tuple[str, Target], list[LatencyRecord]] = {}
    for record in records:
        groups.setdefault((record.device_class, record.target), []).append(record)
    return list(groups.values())


def _rows(records: list[LatencyRecord]) -> list[dict[str, object]]:
    """Rows for records of one run, device class and target."""
    from ramnas_edge.measuring.drift import corrected_ms

    corrected = corrected_ms(records)
    return [
        {
            "run": r.run, "device_class": r.device_class, "task": r.target.task,
            "engine": r.target.engine, "precision": r.target.precision,
            "threads": r.target.threads, "batch": r.target.batch,
            "height": r.input_hw[0], "width": r.input_hw[1], "arch_id": r.arch_id,
            "arch": " ".join(map(str, r.arch.integers)), "validity": r.validity,
            "reason": r.reason, "latency_ms": corrected.get(r.arch_id), "p50_ms": r.p50_ms,
            "p90_ms": r.p90_ms, "p90_bound_ms": r.p90_bound_ms, "p95_ms": r.p95_ms,
            "p99_ms": r.p99_ms, "mean_ms": r.mean_ms, "cv": r.cv,
            "energy_mj": r.energy.per_inference_mj if r.energy else None,
        }
        for r in records
    ]  # fmt: skip


def csv_of(rows: list[dict[str, object]]) -> bytes:
    """The rows as a CSV file whose header is the keys of the first row."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _json(rows: list[dict[str, object]]) -> bytes:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(rows), indent=1)
