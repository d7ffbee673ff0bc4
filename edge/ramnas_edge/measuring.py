"""The child process that measures: jobs in through a pipe, visits and records out.

It is a process of its own so that the agent can keep its heartbeat while a core is timed, lose the
child to a crashing engine, and start a fresh one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from typing import Union

from ramnas_edge import profiler, wire
from ramnas_edge.record import Visit


class Child:
    """A measuring process and the agent's end of its pipe."""

    def __init__(self, welcome: wire.Welcome) -> None:
        context = multiprocessing.get_context("spawn")  # no state of the agent leaks into timing
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_main, args=(other,), daemon=True)
        self._process.start()
        other.close()
        self._pipe.send_bytes(wire.encode(welcome))

    def fileno(self) -> int:
        return self._pipe.fileno()

    def send(self, job: wire.Job) -> None:
        self._pipe.send_bytes(wire.encode(job))

    def has_sent(self) -> bool:
        """Whether `receive` would return, or raise, at once."""
        return self._pipe.poll()

    def receive(self) -> wire.FromBoard:
        """The next message; EOFError if the process died."""
        try:
            return wire.decode_from_board(self._pipe.recv_bytes())
        except OSError as error:
            raise EOFError from error

    def close(self) -> Union[int, None]:
        """End the process; its exit code, negative for a signal."""
        self._pipe.close()
        self._process.join(timeout=2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        return self._process.exitcode


def _main(pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's to handle
    try:
        _measure_jobs(pipe)
    except (EOFError, OSError):
        os._exit(0)  # the agent is gone


def _measure_jobs(pipe: Connection) -> None:
    welcome = wire.decode_from_host(pipe.recv_bytes())
    assert isinstance(welcome, wire.Welcome)
    while True:
        pipe.send_bytes(wire.encode(wire.Ready()))
        job = wire.decode_from_host(pipe.recv_bytes())
        assert isinstance(job, wire.Job)
        report = _Report(pipe, job)
        for record in profiler.measure(
            job.block, welcome.space, job.device_class, on_visit=report.visit
        ):
            pipe.send_bytes(wire.encode(wire.Measured(record)))


class _Report:
    """Sends each visit of a job, with how far the job is."""

    def __init__(self, pipe: Connection, job: wire.Job) -> None:
        self._pipe, self._done = pipe, 0
        block = job.block
        self._total = block.rounds * (len(block.archs) + 2 * len(block.anchors))

    def visit(self, visit: Visit) -> None:
        self._done += 1
        self._pipe.send_bytes(wire.encode(wire.Visited(visit, self._done, self._total)))
