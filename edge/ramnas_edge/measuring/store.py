"""All measured records in one SQLite file: one row for each record, which never changes."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

import msgspec

from ramnas_edge.measuring.record import LatencyRecord
from ramnas_models.errors import FileError
from ramnas_models.files import make_folder

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    run TEXT, task TEXT, arch_id TEXT, input_size TEXT, device_class TEXT,
    engine TEXT, precision TEXT, threads TEXT, batch TEXT,
    space_hash TEXT NOT NULL, validity TEXT NOT NULL, p50_ms REAL, p90_ms REAL,
    record TEXT NOT NULL,
    PRIMARY KEY (run, task, arch_id, input_size, device_class, engine, precision, threads, batch)
)
"""

_KEY = (
    "run", "task", "arch_id", "input_size", "device_class",
    "engine", "precision", "threads", "batch",
)  # fmt: skip

_INSERT = f"INSERT OR IGNORE INTO records VALUES ({','.join('?' * (len(_KEY) + 5))})"

_encoder = msgspec.json.Encoder()


def as_text(record: LatencyRecord) -> bytes:
    """The record as JSON, the form in which the store keeps it."""
    return _encoder.encode(record)


class Store:
    """Records by their unique key: adding a record whose key is there already changes nothing."""

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self.path = path
        try:
            self._db = sqlite3.connect(path)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")  # a commit returns when it is on the disk
            self._db.execute(_SCHEMA)
            self._db.commit()
        except sqlite3.Error as error:
            raise FileError(
                f"cannot open the store {path}: {error}; name a file of ramnas or a new one, on a "
                "local disk, as SQLite needs locks that many network file systems lack"
            ) from error

    def add(self, record: LatencyRecord) -> bool:
        """Commit `record`; return False if its key was there already."""
        return self.add_all([(record.key, record, as_text(record))]) == 1

    def add_all(self, rows: Iterable[Tuple[Tuple[str, ...], LatencyRecord, bytes]]) -> int:
        """Commit several (key, record, `as_text(record)`) together, all or none.

        Returns how many of the keys were not there before.
        """
        values = [
            (*key, record.space_hash, record.validity, record.p50_ms, record.p90_ms, text.decode())
            for key, record, text in rows
        ]
        before = self._db.total_changes
        try:
            with self._db:
                self._db.executemany(_INSERT, values)
        except sqlite3.Error as error:
            raise FileError(
                f"cannot write {self.path}: {error}; what was committed before is safe"
            ) from error
        return self._db.total_changes - before

    def runs(self) -> List[str]:
        """The names of all runs, sorted."""
        rows = self._read("SELECT DISTINCT run FROM records ORDER BY run")
        return [row[0] for row in rows]

    def keys(self, run: str, device_class: Optional[str] = None) -> Set[Tuple[str, ...]]:
        """The keys of the records of `run`, of all device classes or one."""
        query = f"SELECT {', '.join(_KEY)} FROM records WHERE run = ?"
        rows = self._read(query, run)
        return {row for row in rows if device_class in (None, row[_KEY.index("device_class")])}

    def records(self, run: str, device_class: Optional[str] = None) -> List[LatencyRecord]:
        """The records of `run`, whatever their validity, of all device classes or one."""
        query, values = "SELECT record FROM records WHERE run = ?", [run]
        if device_class is not None:
            query, values = f"{query} AND device_class = ?", [run, device_class]
        rows = self._read(f"{query} ORDER BY arch_id", *values)
        try:
            return [msgspec.json.decode(row[0], type=LatencyRecord) for row in rows]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FileError(
                f"{self.path} holds a record that this version of ramnas cannot read ({error}): "
                "use the version that wrote it, or measure into a new file"
            ) from error

    def count(self, run: str, device_class: str) -> Dict[str, int]:
        """Validity -> number of records of `run` and `device_class`."""
        query = (
            "SELECT validity, COUNT(*) FROM records "
            "WHERE run = ? AND device_class = ? GROUP BY validity"
        )
        return dict(self._read(query, run, device_class))

    def _read(self, query: str, *values: str) -> List[Tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise FileError(
                f"cannot read {self.path}: {error}; it is damaged, or its disk cannot be read: "
                "copy it to another disk, or take an earlier copy"
            ) from error

    def close(self) -> None:
        self._db.close()
