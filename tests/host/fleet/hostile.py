"""What these tests share: a host in a thread, an honest board, a raw connection."""

from __future__ import annotations

import socket as sockets
import struct
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import zmq

from ramnas_edge.board.device import Device
from ramnas_edge.fleet import wire
from ramnas_edge.measuring import messages, profiler
from ramnas_edge.measuring.record import LatencyRecord, Target, Visit, statistics
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.store import Store
from ramnas_host.fleet.authentication import Door
from ramnas_host.fleet.boards import Status
from ramnas_host.fleet.host import Host
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import Arch, Space, load_space

SPACE = load_space("micro")
ARCHS = sample_by_macs(SPACE, np.random.default_rng(0), 600)
TARGET = Target(num_classes=10)
REQUEST = Request("run", SPACE, TARGET, ARCHS)
DEVICE = Device("board", 4, 8, "Linux")
ENGINES = (("onnxruntime-cpu", "1.2.3"),)
CLASS = DEVICE.class_key(*ENGINES[0])
PACE_S = 0.5  # the honest board needs this for an arch, so that its archs outlast the attacks
LOOPBACK = Door("tcp://127.0.0.1:*")
PATIENCE_S = 120.0  # only a hang takes as long


_T = TypeVar("_T")


class _Stop(Exception):
    pass


class Serving:
    """A real host in a thread of its own; `status` is what it reported last.

    The objects of SQLite and ZeroMQ live only in that thread.
    """

    def __init__(
        self, path: Path, door: Door = LOOPBACK, request: Request = REQUEST, **options: Any
    ) -> None:
        """`options` are those of Host."""
        self.path, self.door, self.request, self.options = path, door, request, options
        self.endpoint, self.status = "", Status("", 0, 0)
        self.classes: list[str] = []  # what `serve` returned
        self.error: BaseException | None = None
        self._bound, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._bound.wait(PATIENCE_S), self.error
        assert self.error is None, self.error

    @property
    def port(self) -> int:
        return int(self.endpoint.rsplit(":", 1)[1])

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def refused(self, part: str = "") -> int:
        """The number of refusals so far whose reason contains `part`."""
        return sum(n for reason, n in self._refused().items() if part in reason)

    def join(self) -> list[str]:
        """Wait until all is measured; returns the device classes that came."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        if self.error:
            raise self.error
        return self.classes

    def close(self) -> None:
        """Stop it, and raise what it raised."""
        self._ending.set()
        self.join()

    def _serve(self) -> None:
        store = Store(self.path)
        try:
            with closing(Host(self.request, store, self.door, self._show, **self.options)) as host:
                self.endpoint, self._refused = host.endpoint, host.peer_log.refused
                self._bound.set()
                self.classes = host.serve(self._alive)
        except _Stop:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self._bound.set()
            store.close()

    def _show(self, status: Status) -> None:
        self.status = status

    def _alive(self) -> None:
        if self._ending.is_set():
            raise _Stop


def measured(job: messages.Job, arch: Arch, space: Space = SPACE) -> LatencyRecord:
    """A record such as a board sends, with made-up times."""
    rng = np.random.default_rng(int(arch.id, 16) % 2**32)
    place = job.block.archs.index(arch)
    visits = tuple(
        Visit(arch.id, job.block.id, r, place, tuple(rng.uniform(1.0, 1.1, 6).tolist()), r, r + 1.0)
        for r in range(8)
    )
    failed = profiler.failed(job.block, arch, space, job.device_class, "")
    return msgspec.structs.replace(failed, validity="ok", visits=visits, **statistics(visits))


class Honest:
    """A board that works on through an attack, in a thread; `sent` are its records.

    `trouble` is what an honest board should not get: Greet, Refused or Rejected.
    """

    def __init__(
        self, endpoint: str, name: str = "honest", *, pace_s: float = PACE_S, space: Space = SPACE
    ) -> None:
        self.endpoint, self.name, self.pace_s, self.space = endpoint, name, pace_s, space
        self.sent: dict[wire.Key, LatencyRecord] = {}
        self.acked: set[wire.Key] = set()
        self.trouble: list[str] = []
        self.left = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Measure no more, and wait for all acknowledgements."""
        self._ending.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        assert self.trouble == []
        assert self.acked == set(self.sent)

    def _run(self) -> None:
        context = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.IDENTITY, self.name.encode())
        dealer.connect(self.endpoint)
        try:
            self._work(dealer)
        except Exception as error:
            self.trouble.append(repr(error))
        finally:
            context.destroy(linger=0)
            self.left.set()

    def _work(self, dealer: zmq.Socket[bytes]) -> None:
        def send(message: Any) -> None:
            dealer.send(wire.encode(message))

        send(wire.Hello(wire.PROTOCOL, DEVICE, ENGINES, board="id", session="s"))
        jobs: list[tuple[messages.Job, Arch]] = []
        given: set[str] = set()  # the host may send a job again
        beat_s, due_s, end_s = 0.0, 0.0, float("inf")
        while time.monotonic() < end_s:
            if dealer.poll(min(20, 1e3 * self.pace_s)):
                message = wire.decode_from_host(dealer.recv())
                if isinstance(message, wire.Welcome):
                    send(messages.Ready())
                elif isinstance(message, messages.Job) and message.block.id not in given:
                    given.add(message.block.id)
                    jobs += [(message, arch) for arch in message.block.archs]
                elif isinstance(message, wire.Ack):
                    self.acked.update(message.keys)
                elif isinstance(message, wire.Bye):
                    send(message)
                    return
                elif isinstance(message, wire.Drop):
                    jobs = [(job, arch) for job, arch in jobs if job.block.id not in message.jobs]
                elif not isinstance(message, (wire.Heartbeat, messages.Job)):
                    self.trouble.append(repr(message))
            elif jobs and not self._ending.is_set() and time.monotonic() >= due_s:
                due_s = time.monotonic() + self.pace_s
                job, arch = jobs.pop(0)
                record = measured(job, arch, self.space)
                self.sent[record.key] = record
                send(messages.Measured(record))
                if not jobs:
                    send(messages.Ready())
            if self._ending.is_set():
                end_s = min(end_s, time.monotonic() + PATIENCE_S / 2)
                if self.acked == set(self.sent):
                    return
            if time.monotonic() - beat_s > 1:
                beat_s = time.monotonic()
                holding = tuple({job.block.id for job, _ in jobs})
                send(wire.Heartbeat(room=0 if jobs else 1, holding=holding))


