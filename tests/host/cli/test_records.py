"""`ramnas records`: stores are merged, shown and exported."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ramnas_edge.measuring.record import LatencyRecord, Target, Visit, statistics
from ramnas_edge.measuring.store import Store
from ramnas_host.cli import main
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import load_space

SPACE = load_space("micro")
ARCHS = sample_by_macs(SPACE, np.random.default_rng(0), 5)


def record(i: int, **changes: object) -> LatencyRecord:
    arch = ARCHS[i]
    visits = tuple(
        Visit(arch.id, "b", n, i, tuple((i + 1) * (1 + n / 10) for _ in range(6))) for n in range(8)
    )
    made = LatencyRecord(
        "run", Target(), arch, arch.id, SPACE.hash, (24, 24), "board", "1.2", ("CPU",), "ok",
        visits=visits, **statistics(visits),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def store(path: Path, *records: LatencyRecord) -> Path:
    made = Store(path)
    for one in records:
        made.add(one)
    made.close()
    return path


def test_merging_twice_adds_every_record_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = store(tmp_path / "a.sqlite", record(0), record(1))
    b = store(tmp_path / "b.sqlite", record(1), record(2, run="other"))
    into = tmp_path / "all.sqlite"
    for _ in range(2):
        assert main.main(["records", "merge", str(a), str(b), "--into", str(into)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].split(" in ")[0] for line in lines] == [
        "2 records, 2 new", "2 records, 1 new", "2 records, 0 new", "2 records, 0 new",
    ]  # fmt: skip
    merged = Store(into)
    assert {r.arch_id for r in merged.records("run")} == {ARCHS[0].id, ARCHS[1].id}
    assert merged.records("other") == [record(2, run="other")]


def test_show_groups_by_board_and_target_and_gives_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store(
        tmp_path / "a.sqlite", record(0), record(1), record(2, device_class="other"),
        record(3, target=Target(batch=8)),
        record(4, validity="failed", reason="out of memory", p50_ms=None),
    )  # fmt: skip
    assert main.main(["records", "show", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "run run on board: 2 ok, 1 failed" in printed
    assert "run run on other: 1 ok" in printed
    assert "batch 8" in printed
    assert f"{ARCHS[4].id} failed: out of memory" in printed


def test_show_explains_the_short_name_of_a_board_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    xeon = "intel-r-xeon-r-processor_2c_24gib_linux-x86-64_onnxruntime-cpu-1.32"
    runs = [record(i, run=run, device_class=xeon) for i, run in enumerate(("first", "second"))]
    path = store(tmp_path / "a.sqlite", *runs)
    assert main.main(["records", "show", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"xeon 2c, onnxruntime-cpu = {xeon}\n")
    assert printed.count(xeon) == 1
    assert "run second on xeon 2c, onnxruntime-cpu: 1 ok" in printed


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_export_gives_one_row_per_arch_with_the_corrected_latency(
    suffix: str, tmp_path: Path
) -> None:
    failed = record(3, validity="failed", reason="no", visits=(), p50_ms=None)
    path = store(tmp_path / "a.sqlite", record(0), record(1), failed)
    out = tmp_path / f"out.{suffix}"
    assert main.main(["records", "export", str(path), "--out", str(out)]) == 0
    text = out.read_text()
    rows = json.loads(text) if suffix == "json" else list(csv.DictReader(text.splitlines()))
    by_arch = {row["arch_id"]: row for row in rows}
    assert len(by_arch) == 3
    first, second = (by_arch[ARCHS[i].id] for i in (0, 1))
    assert float(second["latency_ms"]) / float(first["latency_ms"]) == pytest.approx(2, rel=1e-3)
    assert SPACE.decode([int(n) for n in first["arch"].split()]) == ARCHS[0]
    assert by_arch[ARCHS[3].id]["p50_ms"] in (None, "")  # left empty, not 0


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["show", "nowhere.sqlite"], "nowhere.sqlite does not exist"),
        (["merge", "nowhere.sqlite", "--into", "x.sqlite"], "nowhere.sqlite does not exist"),
        (
            ["export", "{store}", "--run", "x", "--out", "out.csv"],
            "has no run 'x'; its runs are: run",
        ),
        (["show", "{text}"], "cannot open the store"),
    ],
)
def test_a_store_that_cannot_be_read_is_named(
    argv: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.sqlite").write_text("not a database, but long enough to be read" * 9)
    known = {
        "store": store(tmp_path / "a.sqlite", record(0)), "text": tmp_path / "text.sqlite",
    }  # fmt: skip
    assert main.main(["records", *(part.format(**known) for part in argv)]) == 2
    assert says in capsys.readouterr().err
    assert not Path("x.sqlite").exists()
