"""The verb `ramnas records`: merge, show and export what boards have measured."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ramnas_edge.measuring.record import LatencyRecord, Target
    from ramnas_edge.measuring.store import Store


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these verbs to the command line."""
    records = verbs.add_parser("records", help="merge, show or export measured records")
    actions = records.add_subparsers(dest="action", required=True, metavar="ACTION")

    merge = actions.add_parser("merge", help="add the records of stores to another")
    merge.add_argument("stores", type=Path, nargs="+", metavar="records.sqlite")
    merge.add_argument("--into", type=Path, required=True, metavar="records.sqlite")
    merge.set_defaults(call=_merge)

    show = actions.add_parser("show", help="what a store holds, run by run")
    show.add_argument("store", type=Path, metavar="records.sqlite")
    show.set_defaults(call=_show)

    export = actions.add_parser("export", help="one row an arch, with the corrected latency")
    export.add_argument("store", type=Path, metavar="records.sqlite")
    export.add_argument("--run", help="of this run alone")
    export.add_argument("--out", type=_table, required=True, metavar="FILE.csv|FILE.json")
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
    store = _existing(args.store)
    for run in store.runs():
        for records in _alike(store.records(run)):
            counts = Counter(r.validity for r in records)
            found = ", ".join(f"{n} {validity}" for validity, n in counts.most_common())
            print(f"run {run} on {records[0].device_class}: {found}")
            target = records[0].target
            size = "x".join(map(str, target.input_hw)) if target.input_hw else "the arch's own size"
            whole = "whole calls on frames of {}x{}".format(*target.frame_hw or (0, 0))
            print(
                f"  {target.task}, {whole if target.frame_hw else size}, batch {target.batch}, "
                f"{target.engine} {records[0].engine_version}, {target.precision}, "
                f"{target.threads} thread(s)"
            )
            medians = sorted(r.p50_ms for r in records if r.p50_ms is not None)
            if medians:
                print(f"  medians from {medians[0]:.3g} to {medians[-1]:.3g} ms")
            for record in records:
                if record.reason:
                    print(f"  {record.arch_id} {record.validity}: {record.reason}")
    store.close()


def _export(args: argparse.Namespace) -> None:
    from ramnas_models.files import write_file

    store = _existing(args.store)
    runs = store.runs()
    if args.run and args.run not in runs:
        raise DataError(f"{args.store} has no run '{args.run}', only {', '.join(runs) or 'none'}")
    rows = [
        row
        for run in ([args.run] if args.run else runs)
        for records in _alike(store.records(run))
        for row in _rows(records)
    ]
    store.close()
    write: Callable[[list[dict[str, object]]], bytes] = (
        csv_of if args.out.suffix == ".csv" else _json
    )
    write_file(args.out, write(rows))
    print(f"{len(rows)} rows: {args.out}")


def _alike(records: list[LatencyRecord]) -> list[list[LatencyRecord]]:
    """Those of one device class and target together: their drift is taken out together."""
    groups: dict[tuple[str, Target], list[LatencyRecord]] = {}
    for record in records:
        groups.setdefault((record.device_class, record.target), []).append(record)
    return list(groups.values())


def _rows(records: list[LatencyRecord]) -> list[dict[str, object]]:
    """Of one run, device class and target."""
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
