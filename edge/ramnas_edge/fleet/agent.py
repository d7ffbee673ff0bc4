"""A board works for a host: it pulls blocks over ZeroMQ, has them measured, and sends the records.

Every record is kept on the board until the host has acknowledged it.
"""

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
from ramnas_edge.fleet.link import ClientKeys, Link
from ramnas_edge.fleet.spool import Spool, default_path
from ramnas_edge.measuring import messages
from ramnas_edge.measuring.supervisor import Supervisor
from ramnas_models.errors import BackendError, FleetError

log = logging.getLogger(__name__)
Engines = Tuple[Tuple[str, str], ...]
DISK_S = 2.0  # between two tries to write records that a full disk did not take


def serve(
    endpoint: str,
    *,
    name: Optional[str] = None,
    give_up_s: Optional[float] = None,
    spool: Optional[Path] = None,
    spool_patience_s: float = 0.0,
    client_keys: Optional[ClientKeys] = None,
) -> None:
    """Work for the host at `endpoint` (tcp://HOST:PORT) until it says goodbye.

    If there is no host yet, or it falls silent, the agent waits for it: for ever, or until it
    raises FleetError after `give_up_s` seconds of silence.

    Records wait in the file `spool` until the host has committed them, however this process ends.
    If another process holds that file, wait for it up to `spool_patience_s` seconds. `name` is the
    board's name at the host; by default the host name and four digits of the board's identity.
    """
    engines = backends.available()
    if not engines:
        raise BackendError("no inference engine works on this machine: pip install onnxruntime")
    records = Spool(spool or default_path(name), patience_s=spool_patience_s)
    try:
        # boards flashed with the same image have the same host name: four digits tell them apart
        link = Link(endpoint, name or f"{socket.gethostname()}-{records.board[:4]}", client_keys)
        agent = _Agent(link, records, give_up_s, engines)
        try:
            agent.run()
        except BaseException as error:
            agent.leave(str(error) or "it was stopped")
            raise
        finally:
            agent.close()
    finally:
        records.close()


