"""The store of records: what is committed stays, unchanged and once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ramnas_edge.measuring.record import LatencyRecord, Target, Visit
from ramnas_edge.measuring.store import Store, as_text
from ramnas_models.errors import FileError
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import load_space

SPACE = load_space("micro")
ARCHS = sample_by_macs(SPACE, np.random.default_rng(0), 5)


def record(i: int = 0, **changes: object) -> LatencyRecord:
    arch = ARCHS[i]
    made = LatencyRecord(
        "run", Target(), arch, arch.id, SPACE.hash, (24, 24), "dev", "1", ("CPU",), "ok",
        visits=(Visit(arch.id, "b", 0, 1, (1.0, 2.0)),), p50_ms=1.5, p90_ms=1.9,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def test_records_are_read_back_as_they_were_added(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep/store.sqlite")
    for i in range(5):
        assert store.add(record(i))
    store.close()
    again = Store(tmp_path / "deep/store.sqlite")
    assert {r.arch_id: r for r in again.records("run")} == {
        a.id: record(i) for i, a in enumerate(ARCHS)
    }
    assert again.records("other") == []
    assert again.count("run", "dev") == {"ok": 5}


def test_a_second_write_of_a_key_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    assert store.add(record(p50_ms=1.0))
    assert not store.add(record(p50_ms=9.0))
    (kept,) = store.records("run")
    assert kept.p50_ms == 1.0
    assert store.keys("run") == {record().key}
    assert store.keys("run", "other") == set()


def test_a_group_is_committed_whole_and_durably(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    assert store.add(record(0))
    assert store.add_all((r.key, r, as_text(r)) for r in map(record, range(5))) == 4
    assert store.add_all([]) == 0
    assert len(store.records("run")) == 5
    (durability,) = store._db.execute("PRAGMA synchronous").fetchone()
    assert durability == 2  # FULL: a commit is on the disk when it returns


def test_a_file_that_is_not_a_store_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(FileError, match=r"cannot open the store .*text"):
        Store(tmp_path / "text")


def test_a_full_disk_keeps_what_was_committed(small_disk: Path) -> None:
    store = Store(small_disk / "store.sqlite")
    store.add(record(0))
    big = record(
        1, visits=(Visit(ARCHS[1].id, "b", 0, 1, tuple(np.linspace(1, 2, 50_000).tolist())),)
    )
    with pytest.raises(FileError, match="disk is full; what was committed before is safe"):
        store.add(big)
    assert store.records("run") == [record(0)]
    store.close()
    with sqlite3.connect(small_disk / "store.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_store_that_is_damaged_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = Store(path)
    store.add_all((r.key, r, as_text(r)) for r in map(record, range(5)))
    store.close()
    page = 4096
    with path.open("r+b") as file:  # all but the first page, which has the schema
        file.seek(page)
        file.write(b"\xff" * (path.stat().st_size - page))
    damaged = Store(path)
    for read in (damaged.runs, lambda: damaged.records("run"), lambda: damaged.keys("run")):
        with pytest.raises(FileError, match=r"cannot read .*store.sqlite: .*it is damaged"):
            read()
    damaged.close()


def test_a_record_of_another_version_is_an_error_that_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    store.add(record(0))
    store._db.execute("UPDATE records SET record = '{}'")
    with pytest.raises(FileError, match=r"store.sqlite holds a record that this version .* cannot"):
        store.records("run")
    store.close()
