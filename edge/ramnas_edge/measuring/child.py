"""The child process that measures: jobs come in through a pipe, visits and records go out.

It is a process of its own so that the parent can read sensors and send heartbeats while networks
are timed, and so that an engine that crashes ends only the child: the parent starts a fresh one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe

import msgspec

from ramnas_edge.measuring import messages, profiler
from ramnas_edge.measuring.record import Visit
from ramnas_models.errors import BackendError, OutOfMemoryError
from ramnas_models.signals import end_with_parent
from ramnas_models.space import Space

KILLED_S = 5.0  # a process that is killed is gone by then, unless it waits in a driver


class Child:
    """A running measuring process, with the parent's end of the pipe to it."""

    def __init__(self, space: Space) -> None:
        # Not multiprocessing: a fork would inherit the parent's threads and memory, which disturb
        # the timing, and a spawn would import the parent's main module again.
        try:
            self._pipe, other = Pipe()
            with other:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "ramnas_edge.measuring.child", str(other.fileno())],
                    pass_fds=[other.fileno()],
                )
        except OSError as error:
            raise BackendError(
                f"cannot start the process that measures: {error.strerror}; look at ulimit -a, and "
                "at the limits of this container or service"
            ) from error
        self._pipe.send_bytes(msgspec.msgpack.encode(space))

    def fileno(self) -> int:
        return self._pipe.fileno()

    def send(self, job: messages.Job) -> None:
        with contextlib.suppress(OSError):  # if the child has just died, `receive` reports it
            self._pipe.send_bytes(messages.encode(job))

    def has_sent(self) -> bool:
        """Whether `receive` would return or raise without waiting."""
        return self._pipe.poll(0)

    def receive(self) -> messages.FromChild:
        """Wait for the next message; EOFError if the process has died."""
        try:
            return messages.decode_from_child(self._pipe.recv_bytes())
        except OSError as error:
            raise EOFError from error

    def close(self, *, patience_s: float = 2.0) -> str:
        """End the process, if it is still running, and say in words how it ended.

        It is killed if it has not ended by itself after `patience_s`.
        """
        self._pipe.close()
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            try:
                code = self._process.wait(KILLED_S)
            except subprocess.TimeoutExpired:
                return "it outlives SIGKILL, so it waits in a driver of the system that hangs"
        if code == errno.ENOMEM:
            return "out of memory"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _main(pipe: Connection) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent handles them and ends this process
    end_with_parent(signal.SIGKILL)
    try:
        _measure_jobs(pipe)
    except (MemoryError, OutOfMemoryError):
        os._exit(errno.ENOMEM)  # the parent then tries each arch of the block alone
    except (EOFError, OSError):
        os._exit(0)  # the parent is gone


def _measure_jobs(pipe: Connection) -> None:
    space = msgspec.msgpack.decode(pipe.recv_bytes(), type=Space)
    while True:
        pipe.send_bytes(messages.encode(messages.Ready()))
        job = messages.decode_job(pipe.recv_bytes())
        progress = _Progress(pipe, job)
        for record in profiler.measure(job.block, space, job.device_class, on_visit=progress.send):
            pipe.send_bytes(messages.encode(messages.Measured(record)))


class _Progress:
    """Sends each visit of a job to the parent, together with the number of visits done so far."""

    def __init__(self, pipe: Connection, job: messages.Job) -> None:
        self._pipe, self._done = pipe, 0
        block = job.block
        rounds = max(block.rounds, block.most_rounds)  # the most; a quiet machine needs fewer
        self._total = rounds * (len(block.archs) + 2 * len(block.anchors))

    def send(self, visit: Visit) -> None:
        self._done += 1
        self._pipe.send_bytes(messages.encode(messages.Visited(visit, self._done, self._total)))


if __name__ == "__main__":
    _main(Connection(int(sys.argv[1])))
