"""The host's one ROUTER: bound behind the gate, single messages of boards in, messages out."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import NamedTuple

import zmq

from ramnas_edge.fleet import wire
from ramnas_host.fleet.authentication import Door, Gate
from ramnas_host.fleet.refusals import shown
from ramnas_models.errors import FleetError

log = logging.getLogger(__name__)
QUEUED = 24  # messages of a peer that wait to be received: those of a thousand fit in memory
GROUP, GROUP_S = 1000, 0.05  # messages, or seconds of receiving, before what came is committed


class Letter(NamedTuple):
    """What came: the sender's routing id, the name of its key (empty without CURVE), the last of
    its frames and how many there were."""

    name: bytes
    user: str
    data: bytes
    frames: int


class Router:
    """Never waits but in `poll`; a peer that is gone or does not read loses what is sent to it."""

    def __init__(self) -> None:
        self.drained = True  # nothing was left when `letters` ended
        self._gate: Gate | None = None
        self._keyed = False
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # a board may come back on a new connection
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, 2 * wire.MAX_BYTES)  # above the cap it is told so
        self._socket.setsockopt(zmq.RCVHWM, QUEUED)

    def bind(self, door: Door) -> str:
        """Bind (tcp://HOST:PORT, port * for any free one); the endpoint that boards connect to."""
        endpoint = door.endpoint
        if "://" not in endpoint:
            raise FleetError(f"cannot bind '{endpoint}': use tcp://HOST:PORT")
        self._gate = Gate.open(self._context, self._socket, door)
        self._keyed = door.keys is not None
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                raise FleetError(
                    f"{endpoint} is in use by another program; choose another port, "
                    "or * for any free one"
                ) from error
            raise FleetError(f"cannot bind '{endpoint}': {error}; use tcp://HOST:PORT") from error
        return str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))

    def poll(self, seconds: float) -> None:
        """Wait until something has come."""
        self._socket.poll(int(1000 * seconds))

    def letters(self) -> Iterator[Letter]:
        """What has come, but not so much that its commit would be late."""
        end_s, receive, self.drained = time.monotonic() + GROUP_S, self._socket.recv, False
        for count in range(GROUP):
            try:
                name = receive(zmq.DONTWAIT)
            except zmq.Again:
                self.drained = True
                return
            frame, frames = receive(copy=False), 1
            while frame.more:
                frame, frames = receive(copy=False), frames + 1
            user = str(frame.get("User-Id")) if self._keyed else ""
            yield Letter(name, user, frame.bytes, frames)
            if count % 64 == 63 and time.monotonic() > end_s:
                return

    def send(self, name: bytes, message: wire.FromHost) -> bool:
        """False if the peer is gone, or does not read."""
        try:
            # half the price of send_multipart
            self._socket.send(name, zmq.SNDMORE | zmq.DONTWAIT)
            self._socket.send(wire.encode(message), zmq.DONTWAIT)
        except zmq.ZMQError as error:  # gone, or not reading: silence will tell
            log.debug("cannot send to %s: %s", shown(name), error)
            return False
        return True

    def refused(self) -> dict[str, int]:
        """Connections refused so far, by reason; new ones go to the log."""
        if self._gate is None:
            return {}
        for refused in self._gate.refused():
            log.warning("refused a connection: %s", refused)
        return self._gate.counts()

    def close(self) -> None:
        if self._gate:
            self._gate.close()
        self._context.destroy(linger=1000)