class Raw:
    """A TCP connection that speaks plain ZMTP 3.0 by hand: https://rfc.zeromq.org/spec/23."""

    def __init__(self, port: int) -> None:
        self.socket = sockets.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)

    def shake_hands(self, name: bytes) -> None:
        null = b"NULL".ljust(20, b"\0")
        self.socket.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + null + bytes(32))
        properties = b"".join(
            bytes([len(key)]) + key + struct.pack(">I", len(value)) + value
            for key, value in ((b"Socket-Type", b"DEALER"), (b"Identity", name))
        )
        ready = b"\x05READY" + properties
        self.socket.sendall(b"\x04" + bytes([len(ready)]) + ready)
        answer = b""
        while b"READY" not in answer:
            answer += self.socket.recv(1000)

    def close(self) -> None:
        self.socket.close()


def until(look: Callable[[], _T], seconds: float = PATIENCE_S) -> _T:
    """Call `look` until its answer is true, and return that answer."""
    end_s = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end_s, f"still waiting after {seconds:.0f} s"
        time.sleep(0.01)
    return found


def read_to_the_end(raw: sockets.socket) -> None:
    """Read until the other side ends the connection; TimeoutError if it does not."""
    raw.settimeout(PATIENCE_S)
    with suppress(ConnectionResetError):
        while raw.recv(1000):
            pass
