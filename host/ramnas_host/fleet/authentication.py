"""The host's door: encrypts its socket (CURVE), and decides by keys who may connect (ZAP)."""

from __future__ import annotations

import logging
import os
import resource
import socket as sockets
import threading
import time
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
LOOK_S = 1.0  # the folder of keys is not read again before this
_UNKNOWN_ADDRESS = "an unknown address"


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


class Authorized:
    """The public keys in a folder. It is read again when somebody connects, after LOOK_S."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._due_s = folder, float("-inf")
        self._known: dict[bytes, str] = {}
        self._wrong: list[str] = []

    def name_of(self, public: bytes) -> str | None:
        """The name under which this key may connect; None if it may not."""
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + LOOK_S
            before = self._known, self._wrong
            try:
                self._known, self._wrong = keys.load_authorized(self.folder)
            except OSError as error:
                self._wrong = [f"cannot look into {self.folder}: {error.strerror}"]
            if (self._known, self._wrong) != before:
                log.info("%d keys are authorised in %s", len(self._known), self.folder)
                for reason in self._wrong:
                    log.warning("%s", reason)
        return self._known.get(public)


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
        if door.keys and own:
            keys.server_options(socket, own)
            socket.setsockopt(zmq.ZAP_DOMAIN, b"ramnas")
            # without this option ZeroMQ lets a client in if nobody answers its question
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            self._authorized = Authorized(door.authorized or door.keys.parent / "authorized_keys")
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

        The name of its key becomes the `User-Id` of its frames.
        """
        version, request, _, address, _, mechanism, *credentials = zap.recv_multipart()
        public = z85.encode(credentials[0]) if mechanism == b"CURVE" else b""
        name = self._authorized.name_of(public)
        if name is None:
            who = f"{address.decode()} with the key {public.decode()}"
            way_out = "`ramnas keys authorize` lets it in"
            self._peer_log.refuse("its key is not authorised", who, way_out)
            zap.send_multipart([version, request, b"400", b"not authorised", b"", b""])
        else:
            zap.send_multipart([version, request, b"200", b"OK", name.encode(), b""])

    def _saw(self, event: handshake.Event) -> None:
        """Note an event: ZeroMQ reports why a handshake failed before it reports whose it was."""
        if event.kind == zmq.EVENT_ACCEPTED:
            self._arrived[event.value] = _address(event.value), self._entered
        elif event.kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._entered += 1
        elif event.kind == zmq.EVENT_DISCONNECTED:
            address, entered = self._arrived.pop(event.value, (_UNKNOWN_ADDRESS, -1))
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
    """The address of a peer, whose connection may already be over."""
    try:
        with sockets.socket(fileno=os.dup(descriptor)) as connection:
            return str(connection.getpeername()[0])
    except OSError:
        return _UNKNOWN_ADDRESS
