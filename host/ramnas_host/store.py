"""The measured records of all runs: one SQLite file, one row a measurement, never changed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from ramnas_edge.record import OK, LatencyRecord
from ramnas_models.errors import DataError, FileError
from ramnas_models.files import make_folder

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    run TEXT, task TEXT, arch_id TEXT, input_size TEXT, device_class TEXT,
    engine TEXT, precision TEXT, threads TEXT, batch TEXT,
    space_hash TEXT NOT NULL, validity TEXT NOT NULL, p50_ms REAL, p90_ms REAL,
    record TEXT NOT NULL,
    PRIMARY KEY (run, task, arch_id, input_size, device_class, engine, precision, threads, batch)
) WITHOUT ROWID
"""

_KEY = (
    "run", "task", "arch_id", "input_size", "device_class",
    "engine", "precision", "threads", "batch",
)  # fmt: skip


class Store:
    """Records by their unique key; a second write of the same key changes nothing."""

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self.path = path
        try:
            self._db = sqlite3.connect(path)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(_SCHEMA)
            self._db.commit()
        except sqlite3.Error as error:
            raise FileError(f"cannot open the store {path}: {error}") from error

    def add(self, record: LatencyRecord) -> bool:
        """Commit `record`; False if its key was there already."""
        row = (
            *record.key, record.space_hash, record.validity, record.p50_ms, record.p90_ms,
            msgspec.json.encode(record).decode(),
        )  # fmt: skip
        try:
            with self._db:
                marks = ",".join("?" * len(row))
                done = self._db.execute(f"INSERT OR IGNORE INTO records VALUES ({marks})", row)
        except sqlite3.Error as error:
            raise FileError(
                f"cannot write {self.path}: {error}; what was committed before is safe"
            ) from error
        return done.rowcount == 1

    def keys(self, run: str, device_class: str | None = None) -> set[tuple[str, ...]]:
        """The keys recorded for `run`, of one device class if given."""
        query = f"SELECT {', '.join(_KEY)} FROM records WHERE run = ?"
        rows = self._db.execute(query, [run])
        return {row for row in rows if device_class in (None, row[_KEY.index("device_class")])}

    def records(self, run: str, device_class: str | None = None) -> list[LatencyRecord]:
        """All records of `run`, of one device class if given, whatever their validity."""
        query, values = "SELECT record FROM records WHERE run = ?", [run]
        if device_class is not None:
            query, values = f"{query} AND device_class = ?", [run, device_class]
        rows = self._db.execute(f"{query} ORDER BY arch_id", values)
        return [msgspec.json.decode(row[0], type=LatencyRecord) for row in rows]

    def count(self, run: str, device_class: str) -> dict[str, int]:
        """How many records of each validity."""
        query = (
            "SELECT validity, COUNT(*) FROM records "
            "WHERE run = ? AND device_class = ? GROUP BY validity"
        )
        return dict(self._db.execute(query, [run, device_class]).fetchall())

    def close(self) -> None:
        self._db.close()


def of_one_device(
    store: Store, run: str, space_hash: str, device_class: str | None
) -> list[LatencyRecord]:
    """The valid records of `run` on one device class; DataError if that is not clear."""
    records = store.records(run)
    classes = sorted({r.device_class for r in records})
    if not classes:
        raise DataError(f"{store.path} holds no record of run '{run}'; calibrate first")
    if device_class is None and len(classes) > 1:
        raise DataError(f"run '{run}' has several device classes, name one: {', '.join(classes)}")
    if device_class is not None and device_class not in classes:
        raise DataError(f"run '{run}' has no device class '{device_class}', only {classes}")
    chosen = [
        r for r in records if r.validity == OK and r.device_class == (device_class or classes[0])
    ]
    foreign = [r.arch_id for r in chosen if r.space_hash != space_hash]
    if foreign:
        raise DataError(
            f"run '{run}' of {store.path} holds {len(foreign)} records of another space, "
            f"such as {foreign[0]}; use the run that was calibrated for this space"
        )
    return chosen
