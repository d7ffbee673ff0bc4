"""Jobs to boards, records back: one ROUTER socket that boards pull blocks of archs from."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import zmq

from ramnas_edge import wire
from ramnas_edge.profiler import Block
from ramnas_edge.record import Target, record_key
from ramnas_host.store import Store
from ramnas_models.errors import FleetError, WireError
from ramnas_models.files import writing
from ramnas_models.plan import plan
from ramnas_models.space import Arch, Space

log = logging.getLogger(__name__)
BLOCK = 12  # archs whose sessions are open at the same time


@dataclass(frozen=True)
class Request:
    """What to measure: these archs, each once on every class of board that comes."""

    run: str
    space: Space
    target: Target
    archs: Sequence[Arch]
    rounds: int = 8
    seed: int = 0

    def blocks(self, archs: Sequence[Arch]) -> list[Block]:
        """Shuffled, so that cheap and costly networks meet in every block."""
        order = np.random.default_rng(self.seed).permutation(len(archs))
        anchors = self._anchors()
        return [
            Block(
                id=uuid.uuid4().hex[:12],  # of this try alone: its rounds have a drift of their own
                run=self.run,
                target=self.target,
                archs=tuple(archs[j] for j in order[i : i + BLOCK]),
                anchors=anchors,
                rounds=self.rounds,
                seed=self.seed + i,
            )
            for i in range(0, len(order), BLOCK)
        ]

    def _anchors(self) -> tuple[Arch, ...]:
        """Two networks that every round of every block visits, at 1/3 and 2/3 of the log MACs."""
        ladder = self.space.sample_by_macs(np.random.default_rng(0), min(10, self.space.size()))
        ladder.sort(key=lambda arch: plan(self.space, arch).macs)
        return ladder[len(ladder) // 3], ladder[2 * len(ladder) // 3]


@dataclass(frozen=True)
class Progress:
    """`done` of `total` archs have a record; `inside` counts those of the block being measured."""

    done: int
    total: int
    inside: float
    boards: int


@dataclass
class _Board:
    """A board as the host sees it; `job` is the block it holds, `idle` that it asked for one."""

    device_class: str
    last_heard: float
    job: Block | None = None
    idle: bool = False
    inside: float = 0.0


class Host:
    """Serves one request to any number of boards and commits what they send."""

    def __init__(
        self, request: Request, store: Store, on_progress: Callable[[Progress], None]
    ) -> None:
        self.request, self.store, self.on_progress = request, store, on_progress
        self.boards: dict[bytes, _Board] = {}
        self.queues: dict[str, deque[Block]] = {}  # device class -> blocks nobody holds
        self.recorded: dict[str, set[tuple[str, ...]]] = {}  # device class -> keys in the store
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a board may come back on a new connection
        self.socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_BYTES)

    def bind(self, endpoint: str) -> str:
        """Bind (tcp://HOST:PORT, port * for any free one); the endpoint that boards connect to."""
        try:
            self.socket.bind(endpoint)
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                raise FleetError(
                    f"{endpoint} is in use by another program; choose another port, "
                    "or * for any free one"
                ) from error
            raise FleetError(f"cannot bind '{endpoint}': {error}; use tcp://HOST:PORT") from error
        return self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def serve(self, alive: Callable[[], None] = lambda: None) -> list[str]:
        """Serve until all archs are recorded on every device class that came; those classes.

        `alive` is called twice a second and may raise.
        """
        heartbeat = 0.0
        while not self.queues or any(self._missing(c) for c in self.queues):
            if self.socket.poll(500):
                self._receive()
            alive()
            now = time.monotonic()
            if now - heartbeat > wire.HEARTBEAT_S:
                heartbeat = now
                for name in list(self.boards):
                    self._send(name, wire.Heartbeat())
            for name, board in list(self.boards.items()):
                if now - board.last_heard > wire.SILENCE_S:
                    self._lost(name, f"silent for {wire.SILENCE_S:.0f} s")
        for name in list(self.boards):
            self._send(name, wire.Bye("all is measured"))
        return sorted(self.queues)

    def close(self) -> None:
        self.context.destroy(linger=1000)

    # -- messages ----------------------------------------------------------------------------------

    def _receive(self) -> None:
        name, data = self.socket.recv_multipart()[:2]
        try:
            message = wire.decode_from_board(data)
        except WireError as error:
            log.warning("%s: %s", name.decode(errors="replace"), error)
            self._send(name, wire.Refused(str(error)))
            return
        if isinstance(message, wire.Hello):
            self._hello(name, message)
            return
        board = self.boards.get(name)
        if board is None:  # from before a restart of this host: it will greet again
            return
        board.last_heard = time.monotonic()
        if isinstance(message, wire.Measured):
            self.store.add(message.record)  # committed before it is acknowledged
            self.recorded[board.device_class].add(message.record.key)
            self._send(name, wire.Ack(message.record.key))
            board.inside = 0.0
        elif isinstance(message, wire.Ready):
            self._give(name, board)
        elif isinstance(message, wire.Visited) and board.job:
            board.inside = len(board.job.archs) * message.done / message.total
        elif isinstance(message, wire.Bye):
            self._lost(name, message.reason)
        self._report()

    def _hello(self, name: bytes, hello: wire.Hello) -> None:
        target = self.request.target
        engines = dict(hello.engines)
        if hello.protocol != wire.PROTOCOL:
            reason = f"it speaks protocol {hello.protocol}, this host {wire.PROTOCOL}"
        elif target.engine not in engines:
            reason = f"it has no {target.engine}, only {', '.join(engines) or 'no engine'}"
        else:
            device_class = hello.device.class_key(target.engine, engines[target.engine])
            if name in self.boards:
                self._lost(name, "came back on a new connection")
            self.boards[name] = _Board(device_class, time.monotonic())
            if device_class not in self.queues:
                self.recorded[device_class] = self.store.keys(self.request.run, device_class)
                self.queues[device_class] = deque(self.request.blocks(self._missing(device_class)))
            log.info("board %s joined: %s", name.decode(errors="replace"), device_class)
            self._send(name, wire.Welcome(wire.PROTOCOL, self.request.space, target))
            self._report()
            return
        log.warning("refused board %s: %s", name.decode(errors="replace"), reason)
        self._send(name, wire.Refused(reason))

    def _give(self, name: bytes, board: _Board) -> None:
        board.job, board.inside, board.idle = None, 0.0, True
        queue = self.queues[board.device_class]
        if queue:
            board.job, board.idle = queue.popleft(), False
            self._send(name, wire.Job(board.job, board.device_class))

    def _lost(self, name: bytes, reason: str) -> None:
        board = self.boards.pop(name)
        log.warning("lost board %s: %s", name.decode(errors="replace"), reason)
        if board.job:  # another board of the class takes what is left of it
            missing = {a.id for a in self._missing(board.device_class)}
            left = tuple(a for a in board.job.archs if a.id in missing)
            if left:
                block = msgspec.structs.replace(board.job, id=uuid.uuid4().hex[:12], archs=left)
                self.queues[board.device_class].appendleft(block)
                for other_name, other in list(self.boards.items()):
                    if other.idle and other.device_class == board.device_class:
                        self._give(other_name, other)

    def _send(self, name: bytes, message: wire.FromHost) -> None:
        try:
            self.socket.send_multipart([name, wire.encode(message)], zmq.DONTWAIT)
        except zmq.ZMQError as error:  # gone, or not reading: silence will tell
            log.debug("cannot send to %s: %s", name.decode(errors="replace"), error)

    # -- what is left ------------------------------------------------------------------------------

    def _missing(self, device_class: str) -> list[Arch]:
        run, target, known = self.request.run, self.request.target, self.recorded[device_class]
        return [
            arch
            for arch in self.request.archs
            if record_key(run, target, arch, device_class) not in known
        ]

    def _report(self) -> None:
        total = len(self.request.archs) * len(self.queues)
        done = total - sum(len(self._missing(c)) for c in self.queues)
        inside = sum(board.inside for board in self.boards.values())
        self.on_progress(Progress(done, total, inside, len(self.boards)))


def calibrate(
    request: Request,
    store: Store,
    *,
    bind: str = "tcp://127.0.0.1:*",
    local_agent_log: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> list[str]:
    """Measure all archs of `request` on the boards that connect; the device classes that came.

    With `local_agent_log` one agent is started here, a process of its own that logs to that file;
    FleetError if it dies. What was recorded before is not measured again.
    """
    host = Host(request, store, on_progress)
    try:
        endpoint = host.bind(bind)
        if local_agent_log is None:
            log.info("waiting for boards: ramnas-edge agent --connect %s", endpoint)
            return host.serve()
        with writing(local_agent_log), local_agent_log.open("ab") as output:
            agent = subprocess.Popen(
                [sys.executable, "-m", "ramnas_edge", "agent", "--connect", endpoint,
                 "--name", f"local-{os.getpid()}", "--give-up-s", "15"],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            )  # fmt: skip

        def alive() -> None:
            code = agent.poll()
            if code is not None:
                how = (
                    f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                )
                recorded = len(store.keys(request.run))
                raise FleetError(
                    f"the local agent (process {agent.pid}) {how}; {recorded} records of run "
                    f"'{request.run}' are safe in {store.path}, see {local_agent_log} for its last "
                    "words; the same command continues from there"
                )

        try:
            return host.serve(alive)
        finally:
            try:
                agent.wait(timeout=5 if sys.exc_info()[0] is None else 0)  # it has been told to go
            except subprocess.TimeoutExpired:
                agent.terminate()
                agent.wait()
    finally:
        host.close()
