"""Serve a host's jobs: pull blocks over ZeroMQ, have them measured, keep the records until they
are acknowledged."""

from __future__ import annotations

import logging
import socket
import time
import uuid
from collections import deque
from pathlib import Path
from typing import Deque, Dict, List, Optional, Set, Tuple

import zmq

from ramnas_edge.board.device import this_device
from ramnas_edge.board.telemetry import Telemetry
from ramnas_edge.engines import backends
from ramnas_edge.fleet import wire
from ramnas_edge.fleet.link import Cure, Link
from ramnas_edge.fleet.spool import Spool, default_path
from ramnas_edge.measuring import messages
from ramnas_edge.measuring.supervisor import Measuring
from ramnas_models.errors import BackendError, FleetError

log = logging.getLogger(__name__)
Engines = Tuple[Tuple[str, str], ...]
DISK_S = 2.0  # between tries to write what a full disk did not take


def serve(
    endpoint: str,
    *,
    name: Optional[str] = None,
    give_up_s: Optional[float] = None,
    spool: Optional[Path] = None,
    spool_patience_s: float = 0.0,
    cure: Optional[Cure] = None,
) -> None:
    """Work for the host at `endpoint` (tcp://HOST:PORT) until it says goodbye.

    Waits for a host that is not there yet, and again when it falls silent: for ever, or until
    FleetError after `give_up_s` seconds of silence. Records wait in the file `spool` for a host
    that has committed them, through any end of this process; another process that has the file is
    waited for `spool_patience_s`.
    """
    engines = backends.available()
    if not engines:
        raise BackendError("no inference engine on this machine: pip install onnxruntime")
    kept = Spool(spool or default_path(name), patience_s=spool_patience_s)
    try:
        # boards flashed with one image have one host name: four digits tell them apart
        link = Link(endpoint, name or f"{socket.gethostname()}-{kept.board[:4]}", cure)
        agent = _Agent(link, kept, give_up_s, engines)
        try:
            agent.run()
        except BaseException as error:
            agent.leave(str(error) or "it was stopped")
            raise
        finally:
            agent.close()
    finally:
        kept.close()


