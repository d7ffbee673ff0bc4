"""Parts of fleet_faults: processes that can be killed, agents with a stand-in profiler, proxies.

A proxy cuts, delays, doubles or reorders the messages of one agent.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import zmq

from ramnas_edge.board.device import Device
from ramnas_edge.board.telemetry import Telemetry
from ramnas_edge.fleet import agent
from ramnas_edge.measuring import messages, profiler
from ramnas_edge.measuring.record import LatencyRecord, Visit, statistics
from ramnas_models.space import Space

ROUNDS, RUNS = 8, 6
ENGINES = (("onnxruntime-cpu", "1.0"),)


class StandIn:
    """Takes the place of an agent's `Supervisor`: needs `arch_s` for an arch, and makes up times.

    Each record is written to a journal before the agent gets it.
    """

    arch_s = 0.1
    waits_for = ""
    journal: BinaryIO

    def __init__(self, space: Space, device: Device, telemetry: Telemetry) -> None:
        self._space, self._device = space, device
        self._jobs: list[messages.Job] = []
        self._left: list[Any] = []
        self._visits = 0
        self._due_s = 0.0
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._timer: threading.Timer | None = None

    def fileno(self) -> int:
        return self._read

    def submit(self, job: messages.Job) -> None:
        self._jobs.append(job)
        self._arm()

    def drop(self, job_id: str) -> None:
        if self._jobs and self._jobs[0].block.id == job_id:
            self._left = []
        self._jobs = [job for job in self._jobs if job.block.id != job_id]

    def step(self) -> list[messages.Visited | messages.Measured]:
        if select.select([self._read], [], [], 0)[0]:
            os.read(self._read, 64)
        if not self._jobs or time.monotonic() < self._due_s:
            return []
        job = self._jobs[0]
        archs = job.block.archs
        self._arm()
        if self._visits < len(archs):  # first progress, then all records of the block together
            self._visits += 1
            visit = Visit(archs[self._visits - 1].id, job.block.id, 0, 1, (1.0,))
            return [messages.Visited(visit, self._visits, len(archs))]
        self._visits = 0
        self._jobs.pop(0)
        return [messages.Measured(self._record(job, arch)) for arch in archs]

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def _arm(self) -> None:
        self._due_s = time.monotonic() + self.arch_s
        self._timer = threading.Timer(self.arch_s, self._wake)
        self._timer.daemon = True
        self._timer.start()

    def _wake(self) -> None:
        try:
            os.write(self._write, b".")
        except OSError:  # the pipe is closed, or so full that it wakes the agent anyway
            return

    def _record(self, job: messages.Job, arch: Any) -> LatencyRecord:
        rng = random.Random()  # without a seed, so that no two measurements are equal
        visits = tuple(
            Visit(arch.id, job.block.id, i, 1, tuple(rng.uniform(1, 2) for _ in range(RUNS)))
            for i in range(ROUNDS)
        )
        blank = profiler.failed(job.block, arch, self._space, job.device_class, "")
        record = msgspec.structs.replace(
            blank, validity="ok", visits=visits, device=self._device, **statistics(visits)
        )
        self.journal.write(msgspec.json.encode(record) + b"\n")
        self.journal.flush()
        return record


def serve(args: argparse.Namespace) -> None:
    """Run the real agent with the stand-in."""
    StandIn.arch_s, StandIn.journal = args.arch_s, args.journal.open("ab")
    agent.Supervisor = StandIn
    agent.this_device = lambda: Device(args.module, 4, 8, "Linux")
    agent.backends.available = lambda: ENGINES
    agent.serve(args.endpoint, name=args.name, spool=args.spool)


class Proxy:
    """Passes messages between one agent and the host; `trouble` says what it does wrong."""

    def __init__(self, name: str, host_port: int, seed: int) -> None:
        self.name, self._host_port, self._rng = name, host_port, random.Random(seed)
        self.port = free_port()
        self.trouble = ""  # cut, delay, double or reorder
        self.passed = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        context = zmq.Context()
        while not self._ended.is_set():
            self._while_connected(context)
            while self.trouble == "cut" and not self._ended.is_set():
                time.sleep(0.02)
        context.destroy(linger=0)

    def _while_connected(self, context: zmq.Context) -> None:
        """Make both connections, and pass messages until they are cut."""
        near, far = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        far.setsockopt(zmq.IDENTITY, self.name.encode())
        near.setsockopt(zmq.ROUTER_HANDOVER, 1)
        bind(near, f"tcp://127.0.0.1:{self.port}")
        far.connect(f"tcp://127.0.0.1:{self._host_port}")
        waiting: list[tuple[float, int, zmq.Socket, list[bytes]]] = []
        poller = zmq.Poller()
        poller.register(near, zmq.POLLIN)
        poller.register(far, zmq.POLLIN)
        while self.trouble != "cut" and not self._ended.is_set():
            for source, _ in poller.poll(5 if waiting else 50):
                message = [source.recv_multipart()[-1]]
                to = far if source is near else near
                if to is near:
                    message.insert(0, self.name.encode())
                waiting += [(self._when(), self._rng.getrandbits(30), to, message)] * self._copies()
            now = time.monotonic()
            if waiting and self.trouble != "reorder":
                waiting.sort(key=lambda w: w[0])
            elif waiting:
                waiting.sort(key=lambda w: w[1])
            for _, _, to, message in [w for w in waiting if w[0] <= now]:
                to.send_multipart(message, zmq.DONTWAIT)
                self.passed += 1
            waiting = [w for w in waiting if w[0] > now]
        near.close(linger=0)
        far.close(linger=0)

    def _when(self) -> float:
        late_s = {"delay": self._rng.uniform(0, 1.0), "reorder": 0.3}.get(self.trouble, 0.0)
        return time.monotonic() + late_s

    def _copies(self) -> int:
        return self._rng.choice([2, 3]) if self.trouble == "double" else 1


def bind(socket: zmq.Socket, endpoint: str) -> None:
    for _ in range(200):
        try:
            socket.bind(endpoint)
        except zmq.ZMQError:  # the kernel has not released the port yet
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"cannot bind {endpoint}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A process that can be killed and started again, with all its output in one log."""

    def __init__(self, log: Path, *command: str) -> None:
        self.log, self._command = log, command
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(
                [sys.executable, *self._command], stdout=output, stderr=output
            )

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    @property
    def running(self) -> bool:
        return self.popen.poll() is None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--module", required=True)
    parser.add_argument("--spool", type=Path, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--arch-s", type=float, required=True)
    serve(parser.parse_args())
