"""`ramnas-edge profile` as a real process: it goes on where it was stopped, and loses nothing."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ramnas_edge.measuring import local
from ramnas_edge.measuring.drift import corrected_ms
from ramnas_edge.measuring.local import Progress
from ramnas_edge.measuring.record import INCONCLUSIVE, OK, Target
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.store import Store
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import load_space

SPACE = load_space("micro")


def command(store: Path, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "ramnas_edge", "profile", "--space", "micro", "--classes", "10",
        "--store", str(store), *options,
    ]  # fmt: skip


def profile(store: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(store, *options), capture_output=True, text=True, timeout=300)


def kept(store: Path) -> int:
    try:
        return sqlite3.connect(store).execute("SELECT COUNT(*) FROM records").fetchone()[0]
    except sqlite3.OperationalError:  # not there yet
        return 0


def test_measures_here_and_says_where_the_records_are(tmp_path: Path) -> None:
    ran = profile(tmp_path / "records.sqlite", "--samples", "5")
    assert ran.returncode == 0, ran.stderr
    assert f"records: run 'profile' in {tmp_path / 'records.sqlite'}" in ran.stdout
    records = Store(tmp_path / "records.sqlite").records("profile")
    assert len(records) == 5
    assert {SPACE.min(), SPACE.max()} <= {r.arch for r in records}
    found = corrected_ms(records)
    assert found[SPACE.min().id] < found[SPACE.max().id]
    for record in records:
        assert record.device is not None
        assert record.device_class == record.device.class_key(
            "onnxruntime-cpu", record.engine_version
        )
        assert set(record.stages_ms) == {"copy_in", "run", "copy_out"}


def test_progress_never_steps_back(tmp_path: Path) -> None:
    seen: list[Progress] = []
    archs = sample_by_macs(SPACE, np.random.default_rng(0), 14)  # two blocks
    request = Request("run", SPACE, Target(num_classes=10), archs)
    local.profile(request, Store(tmp_path / "records.sqlite"), on_progress=seen.append)
    shares = [p.done + p.inside for p in seen]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1], seen[-1].done) == (0, 14, 14)
    assert len(set(shares)) > 100


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_the_same_command_goes_on_where_it_was_stopped(how: signal.Signals, tmp_path: Path) -> None:
    store = tmp_path / "records.sqlite"
    running = subprocess.Popen(
        command(store, "--samples", "26"), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while kept(store) < 12:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(how)
    _, errors = running.communicate(timeout=30)
    assert running.returncode != 0
    assert "Traceback" not in errors
    before = {r.key: r for r in Store(store).records("profile")}
    assert 12 <= len(before) < 26
    ran = profile(store, "--samples", "26")
    assert ran.returncode == 0, ran.stderr
    after = {r.key: r for r in Store(store).records("profile")}
    assert len(after) == 26
    assert {key: after[key] for key in before} == before  # a record never changes


def test_archs_of_a_file_with_every_option_of_a_target(tmp_path: Path) -> None:
    archs = [[int(n) for n in arch.integers] for arch in (SPACE.min(), SPACE.max(), SPACE.min())]
    (tmp_path / "archs.json").write_text(json.dumps(archs))
    ran = profile(
        tmp_path / "r.sqlite", "--archs", str(tmp_path / "archs.json"), "--run", "mine",
        "--batch", "8", "--input-size", "40x56", "--input-form", "float", "--threads", "2",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    records = Store(tmp_path / "r.sqlite").records("mine")
    assert len(records) == 2
    assert {r.validity for r in records} <= {OK, INCONCLUSIVE}
    expected = Target(num_classes=10, input_hw=(40, 56), image_input=False, batch=8, threads=2)
    assert {r.target for r in records} == {expected}


def test_a_full_disk_stops_with_what_is_safe(small_disk: Path) -> None:
    ran = profile(small_disk / "records.sqlite", "--samples", "200")
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1].startswith("error: cannot write")
    assert "what was committed before is safe" in ran.stderr
    assert kept(small_disk / "records.sqlite") >= 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--precision", "fp16"], "runs fp32"),
        (["--engine", "tvm"], "unknown engine 'tvm'"),
        (["--rounds", "3"], "needs 8 visits"),
        (["--batch", "0"], "--batch 0: it must be 1 or more"),
        (["--frame", "48x64", "--batch", "2"], "one frame"),
        (["--space", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(
    options: list[str], says: str, tmp_path: Path
) -> None:
    ran = profile(tmp_path / "records.sqlite", "--samples", "2", *options)
    assert ran.returncode == 2, ran.stdout
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert says in line