class _Agent:
    """Owns the one socket of this board and the spool; the measuring process sees neither."""

    def __init__(
        self, link: Link, spool: Spool, give_up_s: Optional[float], engines: Engines
    ) -> None:
        self.link, self.spool, self.give_up_s, self.engines = link, spool, give_up_s, engines
        self.session = uuid.uuid4().hex[:12]
        self.telemetry = Telemetry.open()
        self.welcome: Optional[wire.Welcome] = None
        self.greeted_s: Optional[float] = None  # None: Hello is due
        self.known = False  # to the host, on this connection
        self.measuring: Optional[Measuring] = None
        self.holding: Dict[str, Set[str]] = {}  # job -> ids of its archs without a record
        self.done: Deque[str] = deque(maxlen=64)  # jobs, so that one sent again is known
        self.asked = False  # for blocks, since there was room
        self.records: Dict[wire.Key, _Unanswered] = {}  # of the host's run
        self.progress: Optional[messages.Visited] = None  # the newest that the host has not got
        self.progress_s = self.beat_s = self.disk_s = time.monotonic()
        self.said = self.warned_of = ""  # failure of the connection; trouble of the spool

    def run(self) -> None:
        while True:
            poller = zmq.Poller()
            self.link.register(poller)
            if self.measuring:
                poller.register(self.measuring.fileno(), zmq.POLLIN)
            poller.poll(500)  # the sensors are read twice a second
            if not self._from_host(self.link.receive()):
                return
            if self.measuring:
                self._from_measuring(self.measuring)
            if self.link.step():
                self.greeted_s, self.known = None, False
            self._say_what_fails()
            self._retry_disk()
            self._greet()
            if self.known:
                self._tell()

    def leave(self, reason: str) -> None:
        self.link.send(wire.encode(wire.Bye(reason)))

    def close(self) -> None:
        if self.measuring:
            self.measuring.close()
        self.telemetry.close()
        self.link.close()

    # -- to the host -------------------------------------------------------------------------------

    def _greet(self) -> None:
        """Hello, as soon as there is a connection, and again until Welcome."""
        now = time.monotonic()
        if self.known or (self.greeted_s is not None and now - self.greeted_s < wire.RESEND_S):
            return
        holding = tuple(wire.Holding(job, tuple(left)) for job, left in self.holding.items())
        hello = wire.Hello(
            wire.PROTOCOL, this_device(), self.engines, self.spool.board, self.session,
            self.welcome.run if self.welcome else "", holding,
        )  # fmt: skip
        if self.link.send(wire.encode(hello)):
            self.greeted_s = now

    def _tell(self) -> None:
        """All that the host should know now: records first, as they must not be lost."""
        now = time.monotonic()
        for record in self.records.values():
            if now - record.sent_s > wire.RESEND_S:
                if not self.link.send(record.message):
                    break
                record.sent_s = now
        due = now - self.progress_s >= wire.PROGRESS_S
        if self.progress and due and self.link.send(wire.encode(self.progress)):
            self.progress, self.progress_s = None, now
        room = self._room()
        if room and not self.asked:
            self.asked = self.link.send(wire.encode(messages.Ready(room)))
        if now - self.beat_s > wire.HEARTBEAT_S and self.link.send(wire.encode(self._heartbeat())):
            self.beat_s = now

    def _room(self) -> int:
        """How many blocks more; none while a record could be lost for want of disk."""
        return 0 if self.spool.trouble else max(0, wire.WINDOW - len(self.holding))

    def _heartbeat(self) -> wire.Heartbeat:
        now = time.monotonic()
        samples = self.telemetry.between(now - 10.0, now)
        heat = [max(s.temperature_c.values()) for s in samples if s.temperature_c]
        return wire.Heartbeat(
            self._room(),
            tuple(self.holding),
            len(self.records),
            heat[-1] if heat else None,
            samples[-1].power_mode if samples else None,
            self.spool.trouble,
        )

    # -- from the host -----------------------------------------------------------------------------

    def _from_host(self, messages: List[wire.FromHost]) -> bool:
        """Handle what has come; False when the host said goodbye."""
        acknowledged: List[wire.Key] = []
        try:
            for message in messages:
                if isinstance(message, wire.Ack):
                    acknowledged += message.keys
                elif isinstance(message, wire.Bye):
                    log.info("the host is done: %s", message.reason)
                    self.leave("the host said goodbye")
                    return False
                else:
                    self._handle(message)
        finally:
            if acknowledged:
                self.spool.remove(acknowledged)
                for key in acknowledged:
                    self.records.pop(key, None)
        return True

    def _handle(self, message: wire.FromHost) -> None:
        endpoint = self.link.endpoint
        if isinstance(message, wire.Refused):
            raise FleetError(f"{endpoint} refuses this board: {message.reason}")
        if isinstance(message, wire.Welcome):
            self._welcomed(message)
        elif isinstance(message, wire.Greet):
            self.greeted_s, self.known = None, False
        elif isinstance(message, messages.Job):
            if message.block.bundle:
                raise FleetError(f"{endpoint} sent a job that names a file of this board")
            self._take(message)
        elif isinstance(message, wire.Drop):
            for job in message.jobs:
                if self.holding.pop(job, None) is not None and self.measuring:
                    log.info("dropped block %s: %s", job, message.reason)
                    self.measuring.drop(job)
                    self.asked = False
        elif isinstance(message, wire.Rejected):
            for key in message.keys:
                if self.records.pop(key, None):
                    log.warning(
                        "%s does not take the record of arch %s: %s; it stays in %s",
                        endpoint, key[2], message.reason, self.spool.path,
                    )  # fmt: skip

    def _welcomed(self, welcome: wire.Welcome) -> None:
        self.known, self.asked = True, False
        if welcome != self.welcome or not self.measuring:
            self.welcome = welcome
            self.holding.clear()
            if self.measuring:
                self.measuring.close()
            self.measuring = Measuring(welcome.space, this_device(), self.telemetry)
            waiting = self.spool.waiting(welcome.run)
            self.records = {key: _Unanswered(data) for key, data in waiting.items()}
        for record in self.records.values():  # the host may be a new process: it knows what it has
            record.sent_s = float("-inf")

    def _take(self, job: messages.Job) -> None:
        if not self.measuring or job.block.id in self.holding or job.block.id in self.done:
            return  # sent again, because an answer was lost
        self.holding[job.block.id] = {arch.id for arch in job.block.archs}
        self.asked = False
        self.measuring.submit(job)

    # -- measuring ---------------------------------------------------------------------------------

    def _from_measuring(self, measuring: Measuring) -> None:
        for news in measuring.step():
            if isinstance(news, messages.Visited):
                self.progress = news
                continue
            self.progress = None
            key = news.record.key
            if key not in self.records:  # a measurement that is under way to the host stays
                self.records[key] = _Unanswered(self.spool.add(news.record))
            self._measured(news.record.arch_id)

    def _measured(self, arch_id: str) -> None:
        for job, left in self.holding.items():
            if arch_id in left:
                left.discard(arch_id)
                if not left:
                    del self.holding[job]
                    self.done.append(job)
                    self.asked = False
                return

    # -- trouble -----------------------------------------------------------------------------------

    def _say_what_fails(self) -> None:
        failure = self.link.failure or ""
        if failure and failure != self.said:
            log.warning("no connection to %s: %s; still trying", self.link.endpoint, failure)
        if failure or self.known:
            self.said = failure
        silent_s = self.link.silent_s
        if self.give_up_s is not None and silent_s > self.give_up_s:
            because = f": {self.said}" if self.said else ""
            raise FleetError(
                f"no host answered at {self.link.endpoint} for {silent_s:.0f} s{because}"
            )

    def _retry_disk(self) -> None:
        now = time.monotonic()
        if self.spool.trouble and now - self.disk_s > DISK_S:
            self.disk_s = now
            self.spool.write()
        if self.spool.trouble != self.warned_of:
            self.warned_of = self.spool.trouble
            if self.warned_of:
                log.warning("no new block until it can: %s", self.warned_of)
            else:
                log.info("the spool can be written again")


class _Unanswered:
    """A record's message and when it was last sent."""

    def __init__(self, message: bytes) -> None:
        self.message, self.sent_s = message, float("-inf")
