"""One lock per board, so that two processes do not measure at once: they would time each other.

The lock is the name of an abstract unix socket (unix(7)). It is the same for all users and folders
of a machine, needs no file or permission, and the kernel frees it when its holder ends, also after
kill -9. A container has such names to itself unless it runs in the network of its host
(`docker --network host`): processes in different networks do not see each other's lock.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import struct
import time
from pathlib import Path
from typing import Callable, NamedTuple, Optional

log = logging.getLogger(__name__)
# the variable is for the tests of ramnas alone: each process of them has a board of its own
NAME = "\0ramnas.measuring" + os.environ.get("RAMNAS_TEST_BOARD", "")
TURN_S = 1.0  # who has given the lock back to others that wait leaves them so long to take it
LOOK_S = 0.5  # those who wait look again this often, or more often
_WAITING = 64  # connections of waiting processes that the kernel keeps
_UCRED = struct.Struct("iII")  # pid, uid, gid


class _Peer(NamedTuple):
    """The process at the other end of a socket; `pid` is 0 if it is in a container and hidden."""

    pid: int
    uid: int


class BoardLock:
    """Held while this process measures. `take` never waits: call it again within LOOK_S.

    A process that waits keeps a connection to the holder's socket. So the holder knows that others
    wait, and lets them have their turn before it takes the lock again.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: Optional[socket.socket] = None
        self._queued: Optional[socket.socket] = None  # the connection to the holder, while waiting
        self._turn_s = 0.0  # until then it is the turn of others
        self._works = True

    def take(self) -> bool:
        """Take the lock, or keep it; False while another process has it.

        A process that has the lock may take it by another object too: it never waits for itself.
        Where the system has no such sockets, a warning is logged once and the lock counts as held.
        """
        if self._held or not self._works:
            return True
        if self._clock() < self._turn_s:
            return False
        try:
            own = _bound()
        except OSError as error:
            self._works = False
            log.warning(
                "two processes that measure here at once will not notice: %s", error.strerror
            )
            return True
        if own is None:
            self._queue()
            return self._queued is not None and _peer(self._queued).pid == os.getpid()
        own.setblocking(False)
        self._held = own
        self._leave_queue()
        return True

    def release(self) -> None:
        """Give the lock back if it is held, or stop waiting for it."""
        self._leave_queue()
        if not self._held:
            return
        others = False
        with contextlib.suppress(OSError):  # until no more connections wait
            while True:
                other, _ = self._held.accept()
                others = _is_open(other) or others
                other.close()
        self._held.close()
        self._held = None
        if others:
            self._turn_s = self._clock() + TURN_S

    def _queue(self) -> None:
        if self._queued and _is_open(self._queued):
            return
        self._leave_queue()
        self._queued = _connected()

    def _leave_queue(self) -> None:
        if self._queued:
            self._queued.close()
        self._queued = None


def holder() -> Optional[str]:
    """Who measures on this board now, such as `process 1234 (ramnas-edge agent)`; None if nobody.

    The command is shown only if this user may see it, the user only if it is another one, and the
    process only if it is not in another container.
    """
    connection = _connected()
    if connection is None:
        return None
    with connection:
        peer = _peer(connection)
    if peer.pid == 0:
        return "a process in another container"
    command = _command(peer.pid)
    stopped = "which is stopped: continue it with fg or kill -CONT" if _is_stopped(peer.pid) else ""
    owner = f"of user {peer.uid}" if peer.uid != os.getuid() else ""
    known = ", ".join(filter(None, (command, owner, stopped)))
    return f"process {peer.pid}" + (f" ({known})" if known else "")


def _bound() -> Optional[socket.socket]:
    """A socket that has the name of the lock; None if another one has it.

    OSError where there are no such sockets, as in a service with RestrictAddressFamilies=AF_INET.
    """
    with contextlib.ExitStack() as opened:
        own = opened.enter_context(socket.socket(socket.AF_UNIX))
        try:
            own.bind(NAME)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return None
            raise
        own.listen(_WAITING)
        opened.pop_all()
    return own


def _connected() -> Optional[socket.socket]:
    """A connection to the holder of the lock; None if there is no holder."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
        connection = opened.enter_context(socket.socket(socket.AF_UNIX))
        connection.setblocking(False)
        connection.connect(NAME)
        opened.pop_all()
        return connection
    return None


def _peer(connection: socket.socket) -> _Peer:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return _Peer(*_UCRED.unpack(credentials)[:2])


def _is_open(connection: socket.socket) -> bool:
    """Whether the other side has not closed its end; nothing is ever sent."""
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _is_stopped(pid: int) -> bool:
    """Whether a process was stopped, as by Ctrl-Z: it then keeps the lock and does nothing."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1]
    except OSError:
        return False
    return state in (b"T", b"t")


def _command(pid: int) -> str:
    """The program that a process runs and, if it is one of ours, its verb."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    names = [os.path.basename(word) for word in words]
    for name, verb in zip(names, names[1:]):
        if name.replace("_", "-") in ("ramnas-edge", "ramnas-host", "ramnas"):
            return f"{name.replace('_', '-')} {verb}".strip()
    return names[0]
