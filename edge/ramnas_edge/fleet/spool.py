"""The records that the host has not acknowledged yet, in an SQLite file, so that none is lost."""

from __future__ import annotations

import sqlite3
import time
import uuid
from pathlib import Path
from typing import IO, Dict, Iterable, Optional, Tuple

import msgspec

from ramnas_edge.board.folders import state_folder
from ramnas_edge.fleet import wire
from ramnas_edge.measuring import messages
from ramnas_edge.measuring.record import LatencyRecord
from ramnas_models.errors import FileError
from ramnas_models.files import lock, make_folder, writing

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, run TEXT NOT NULL, message BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS board (id TEXT NOT NULL);
"""


def default_path(name: Optional[str]) -> Path:
    """The spool file of this user's agent called `name`, or of the agent without a name.

    It lies in the folder ramnas in XDG_STATE_HOME or ~/.local/state.
    """
    return state_folder() / (f"spool-{name}.sqlite" if name else "spool.sqlite")


class Spool:
    """Keeps each record, by its key, as the message that carries it to the host.

    `add` commits the record to the disk. If the disk does not take it, the record is held in memory
    and `trouble` says why, with the way out; while all is well, `trouble` is empty.

    `board` is the identity of this board, which was made together with the file. The file belongs
    to one process: FileError if another process still has it after `patience_s`.
    """

    def __init__(self, path: Path, *, patience_s: float = 0.0) -> None:
        self.path, self.trouble = path, ""
        self._unwritten: Dict[wire.Key, LatencyRecord] = {}
        make_folder(path.parent)
        self._lock = _locked(path.with_name(path.name + ".lock"), patience_s)
        try:
            self._db = sqlite3.connect(path)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            found = self._db.execute("SELECT id FROM board").fetchone()
            self.board: str = found[0] if found else uuid.uuid4().hex[:12]
            if not found:
                with self._db:
                    self._db.execute("INSERT INTO board VALUES (?)", [self.board])
        except sqlite3.Error as error:
            self._lock.close()
            raise FileError(
                f"cannot open the spool {path}: {error}; free some space, or name another file "
                "with --spool, on a local disk"
            ) from error

    def add(self, record: LatencyRecord) -> bytes:
        """Keep `record`, on the disk if possible, and return the message that carries it."""
        self._unwritten[record.key] = record
        self.write()
        return wire.encode(messages.Measured(record))

    def write(self) -> bool:
        """Commit the records held in memory; False if the disk does not take them (`trouble`)."""
        rows = [
            (_text(key), record.run, wire.encode(messages.Measured(record)))
            for key, record in self._unwritten.items()
        ]
        if not self._committed("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", rows):
            return False
        self._unwritten.clear()
        self.trouble = ""
        return True

    def waiting(self, run: str) -> Dict[wire.Key, bytes]:
        """The messages of `run` that wait for an Ack, by key."""
        query = "SELECT key, message FROM records WHERE run = ?"
        try:
            rows = self._db.execute(query, [run]).fetchall()
        except sqlite3.Error as error:
            raise FileError(
                f"cannot read the spool {self.path}: {error}; move it away, and name another file "
                "with --spool"
            ) from error
        found = {tuple(msgspec.json.decode(key)): bytes(message) for key, message in rows}
        for key, record in self._unwritten.items():
            if record.run == run:
                found[key] = wire.encode(messages.Measured(record))
        return found

    def remove(self, keys: Iterable[wire.Key]) -> None:
        """Forget the records that the host has committed.

        If the disk is too full even for that, they stay and are sent again later.
        """
        acknowledged = [*keys]
        for key in acknowledged:
            self._unwritten.pop(key, None)
        self._committed(
            "DELETE FROM records WHERE key = ?", [(_text(key),) for key in acknowledged]
        )

    def _committed(self, statement: str, rows: Iterable[Tuple[object, ...]]) -> bool:
        """Run `statement` for all rows or none; False if the disk does not take it (`trouble`)."""
        try:
            with self._db:
                self._db.executemany(statement, rows)
        except sqlite3.Error as error:
            self.trouble = f"cannot write the spool {self.path}: {error}; free some space"
            return False
        return True

    def __len__(self) -> int:
        on_disk = self._db.execute("SELECT COUNT(*) FROM records").fetchone()[0]
        return int(on_disk) + len(self._unwritten)

    def close(self) -> None:
        self._db.close()
        self._lock.close()


def _text(key: wire.Key) -> str:
    return msgspec.json.encode(key).decode()


def _locked(path: Path, patience_s: float) -> IO[str]:
    """Open and lock a file; the kernel unlocks it when the process ends, however it ends."""
    with writing(path):
        file = path.open("a")
    deadline = time.monotonic() + patience_s
    with writing(path):
        while not lock(file.fileno(), wait=False):
            if time.monotonic() > deadline:
                file.close()
                raise FileError(
                    f"another agent works with the spool {path.with_suffix('')}; end it, or give "
                    "this one a --name of its own"
                )
            time.sleep(0.1)
    return file
