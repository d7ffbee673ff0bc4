"""Progress on stderr: lines in a log, JSON for programs, a bar on a terminal, nothing twice."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

import pytest

pytest.importorskip("torch")

from ramnas_host.cli import progress
from ramnas_host.cli.progress import bar


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_log_gets_a_line_after_every_epoch_and_every_30_s(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with bar("train", 200, epochs=2) as update:
        for step in range(1, 201):
            clock.now += 1
            update(step, f"loss {step}")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train: 0 of 200"
    steps = [int(re.match(r"train: (\d+) of 200", line)[1]) for line in lines]  # type: ignore[index]
    assert steps == [0, 30, 60, 90, 100, 130, 160, 190, 200]
    assert lines[1].startswith("train: 30 of 200, epoch 1 of 2, loss 30, expected end 2")
    assert lines[1].endswith("(in 3 min)")
    assert lines[-1] == "train: 200 of 200, epoch 2 of 2, loss 200"


def test_the_last_line_of_a_log_says_what_was_done(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with bar("scenes", 12) as update:
        for done in range(1, 13):
            update(done)
    assert capsys.readouterr().err.splitlines() == ["scenes: 0 of 12", "scenes: 12 of 12"]


def test_a_run_that_goes_on_expects_its_end_by_its_own_pace(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with bar("train", 2000) as update:
        update(1000)
        clock.now += 60
        update(1010)
    assert "(in 1 h 39 min)" in capsys.readouterr().err.splitlines()[1]


def test_a_note_alone_keeps_what_is_done(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with bar("search", 8) as update:
        update(3, "NSGA-II")
        clock.now += 31
        update(note="measured 2/40")
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "search: 3 of 8, measured 2/40"


def test_programs_get_a_line_of_json_for_every_update(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with bar("train", 3, json_lines=True) as update:
        for step in (1, 2, 3):
            clock.now += 2
            update(step, "a note", {"step": step, "loss": 0.5, "score": float("nan")})
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["step"] for line in found] == [1, 2, 3]
    assert [line["left_s"] for line in found] == [None, 2.0, 0.0]
    assert found[0] == {
        "name": "train", "done": 1, "total": 3, "note": "a note", "left_s": None,
        "step": 1, "loss": 0.5, "score": None,
    }  # fmt: skip


def test_a_process_that_does_not_lead_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for json_lines in (False, True):
        with bar("train", 3, shown=False, json_lines=json_lines) as update:
            update(3, "note", {"step": 3})
    assert capsys.readouterr().err == ""


CODE = f"""
import sys
sys.path[:0] = {sys.path!r}
from ramnas_host.cli.progress import bar
with bar("train", 2, epochs=2) as update:
    update(1)
    update(2)
"""


def test_a_pipe_gets_plain_lines_even_where_colours_are_forced() -> None:
    """GitHub's and GitLab's runners set FORCE_COLOR, and rich then paints its bar into the log."""
    env = {**os.environ, "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=env)
    assert ran.stderr == "train: 0 of 2\ntrain: 1 of 2, epoch 1 of 2\ntrain: 2 of 2, epoch 2 of 2\n"


def test_a_log_that_cannot_be_written_does_not_end_the_work() -> None:
    with open("/dev/full", "w") as full:  # every write fails as on a full disk
        code = f"{CODE}\nprint('all done')\nimport os; sys.stdout.flush(); os._exit(0)"
        ran = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full)
    assert ran.stdout == b"all done\n"


def test_a_terminal_gets_a_bar() -> None:
    ours, theirs = pty.openpty()
    ran = subprocess.run(
        [sys.executable, "-c", CODE], stderr=theirs, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # the end of a terminal
        pass
    os.close(ours)
    assert ran.returncode == 0
    assert b"\x1b[" in shown
    assert b"2/2" in shown
