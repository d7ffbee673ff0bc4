"""Signals that ask this process to end: SIGTERM and SIGHUP then end it as Ctrl-C does.

`docker stop`, systemd and torchrun send SIGTERM, and a terminal that is closed sends SIGHUP. Python
alone dies of both where it stands: videos stay unfinished and child processes stay behind. And as
process 1 of a container it would not even notice SIGTERM.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from types import FrameType
from typing import Iterator, List, Optional

INSIST_S = 1.0  # a signal that comes so long after the first one ends the process at once
_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1


class Stopped(KeyboardInterrupt, SystemExit):
    """SIGTERM or SIGHUP asked this process to end.

    What cleans up after Ctrl-C cleans up after this too. A program that does not catch it exits
    with code 128 + the signal, as shells report it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.code = 128 + number
        self.number = number

    def __str__(self) -> str:
        return f"ended by {signal.Signals(self.number).name}"


class Ending:
    """Whether this process was asked to end: `number` is the first signal that did so, or None."""

    def __init__(self) -> None:
        self.number: Optional[int] = None
        self.at_once = True  # False inside `whole`
        self.notice = ""
        self._process, self._since_s = os.getpid(), 0.0

    def handle(self, number: int, frame: Optional[FrameType]) -> None:
        """Raise at the first signal, and end hard when somebody insists.

        In between nothing happens: a terminal and a parent process may both send a signal.
        """
        if os.getpid() != self._process:
            _in_forked_child(number)
            return
        now = time.monotonic()
        if self.number is not None:
            if now - self._since_s > INSIST_S:
                os._exit(128 + number)
            return
        self.number, self._since_s = number, now
        if self.at_once:
            raise self.exception(number)
        if self.notice:
            with contextlib.suppress(OSError):  # print could be in the middle of a line
                os.write(2, f"\n{self.notice}; the same signal again ends at once\n".encode())

    @staticmethod
    def exception(number: int) -> KeyboardInterrupt:
        return KeyboardInterrupt() if number == signal.SIGINT else Stopped(number)


_endings: List[Ending] = []  # of the blocks of `stoppable` that this process is in


@contextlib.contextmanager
def stoppable() -> Iterator[Ending]:
    """Inside, SIGINT raises KeyboardInterrupt, and SIGTERM and SIGHUP raise Stopped, once.

    A signal that the program handles or ignores itself, as nohup ignores SIGHUP, is left as it is.
    One that is blocked is not, because a process inherits that from a parent that blocks signals
    for itself. Only the main thread can handle signals, so in another one nothing changes.
    """
    ending, defaults = Ending(), (signal.SIG_DFL, signal.default_int_handler)
    ours = []
    if threading.current_thread() is threading.main_thread():
        ours = [(number, signal.getsignal(number)) for number in _ASKING]
        ours = [(number, handler) for number, handler in ours if handler in defaults]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    blocked = [number for number, _ in ours if number in mask]
    try:
        if ours:
            _endings.append(ending)
        for number, _ in ours:
            signal.signal(number, ending.handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        yield ending
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        for number, handler in ours:
            signal.signal(number, handler)
        if ours:
            _endings.pop()


@contextlib.contextmanager
def whole(notice: str = "") -> Iterator[None]:
    """Inside `stoppable`, have this block done as a whole: a signal raises at its end.

    For a block that takes long, `notice` says then on stderr what is waited for.
    """
    ending = _endings[-1] if _endings else Ending()
    if not ending.at_once or ending.number is not None:
        yield
        return
    ending.at_once, ending.notice = False, notice
    try:
        yield
    finally:
        ending.at_once = True
    if ending.number is not None:
        raise ending.exception(ending.number)


def end_with_parent(number: int) -> None:
    """Have the system send the signal `number` to this process when its parent ends, in any way."""
    with contextlib.suppress(AttributeError, OSError):  # only Linux can do that
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _in_forked_child(number: int) -> None:
    """A worker process ends by what its parent does, unless the signal is for the worker alone."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
