"""Serve a host's jobs: pull blocks over ZeroMQ, have the child measure them, send the records."""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from typing import Deque, Dict, List, Optional, Sequence, Tuple

import msgspec
import zmq

from ramnas_edge import backends, profiler, wire
from ramnas_edge.device import this_device
from ramnas_edge.measuring import Child
from ramnas_edge.record import INCONCLUSIVE, LatencyRecord
from ramnas_models.errors import BackendError, FleetError, WireError
from ramnas_models.space import Arch

log = logging.getLogger(__name__)


def serve(endpoint: str, *, name: Optional[str] = None, give_up_s: Optional[float] = None) -> None:
    """Work for the host at `endpoint` (tcp://HOST:PORT) until it says goodbye.

    Waits for a host that is not there yet, and again when it falls silent: for ever, or until
    FleetError after `give_up_s` seconds of silence.
    """
    agent = _Agent(endpoint, name or socket.gethostname(), give_up_s)
    try:
        agent.run()
    finally:
        agent.close()


class _Agent:
    """Owns the one socket of this board; the measuring child never sees it."""

    def __init__(self, endpoint: str, name: str, give_up_s: Optional[float]) -> None:
        self.endpoint, self.name, self.give_up_s = endpoint, name, give_up_s
        self.engines = backends.available()
        if not self.engines:
            raise BackendError("no inference engine on this machine: pip install onnxruntime")
        self.context = zmq.Context()
        self.socket = self._connect()
        self.welcome: Optional[wire.Welcome] = None
        self.child: Optional[Child] = None
        self.current: Optional[wire.Job] = None  # with the child now
        self.waiting: Deque[wire.Job] = deque()  # parts of the host's block, still to be measured
        self.doubtful: List[Arch] = []  # inconclusive in the current job
        self.unacked: Dict[Tuple[str, ...], LatencyRecord] = {}
        self.last_sent = self.last_heard = self.last_greeted = time.monotonic()

    def run(self) -> None:
        self._greet()
        while True:
            poller = zmq.Poller()
            poller.register(self.socket, zmq.POLLIN)
            if self.child:
                poller.register(self.child.fileno(), zmq.POLLIN)
            for source, _ in poller.poll(int(wire.HEARTBEAT_S * 500)):
                if source is self.socket:
                    if not self._from_host():
                        return
                elif self.child and self.child.has_sent():  # not of a child replaced just now
                    self._from_child()
            now = time.monotonic()
            if now - self.last_sent > wire.HEARTBEAT_S:
                self._send(wire.Heartbeat())
            silent_s = now - self.last_heard
            if self.give_up_s is not None and silent_s > self.give_up_s:
                raise FleetError(f"no host answered at {self.endpoint} for {silent_s:.0f} s")
            if silent_s > wire.SILENCE_S and now - self.last_greeted > wire.SILENCE_S:
                log.warning("no host at %s for %.0f s, still trying", self.endpoint, silent_s)
                self.socket.close(linger=0)
                self.socket = self._connect()
                self._greet()

    def close(self) -> None:
        if self.child:
            self.child.close()
        self.context.destroy(linger=500)

    # -- the host ----------------------------------------------------------------------------------

    def _connect(self) -> zmq.Socket[bytes]:
        dealer = self.context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.IDENTITY, self.name.encode())
        dealer.setsockopt(zmq.MAXMSGSIZE, wire.MAX_BYTES)
        try:
            dealer.connect(self.endpoint)
        except zmq.ZMQError as error:
            raise FleetError(
                f"cannot connect to '{self.endpoint}': {error}; an endpoint is tcp://HOST:PORT"
            ) from error
        return dealer

    def _greet(self) -> None:
        self.last_greeted = time.monotonic()
        self._send(wire.Hello(wire.PROTOCOL, this_device(), self.engines))

    def _send(self, message: wire.FromBoard) -> None:
        self.last_sent = time.monotonic()
        try:
            self.socket.send(wire.encode(message), zmq.DONTWAIT)
        except zmq.Again:
            log.debug("dropped a %s: the host is not reading", type(message).__name__)

    def _from_host(self) -> bool:
        """Handle one message of the host; False when it said goodbye."""
        try:
            message = wire.decode_from_host(self.socket.recv())
        except WireError as error:
            raise FleetError(
                f"{self.endpoint} does not speak protocol {wire.PROTOCOL} of ramnas: {error}"
            ) from error
        self.last_heard = time.monotonic()
        if isinstance(message, wire.Bye):
            log.info("the host is done: %s", message.reason)
            return False
        if isinstance(message, wire.Refused):
            raise FleetError(f"{self.endpoint} refuses this board: {message.reason}")
        if isinstance(message, wire.Welcome):
            self._welcomed(message)
        elif isinstance(message, wire.Job):
            self.waiting.append(message)
            self._next_job()
        elif isinstance(message, wire.Ack):
            self.unacked.pop(message.key, None)
        return True

    def _welcomed(self, welcome: wire.Welcome) -> None:
        for record in self.unacked.values():  # the host may be a new process: it knows what it has
            self._send(wire.Measured(record))
        if self.welcome == welcome and self.child:
            if self.current is None:
                self._send(wire.Ready())
            return
        self.welcome = welcome
        self.waiting.clear()
        self.doubtful.clear()
        self._fresh_child()

    # -- the child ---------------------------------------------------------------------------------

    def _fresh_child(self) -> None:
        assert self.welcome is not None
        if self.child:
            self.child.close()
        self.child, self.current = Child(self.welcome), None

    def _from_child(self) -> None:
        assert self.child is not None
        try:
            message = self.child.receive()
        except EOFError:
            self._child_died()
            return
        if isinstance(message, wire.Measured):
            record = message.record
            if record.validity == INCONCLUSIVE and self.current and not self.current.again:
                self.doubtful.append(record.arch)
            else:
                self._deliver(record)
        elif isinstance(message, wire.Visited):
            self._send(message)
        elif isinstance(message, wire.Ready):
            done, self.current = self.current, None
            if done and self.doubtful:
                self._again(done, self.doubtful)  # once more, in a fresh process
                self.doubtful = []
                self._fresh_child()
            elif self.waiting:
                self._next_job()
            else:
                self._send(wire.Ready())

    def _next_job(self) -> None:
        if self.child and self.current is None and self.waiting:
            self.current = self.waiting.popleft()
            self.child.send(self.current)

    def _deliver(self, record: LatencyRecord) -> None:
        self.unacked[record.key] = record
        self._send(wire.Measured(record))

    def _again(self, job: wire.Job, archs: Sequence[Arch]) -> None:
        again = f"{job.block.id}-{archs[0].id}"  # its rounds are not those of the first try
        block = msgspec.structs.replace(job.block, id=again, archs=tuple(archs))
        self.waiting.append(msgspec.structs.replace(job, block=block, again=True))

    def _child_died(self) -> None:
        """Measure the block's archs one by one; the one that kills its child alone has failed."""
        assert self.child is not None
        assert self.welcome is not None
        code, job = self.child.close(), self.current
        log.warning("the measuring process died (exit code %s)", code)
        self.child, self.doubtful = None, []
        if job is None:
            raise BackendError(f"the measuring process dies at its start (exit code {code})")
        archs = job.block.archs
        if len(archs) == 1:
            reason = f"the engine's process died (exit code {code})"
            self._deliver(
                profiler.failed(job.block, archs[0], self.welcome.space, job.device_class, reason)
            )
        else:
            for arch in archs:
                self._again(job, [arch])
        self._fresh_child()
