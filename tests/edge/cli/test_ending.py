"""How commands end: by a signal, without a reader, on a full disk, with any characters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import List

import cv2
import psutil
import pytest

from ramnas_edge.cli.terminal import guarded

pytestmark = pytest.mark.usefixtures("default_signals")
GONE_S = 60.0  # a process that was told to end has ended by then, on the busiest machine


def command(*argv: str) -> List[str]:
    return [sys.executable, "-m", "ramnas_edge", *argv]


def group(leader: int) -> List[psutil.Process]:
    """The living processes of a process group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def measures(leader: int) -> bool:
    """Whether the process group has a process that measures.

    Python 3.8 starts others too, such as `uname`, before the command handles signals.
    """
    for process in group(leader):
        try:
            if "ramnas_edge.measuring.child" in process.cmdline():
                return True
        except psutil.NoSuchProcess:
            continue
    return False


def nobody_is_left(leader: int) -> bool:
    deadline_s = time.monotonic() + GONE_S
    while group(leader):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 0)]
)
def test_a_run_that_is_ended_finishes_its_video_and_says_what_it_did(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    video = tmp_path / "saved/o.avi"
    with (tmp_path / "stderr").open("w") as stderr:
        running = subprocess.Popen(
            command("run", "--repeat", "1000000", "--save", str(video), "--json"),
            stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True,
        )  # fmt: skip
    assert running.stdout
    lines = [running.stdout.readline()]  # it has begun
    running.send_signal(number)
    lines += running.stdout.readlines()
    running.stdout.close()
    errors = (tmp_path / "stderr").read_text()
    assert running.wait() == code, errors
    assert "Traceback" not in errors
    assert (f"ended by {number.name}" in errors) == (code != 0)
    frames = json.loads(lines[-1])["summary"]["frames"]
    assert frames == len(lines) - 1
    reader = cv2.VideoCapture(str(video))
    assert sum(1 for _ in iter(reader.grab, False)) == frames
    reader.release()
    assert [p.name for p in video.parent.iterdir()] == ["o.avi"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_measuring_process_stays_behind(number: signal.Signals, tmp_path: Path) -> None:
    running = subprocess.Popen(
        command("profile", "--space", "micro", "--samples", "40", "--run", "r",
                "--store", str(tmp_path / "r.sqlite")),
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert running.stderr
    deadline_s = time.monotonic() + GONE_S
    while not measures(running.pid):
        assert running.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    running.send_signal(number)
    errors = running.stderr.read()
    running.stderr.close()
    code = running.wait()
    assert code == (-number if number == signal.SIGKILL else 128 + number), errors
    assert "Traceback" not in errors
    assert nobody_is_left(running.pid)


def test_a_library_that_makes_another_error_of_a_signal_hides_nothing(capsys: object) -> None:
    def imports() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("numpy.core.multiarray failed to import") from None

    assert guarded(imports) == 143


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: print(1 // 0))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "/x"), "error: /x: Permission denied"),
        (OSError(28, "No space left"), "error: reading or writing failed: No space left"),
        (MemoryError(), "error: out of memory; end other programs, or ask for less at a time"),
    ],
)
def test_an_error_of_the_system_is_one_line_and_exit_code_2(
    error: BaseException, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise error

    assert guarded(fails) == 2
    assert capsys.readouterr().err == line + "\n"


PRINTS = """
import sys
from ramnas_edge.cli.terminal import guarded
def prints():
    for _ in range(100_000):
        print(sys.argv[1])
sys.exit(guarded(prints))
"""


def test_a_reader_that_has_enough_ends_the_command_quietly() -> None:
    running = subprocess.Popen(
        [sys.executable, "-c", PRINTS, "x" * 100], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdout and running.stderr
    running.stdout.read(10)
    running.stdout.close()
    assert running.stderr.read() == b""
    assert running.wait() == 128 + signal.SIGPIPE
    running.stderr.close()


@pytest.mark.parametrize("length", [0, 100])
def test_what_cannot_be_written_is_said(length: int) -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-c", PRINTS.replace("100_000", "1") if not length else PRINTS,
             "x" * length],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert "No space left on device" in ran.stderr


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("ascii", r"\u732b \ud83d\ude00 a\udcff"),
        ("latin-1", r"\u732b \ud83d\ude00 a\udcff"),
        ("utf-8", r"猫 😀 a\udcff"),
    ],
)
def test_any_name_can_be_printed_and_stays_json(encoding: str, printed: str) -> None:
    """Of a file whose name is not UTF-8 as well."""
    name = os.fsdecode("猫 😀 a".encode() + b"\xff")
    ran = subprocess.run(
        [sys.executable, "-c", PRINTS.replace("100_000", "1"), f'"{name}"'],
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert ran.stderr == b""
    assert ran.stdout.decode(encoding) == f'"{printed}"\n'
    assert json.loads(ran.stdout.decode(encoding)) == name


def test_without_stdout_and_stderr_nothing_fails() -> None:
    ran = subprocess.run(["sh", "-c", '"$0" -c "$1" x >&- 2>&-', sys.executable, PRINTS])
    assert ran.returncode == 0