class _Agent:
    """Owns the one socket of this board and the spool; the measuring process sees neither."""

    def __init__(
        self, link: Link, spool: Spool, give_up_s: Optional[float], engines: Engines
    ) -> None:
        self.link, self.spool, self.give_up_s, self.engines = link, spool, give_up_s, engines
        self.session = uuid.uuid4().hex[:12]
        self.telemetry = Telemetry.open()
        self.welcome: Optional[wire.Welcome] = None
        self.greeted_s: Optional[float] = None  # when Hello was sent; None: it is due
        self.is_known = False  # the host has answered Hello on this connection
        self.supervisor: Optional[Supervisor] = None
        self.holding: Dict[str, Set[str]] = {}  # job -> ids of its archs without a record
        self.done: Deque[str] = deque(maxlen=64)  # finished jobs, to recognise one sent again
        self.has_asked = False  # Ready was sent for the room that there is now
        self.records: Dict[wire.Key, _Unanswered] = {}  # those of the host's run
        self.progress: Optional[messages.Visited] = None  # the newest visit that was not sent yet
        self.progress_s = self.beat_s = self.disk_s = time.monotonic()
        # what the last warnings were about: the connection, and the spool
        self.warned_of_link = self.warned_of_spool = ""

    def run(self) -> None:
        while True:
            poller = zmq.Poller()
            self.link.register(poller)
            if self.supervisor:
                poller.register(self.supervisor.fileno(), zmq.POLLIN)
            poller.poll(500)  # the sensors are read twice a second
            if not self._handle_all(self.link.receive()):
                return
            if self.supervisor:
                self._collect(self.supervisor)
            if self.link.step():
                self.greeted_s, self.is_known = None, False
            self._warn_of_connection()
            self._retry_disk()
            self._greet()
            if self.is_known:
                self._report()

    def leave(self, reason: str) -> None:
        self.link.send(wire.encode(wire.Bye(reason)))

    def close(self) -> None:
        if self.supervisor:
            self.supervisor.close()
        self.telemetry.close()
        self.link.close()

    # -- to the host -------------------------------------------------------------------------------

    def _greet(self) -> None:
        """Send Hello as soon as there is a connection, and again until Welcome answers it."""
        now = time.monotonic()
        if self.is_known or (self.greeted_s is not None and now - self.greeted_s < wire.RESEND_S):
            return
        holding = tuple(wire.Holding(job, tuple(left)) for job, left in self.holding.items())
        hello = wire.Hello(
            wire.PROTOCOL, this_device(), self.engines, self.spool.board, self.session,
            self.welcome.run if self.welcome else "", holding,
        )  # fmt: skip
        if self.link.send(wire.encode(hello)):
            self.greeted_s = now

    def _report(self) -> None:
        """Send the host all that is due: records first, because they must not be lost."""
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
        if room and not self.has_asked:
            self.has_asked = self.link.send(wire.encode(messages.Ready(room)))
        if now - self.beat_s > wire.HEARTBEAT_S and self.link.send(wire.encode(self._heartbeat())):
            self.beat_s = now

    def _room(self) -> int:
        """How many more blocks to take; none while a full disk could cost their records."""
        return 0 if self.spool.trouble else max(0, wire.WINDOW - len(self.holding))

    def _heartbeat(self) -> wire.Heartbeat:
        now = time.monotonic()
        samples = self.telemetry.between(now - 10.0, now)
        hottest_c = [max(s.temperature_c.values()) for s in samples if s.temperature_c]
        waits_for = self.supervisor.waits_for if self.supervisor else ""
        return wire.Heartbeat(
            self._room(),
            tuple(self.holding),
            len(self.records),
            hottest_c[-1] if hottest_c else None,
            samples[-1].power_mode if samples else None,
            self.spool.trouble or waits_for,
            bool(waits_for),
        )

    # -- from the host -----------------------------------------------------------------------------

    def _handle_all(self, received: List[wire.FromHost]) -> bool:
        """Handle the messages of the host; False if it said goodbye."""
        acknowledged: List[wire.Key] = []
        try:
            for message in received:
                if isinstance(message, wire.Ack):
                    acknowledged += message.keys
                elif isinstance(message, wire.Bye):
                    log.info("the host is done: %s", message.reason)
                    self.leave("the host said goodbye")
                    return False
                else:
                    self._handle(message)
        finally:
            if acknowledged:  # one commit for all of them
                self.spool.remove(acknowledged)
                for key in acknowledged:
                    self.records.pop(key, None)
        return True

    def _handle(self, message: wire.FromHost) -> None:
        endpoint = self.link.endpoint
        if isinstance(message, wire.Refused):
            raise FleetError(f"{endpoint} refuses this board: {message.reason}")
        if isinstance(message, wire.Welcome):
            self._handle_welcome(message)
        elif isinstance(message, wire.Greet):
            self.greeted_s, self.is_known = None, False
        elif isinstance(message, messages.Job):
            if message.block.bundle:
                raise FleetError(
                    f"{endpoint} sent a job that names a file of this board, which no ramnas host "
                    f"does: {message.block.bundle}"
                )
            self._take(message)
        elif isinstance(message, wire.Drop):
            for job in message.jobs:
                if self.holding.pop(job, None) is not None and self.supervisor:
                    log.info("dropped block %s: %s", job, message.reason)
                    self.supervisor.drop(job)
                    self.has_asked = False
        elif isinstance(message, wire.Rejected):
            for key in message.keys:
                if self.records.pop(key, None):
                    log.warning(
                        "%s refuses the record of arch %s: %s; the record stays in %s",
                        endpoint, key[2], message.reason, self.spool.path,
                    )  # fmt: skip

    def _handle_welcome(self, welcome: wire.Welcome) -> None:
        self.is_known, self.has_asked = True, False
        if welcome != self.welcome or not self.supervisor:
            self.welcome = welcome
            self.holding.clear()
            if self.supervisor:
                self.supervisor.close()
            self.supervisor = Supervisor(welcome.space, this_device(), self.telemetry)
            waiting = self.spool.waiting(welcome.run)
            self.records = {key: _Unanswered(data) for key, data in waiting.items()}
        # The host may be a new process, so send every record again: it ignores those that it has.
        for record in self.records.values():
            record.sent_s = float("-inf")

    def _take(self, job: messages.Job) -> None:
        if not self.supervisor or job.block.id in self.holding or job.block.id in self.done:
            return  # the host sent it again, because an answer of ours was lost
        self.holding[job.block.id] = {arch.id for arch in job.block.archs}
        self.has_asked = False
        self.supervisor.submit(job)

    # -- measuring ---------------------------------------------------------------------------------

    def _collect(self, supervisor: Supervisor) -> None:
        """Spool the new records, and remember the newest visit."""
        for news in supervisor.step():
            if isinstance(news, messages.Visited):
                self.progress = news
                continue
            self.progress = None
            key = news.record.key
            if key not in self.records:  # an earlier measurement that is under way must not change
                self.records[key] = _Unanswered(self.spool.add(news.record))
            self._tick_off(news.record.arch_id)

    def _tick_off(self, arch_id: str) -> None:
        for job, left in self.holding.items():
            if arch_id in left:
                left.discard(arch_id)
                if not left:
                    del self.holding[job]
                    self.done.append(job)
                    self.has_asked = False
                return

    # -- trouble -----------------------------------------------------------------------------------

    def _warn_of_connection(self) -> None:
        """Log each new failure of the connection once; FleetError when it is time to give up."""
        failure = self.link.failure or ""
        if failure and failure != self.warned_of_link:
            log.warning("no connection to %s: %s; still trying", self.link.endpoint, failure)
        if failure or self.is_known:
            self.warned_of_link = failure
        silent_s = self.link.silent_s
        if self.give_up_s is not None and silent_s > self.give_up_s:
            because = f": {self.warned_of_link}" if self.warned_of_link else ""
            raise FleetError(
                f"no host answered at {self.link.endpoint} for {silent_s:.0f} s{because}"
            )

    def _retry_disk(self) -> None:
        now = time.monotonic()
        if self.spool.trouble and now - self.disk_s > DISK_S:
            self.disk_s = now
            self.spool.write()
        if self.spool.trouble != self.warned_of_spool:
            self.warned_of_spool = self.spool.trouble
            if self.warned_of_spool:
                log.warning("this board takes no new block for now: %s", self.warned_of_spool)
            else:
                log.info("the spool can be written again; this board takes blocks again")


class _Unanswered:
    """The message of a record that the host has not answered, and when it was last sent."""

    def __init__(self, message: bytes) -> None:
        self.message, self.sent_s = message, float("-inf")
