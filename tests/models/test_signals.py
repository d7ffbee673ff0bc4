"""A process that is asked to end: once as Ctrl-C does, and at once when somebody insists."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import List

import pytest

from ramnas_models import signals
from ramnas_models.signals import Stopped, stoppable, whole

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


pytestmark = pytest.mark.usefixtures("default_signals")


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ASKING)
def test_a_signal_raises_what_ctrl_c_raises_and_only_once(number: int) -> None:
    def work() -> None:
        try:
            send(number)
        finally:
            send(signal.SIGTERM)  # a parent and a terminal may both send one: cleaning up goes on

    with stoppable() as ending, pytest.raises(KeyboardInterrupt) as raised:
        work()
    assert ending.number == number
    assert isinstance(raised.value, Stopped) == (number != signal.SIGINT)
    if isinstance(raised.value, Stopped):
        assert str(raised.value) == f"ended by {signal.Signals(number).name}"


@pytest.mark.parametrize("number", ASKING)
def test_a_block_is_done_as_a_whole_and_then_raises(number: int) -> None:
    done: List[str] = []

    def step() -> None:
        with whole(), whole():
            send(number)
            done.append("the rest of the step")
        done.append("more")

    with stoppable(), pytest.raises(KeyboardInterrupt):
        step()
    assert done == ["the rest of the step"]
    with whole():  # outside of `stoppable` nothing is held back
        done.append("more")


def test_an_error_in_a_block_comes_before_the_signal() -> None:
    def work() -> None:
        with whole():
            send(signal.SIGTERM)
            raise KeyError

    with stoppable() as ending, pytest.raises(KeyError):
        work()
    assert ending.number == signal.SIGTERM


def test_what_the_program_handles_or_ignores_is_left_to_it() -> None:
    """nohup ignores SIGHUP, and a program that imports ramnas may handle SIGTERM."""
    heard: List[int] = []
    before = {number: signal.getsignal(number) for number in ASKING}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
        with stoppable() as ending:
            send(signal.SIGHUP)
            send(signal.SIGTERM)
        assert (heard, ending.number) == ([signal.SIGTERM], None)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    with stoppable(), stoppable():
        pass
    assert {number: signal.getsignal(number) for number in ASKING} == before


def test_a_signal_that_the_parent_has_blocked_ends_the_process_too() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
    try:
        with stoppable() as ending:
            with pytest.raises(Stopped):
                send(signal.SIGTERM)
            assert signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert ending.number == signal.SIGTERM
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGUSR1])


def test_another_thread_changes_no_signal() -> None:
    found: List[object] = []

    def work() -> None:
        with stoppable():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


PROGRAM = """
import os, signal, sys, time
from ramnas_models import signals

signals.INSIST_S = 0.0
with signals.stoppable():
    {body}
"""


def ran(body: str) -> subprocess.CompletedProcess[str]:
    code = PROGRAM.format(body=body)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("number", ASKING)
def test_whoever_insists_ends_the_process_at_once(number: int) -> None:
    hanging = (
        f"with signals.whole('wait'):\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        f"        time.sleep(0.01)\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        f"        time.sleep(3600)"
    )
    ended = ran(hanging)
    assert ended.returncode == 128 + number
    assert ended.stderr == "\nwait; the same signal again ends at once\n"


def test_a_program_that_does_not_catch_it_exits_with_143_and_without_a_traceback() -> None:
    ended = ran("os.kill(os.getpid(), signal.SIGTERM)")
    assert (ended.returncode, ended.stderr) == (143, "")


def test_a_forked_worker_ends_by_itself_and_its_parent_goes_on() -> None:
    """As the workers of a DataLoader, which have the handlers of their parent."""
    body = (
        "child = os.fork()\n"
        "    if not child:\n"
        "        signal.pause()\n"
        "    time.sleep(0.2)\n"
        "    os.kill(child, signal.SIGTERM)\n"
        "    print(os.waitpid(child, 0)[1])"
    )
    ended = ran(body)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"{int(signal.SIGTERM)}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_child_can_end_with_its_parent() -> None:
    child = (
        "import signal, sys; from ramnas_models.signals import end_with_parent; "
        "end_with_parent(signal.SIGKILL); print('ready', flush=True); signal.pause()"
    )
    parent = (
        "import subprocess, sys, time; "
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(3600)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    assert process.stdout.read() == b""  # the pipe ends when the child has ended too
    process.wait()
    process.stdout.close()


def test_a_system_that_knows_no_such_request_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals.ctypes, "CDLL", lambda name: object())
    signals.end_with_parent(signal.SIGKILL)
