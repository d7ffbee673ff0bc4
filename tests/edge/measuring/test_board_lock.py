"""One process at a time measures on a board; the others wait, say for whom, and have their turn."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

from ramnas_edge.board.device import this_device
from ramnas_edge.measuring import board_lock
from ramnas_edge.measuring.board_lock import BoardLock, holder
from ramnas_edge.measuring.store import Store

HANG_S = 120  # only a hang lasts so long

# a program with a lock of this test's own, so that tests which run beside it do not matter
OWN = "import sys\nfrom ramnas_edge.measuring import board_lock\nboard_lock.NAME = {name!r}\n"
HOLD = """
import os, time
if len(sys.argv) > 1:
    os.setuid(int(sys.argv[1]))
lock = board_lock.BoardLock()
while not lock.take():
    print("waiting", flush=True)
    time.sleep(0.05)
print("held", flush=True)
sys.stdin.read()
"""
EDGE = """
from ramnas_edge.__main__ import main
if __name__ == "__main__":
    sys.exit(main())
"""

Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def name(monkeypatch: pytest.MonkeyPatch) -> str:
    own = f"\0ramnas.test.{os.getpid()}"
    monkeypatch.setattr(board_lock, "NAME", own)
    return own


@pytest.fixture
def run(name: str, tmp_path: Path) -> Iterator[Run]:
    """Starts a program with the lock of this test; none outlives the test."""
    started: List[subprocess.Popen[str]] = []

    def start(program: str, *arguments: str) -> subprocess.Popen[str]:
        script = tmp_path / ("ramnas-edge" if program is EDGE else "holder")
        script.write_text(OWN.format(name=name) + program)
        started.append(
            subprocess.Popen(
                [sys.executable, str(script), *arguments], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def hold(run: Run, *arguments: str) -> subprocess.Popen[str]:
    process = run(HOLD, *arguments)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + HANG_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def profile(run: Run, store: Path) -> subprocess.Popen[str]:
    return run(
        EDGE, "profile", "--space", "micro", "--classes", "10", "--samples", "2",
        "--store", str(store),
    )  # fmt: skip


def line_with(process: subprocess.Popen[str], text: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"it ended without a line with '{text}'")


def test_a_killed_holder_frees_the_lock(run: Run) -> None:
    holding, lock = hold(run), BoardLock()
    assert not lock.take()
    assert holder() == f"process {holding.pid} ({Path(sys.executable).name})"
    holding.send_signal(signal.SIGSTOP)
    until(lambda: "which is stopped: continue it with fg" in str(holder()))
    holding.kill()
    until(lock.take)
    lock.release()
    assert holder() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_process_of_another_user_is_waited_for_too(run: Run) -> None:
    holding, lock = hold(run, "65534"), BoardLock()
    assert not lock.take()
    assert str(holder()).startswith(f"process {holding.pid} (")
    assert "of user 65534" in str(holder())
    lock.release()


def test_a_process_does_not_wait_for_itself() -> None:
    outer, inner = BoardLock(), BoardLock()
    assert outer.take()
    assert outer.take()
    assert inner.take()
    inner.release()
    assert holder() is not None  # the outer one has it still
    outer.release()
    assert holder() is None


def test_who_gives_the_lock_back_lets_those_that_wait_have_their_turn(run: Run) -> None:
    lock = BoardLock()
    assert lock.take()
    waiting = run(HOLD)
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "waiting\n"
    lock.release()
    assert not lock.take()
    assert "held\n" in waiting.stdout
    waiting.kill()
    until(lock.take)
    lock.release()


def test_without_waiting_processes_the_lock_can_be_taken_again_at_once() -> None:
    lock = BoardLock()
    for _ in range(200):  # looking who holds it does not count as waiting
        assert lock.take()
        assert holder() is not None
        lock.release()


@pytest.mark.parametrize("refused", ["the name", "the family, as by a service of systemd"])
def test_a_system_without_such_sockets_measures_with_a_warning(
    refused: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if refused == "the name":
        monkeypatch.setattr(board_lock, "NAME", "\0" + 200 * "n")
    else:

        def no_socket(family: int) -> None:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

        monkeypatch.setattr(socket, "socket", no_socket)
    lock = BoardLock()
    assert holder() is None
    assert lock.take()
    assert lock.take()
    lock.release()
    (warning,) = caplog.messages
    assert "two processes that measure here at once will not notice" in warning


def test_profile_waits_says_for_whom_and_goes_on(run: Run, tmp_path: Path) -> None:
    holding = hold(run)
    store = tmp_path / "records.sqlite"
    waiting = profile(run, store)
    said = line_with(waiting, "waiting")
    assert f"waiting for process {holding.pid} (" in said
    time.sleep(1.0)
    assert waiting.poll() is None
    holding.kill()
    out, errors = waiting.communicate(timeout=HANG_S)
    assert waiting.returncode == 0, errors
    assert "waiting" not in errors  # it was said once
    assert "2 ok" in out or "inconclusive" in out
    device_class = this_device().class_key("onnxruntime-cpu", _version())
    assert len(Store(store).records("profile", device_class)) == 2


def test_two_profiles_at_once_take_turns_and_both_end(run: Run, tmp_path: Path) -> None:
    both = [profile(run, tmp_path / f"{i}.sqlite") for i in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=HANG_S)
        assert process.returncode == 0, errors
        assert errors.count("waiting for process") <= 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_waits_can_be_ended(run: Run, tmp_path: Path, number: int) -> None:
    hold(run)
    waiting = profile(run, tmp_path / "records.sqlite")
    line_with(waiting, "waiting")
    waiting.send_signal(number)
    waiting.communicate(timeout=HANG_S)
    assert waiting.returncode in (130, 143, -number)


def _version() -> str:
    from ramnas_edge.engines import backends

    return backends.load("onnxruntime-cpu").version
