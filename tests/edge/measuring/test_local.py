"""`ramnas-edge profile`: it continues where it was stopped, and no record is lost or changed."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest

from ramnas_edge.__main__ import main
from ramnas_edge.board.short_names import short_names
from ramnas_edge.measuring import local, request, supervisor
from ramnas_edge.measuring.board_lock import holder
from ramnas_edge.measuring.drift import corrected_ms
from ramnas_edge.measuring.local import Progress
from ramnas_edge.measuring.record import FAILED, LatencyRecord, Target
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.store import Store
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import load_space
from tests.edge.measuring.hanging import Hanging

SPACE = load_space("micro")
HANG_S = 300  # only a hang lasts so long

# the command with blocks of two archs, all but the first of which never end
ENDLESS = """
import sys
import msgspec
from ramnas_edge.__main__ import main
from ramnas_edge.measuring import request

make = request.Request.block

def block(self, archs, anchors, number):
    made = make(self, archs, anchors, number)
    return msgspec.structs.replace(made, rounds=10**6) if number else made

request.BLOCK, request.Request.block = 2, block
if __name__ == "__main__":
    sys.exit(main())
"""


def options(store: Path, *more: str) -> List[str]:
    return ["profile", "--space", "micro", "--classes", "10", "--store", str(store), *more]


def profile(store: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ramnas_edge", *options(store, *more)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)


def stored(store: Path, run: str = "profile") -> List[LatencyRecord]:
    with contextlib.closing(Store(store)) as opened:
        return opened.records(run)


def count(store: Path) -> int:
    if not store.exists():
        return 0
    with contextlib.closing(sqlite3.connect(store)) as database:
        try:
            return database.execute("SELECT COUNT(*) FROM records").fetchone()[0]
        except sqlite3.OperationalError:  # the table is not there yet
            return 0


def test_measures_here_and_says_where_the_records_are(tmp_path: Path) -> None:
    ran = profile(tmp_path / "records.sqlite", "--samples", "3")
    assert ran.returncode == 0, ran.stderr
    records = stored(tmp_path / "records.sqlite")
    assert len(records) == 3
    assert {SPACE.min(), SPACE.max()} <= {r.arch for r in records}
    found = corrected_ms(records)
    assert found[SPACE.min().id] < found[SPACE.max().id]
    for record in records:
        assert record.device is not None
        assert record.device_class == record.device.class_key(
            "onnxruntime-cpu", record.engine_version
        )
        assert set(record.stages_ms) == {"copy_in", "run", "copy_out"}
    device_class = records[0].device_class
    short = short_names([device_class])[device_class]
    assert short != device_class
    first, explanation, last = ran.stdout.splitlines()
    assert first.startswith(f"{short}: ")
    assert explanation == f"  {short} = {device_class}"
    assert last == f"records: run 'profile' in {tmp_path / 'records.sqlite'}"


def test_progress_never_steps_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "BLOCK", 2)
    monkeypatch.setattr(supervisor, "FIRST_SAMPLES_S", 0.0)
    seen: List[Progress] = []
    archs = sample_by_macs(SPACE, np.random.default_rng(0), 3)  # two blocks
    with contextlib.closing(Store(tmp_path / "records.sqlite")) as store:
        local.profile(
            Request("run", SPACE, Target(num_classes=10), archs), store, on_progress=seen.append
        )
    shares = [p.done + p.inside for p in seen]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1], seen[-1].done) == (0, 3, 3)
    assert len(set(shares)) > 2 * 8  # there is progress within a block


def test_an_interrupted_profile_gives_the_board_back_though_its_exception_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_SAMPLES_S", 0.0)

    def interrupt(progress: Progress) -> None:
        if progress.inside:
            assert holder() is not None
            raise KeyboardInterrupt

    wanted = Request(
        "run", SPACE, Target(num_classes=10), sample_by_macs(SPACE, np.random.default_rng(0), 2)
    )
    with contextlib.closing(Store(tmp_path / "records.sqlite")) as store:
        with pytest.raises(KeyboardInterrupt) as kept:  # as notebooks keep it
            local.profile(wanted, store, on_progress=interrupt)
        assert holder() is None
        del kept


def test_an_arch_whose_engine_hangs_has_failed_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archs = sample_by_macs(SPACE, np.random.default_rng(0), 4)
    wanted = Request("run", SPACE, Target(num_classes=10), archs)
    hung = next(arch for arch in archs if arch not in wanted.anchors())
    hanging = Hanging(tmp_path, monkeypatch, "visit", hung)
    monkeypatch.setattr(supervisor, "FIRST_SAMPLES_S", 0.0)
    monkeypatch.setattr(supervisor, "STALL_S", 60.0)
    patient = functools.partial(supervisor.Supervisor, clock=hanging.clock)
    monkeypatch.setattr(local, "Supervisor", patient)
    with contextlib.closing(Store(tmp_path / "records.sqlite")) as store:
        local.profile(wanted, store)
        records = store.records("run")
    assert len(records) == 4
    (failed,) = (record for record in records if record.validity == FAILED)
    assert failed.arch == hung
    assert "said nothing for" in failed.reason


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_the_same_command_continues_where_it_was_stopped(
    how: signal.Signals, tmp_path: Path
) -> None:
    store, script = tmp_path / "records.sqlite", tmp_path / "endless.py"
    script.write_text(ENDLESS)
    command = [sys.executable, str(script), *options(store, "--samples", "5")]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        deadline_s = time.monotonic() + HANG_S
        while count(store) < 2:  # then it works on the second block for ever
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        running.send_signal(how)
        _, errors = running.communicate(timeout=HANG_S)
    assert running.returncode != 0
    assert "Traceback" not in errors
    before = {r.key: r for r in stored(store)}
    assert len(before) == 2
    ran = profile(store, "--samples", "5")
    assert ran.returncode == 0, ran.stderr
    after = {r.key: r for r in stored(store)}
    assert len(after) == 5
    assert {key: after[key] for key in before} == before  # a record never changes


def test_every_option_of_a_target_and_the_archs_of_a_file_reach_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: List[Request] = []

    def remember(request: Request, store: Store, **options: Any) -> str:
        asked.append(request)
        return "device class"

    monkeypatch.setattr(local, "profile", remember)
    monkeypatch.setattr("os.cpu_count", lambda: 2)  # for two threads
    archs = [[int(n) for n in arch.integers] for arch in (SPACE.min(), SPACE.max(), SPACE.min())]
    (tmp_path / "archs.json").write_text(json.dumps(archs))
    argv = options(
        tmp_path / "r.sqlite", "--archs", str(tmp_path / "archs.json"), "--run", "mine",
        "--task", "segmentation", "--batch", "8", "--input-size", "40x56", "--input-form", "float",
        "--threads", "2", "--engine", "tensorrt", "--precision", "int8", "--rounds", "9",
    )  # fmt: skip
    assert main(argv) == 0
    (request,) = asked
    assert (request.run, request.rounds) == ("mine", 9)
    assert set(request.archs) == {SPACE.min(), SPACE.max()} and len(request.archs) == 2
    assert request.target == Target(
        "segmentation", 10, (40, 56), image_input=False, batch=8, threads=2, engine="tensorrt",
        precision="int8",
    )  # fmt: skip


def test_a_full_disk_ends_the_command_and_keeps_what_was_committed(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(request, "BLOCK", 4)
    monkeypatch.setattr(supervisor, "FIRST_SAMPLES_S", 0.0)
    (small_disk / "filler").write_bytes(bytes(96 * 2**10))
    assert main(options(small_disk / "records.sqlite", "--samples", "200")) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: cannot write")
    assert "what was committed before is safe" in last
    assert count(small_disk / "records.sqlite") >= 1


@pytest.mark.parametrize(
    ("options_", "says"),
    [
        (["--precision", "fp16"], "runs fp32"),
        (["--engine", "tvm"], "unknown engine 'tvm'"),
        (["--rounds", "3"], "needs 8 visits"),
        (["--seed", "-1"], "--seed -1: it must be 0 or more"),
        (["--batch", "0"], "--batch 0: it must be 1 or more"),
        (["--frame", "48x64", "--batch", "2"], "one frame"),
        (["--space", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(
    options_: List[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(tmp_path / "records.sqlite", "--samples", "2", *options_)) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert out == ""
