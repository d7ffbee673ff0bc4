"""The host's door: encrypts its socket (CURVE), and decides by keys who is let in (ZAP)."""

from __future__ import annotations

import logging
import os
import resource
import socket as sockets
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from ramnas_edge.fleet import handshake, keys
from ramnas_host.fleet.peer_log import PeerLog
from ramnas_models.errors import FleetError

log = logging.getLogger(__name__)

HANDSHAKE_MS = 10_000  # a peer that has not finished its handshake by then is cut off
_BACKLOG = 1024  # connections that the kernel holds until they are accepted


@dataclass(frozen=True)
class Door:
    """Where a host binds, and whom it lets in: boards whose key is in the folder `authorized`.

    `keys` is the host's `.key_secret`. Without it nothing is encrypted and everybody is let in; on
    a public address that needs `insecure`. `authorized` None means `authorized_keys` beside `keys`.
    """

    endpoint: str
    keys: Path | None = None
    authorized: Path | None = None
    insecure: bool = False


class Gate:
    """Decides who may connect to a ROUTER, and tells the PeerLog who may not, and why.

    Make it before the ROUTER binds, and close it before the context ends. A thread answers ZeroMQ
    about each peer, so that nobody waits for a busy host. It never touches the ROUTER.
    """

    def __init__(
        self, context: zmq.Context[Any], socket: zmq.Socket[Any], door: Door, peer_log: PeerLog
    ) -> None:
        """FleetError for a public address without keys, FileError for keys that cannot be used."""
        own = keys.load_keys(door.keys) if door.keys else None
        if keys.is_public(door.endpoint) and not own:
            if not door.insecure:
                raise FleetError(
                    f"{door.endpoint} can be reached from other machines: make keys with `ramnas "
                    "keys new` and give --keys, or let everybody in unencrypted with --insecure"
                )
            log.warning("%s lets everybody in, and nothing is encrypted", door.endpoint)
        self._peer_log = peer_log
        self._zap: zmq.Socket[bytes] | None = None
        self._authorized: keys.Authorized | None = None  # without keys everybody is let in
        if door.keys and own:
            keys.server_options(socket, own)
            socket.setsockopt(zmq.ZAP_DOMAIN, b"ramnas")
            # without this option ZeroMQ lets a client in if nobody answers its question
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            folder = door.authorized or door.keys.parent / "authorized_keys"
            self._authorized = keys.Authorized(folder)
            self._zap = context.socket(zmq.REP)
            self._zap.bind("inproc://zeromq.zap.01")
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        socket.setsockopt(zmq.BACKLOG, _BACKLOG)
        # each board takes an open file, so allow as many as the system does
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self._watch = handshake.Watch(socket)
        # file descriptor -> address, and the handshakes that had succeeded when it connected
        self._arrived: dict[int, tuple[str, int]] = {}
        self._entered = 0  # handshakes that have succeeded
        self._reason: str | None = None  # why the connection that ends next was refused
        self._ending = False
        self._thread = threading.Thread(target=self._stand, name="gate", daemon=True)
        self._thread.start()

    def lets_in(self, key: str) -> bool:
        """Whether this key is authorised now: it may have been revoked since its owner came in."""
        return not self._authorized or self._authorized.name_of(key.encode()) is not None

    def close(self) -> None:
        """Let nobody in any more; call it in the ROUTER's thread."""
        self._ending = True
        self._thread.join()
        if self._zap:
            self._zap.close(linger=0)
        self._watch.close()

    def _stand(self) -> None:
        poller = zmq.Poller()
        for socket in filter(None, (self._watch.monitor, self._zap)):
            poller.register(socket, zmq.POLLIN)
        while not self._ending:
            ready = dict(poller.poll(50))  # ms, so that it sees soon that it should end
            if self._zap and self._zap in ready:
                self._answer(self._zap)
            for event in self._watch.events():
                self._saw(event)

    def _answer(self, zap: zmq.Socket[bytes]) -> None:
        """Tell ZeroMQ whether to let a peer in (ZAP, https://rfc.zeromq.org/spec/27).

        Its key becomes the `User-Id` of its frames.
        """
        version, request, _, address, _, mechanism, *credentials = zap.recv_multipart()
        public = z85.encode(credentials[0]) if mechanism == b"CURVE" else b""
        answer = [b"200", b"OK", public, b""]
        if not self.lets_in(public.decode()):
            who = f"{_plain(address.decode())} with the key {public.decode()}"
            way_out = "`ramnas keys authorize` lets it in"
            self._peer_log.refuse("its key is not authorised", who, way_out)
            answer = [b"400", b"not authorised", b"", b""]
        zap.send_multipart([version, request, *answer])

    def _saw(self, event: handshake.Event) -> None:
        """Note an event: ZeroMQ reports why a handshake failed before it reports whose it was."""
        if event.kind == zmq.EVENT_ACCEPTED:
            self._arrived[event.value] = _address(event.value), self._entered
        elif event.kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._entered += 1
        elif event.kind == zmq.EVENT_DISCONNECTED:
            address, entered = self._arrived.pop(event.value, ("an unknown address", -1))
            reason, self._reason = self._reason, None
            # without a reason it may also be a board that was let in and leaves
            if reason is None and entered == self._entered:
                reason = "it does not speak ZeroMQ"
            if reason:
                self._peer_log.refuse(reason, address)
        elif event.kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._reason = ""  # _answer has already refused it, by its key
        else:
            self._reason = handshake.refusal(event)


def _address(descriptor: int) -> str:
    """The address of a peer, whose connection may already be over; with ipc it has none."""
    try:
        with sockets.socket(fileno=os.dup(descriptor)) as connection:
            return _plain(str(connection.getpeername()[0]))
    except (OSError, IndexError):
        return "an unknown address"


def _plain(address: str) -> str:
    """An address as people know it: a socket for both families shows IPv4 as ::ffff:192.168.1.7."""
    return address.removeprefix("::ffff:")
