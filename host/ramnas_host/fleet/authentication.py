"""The host's door: CURVE on its socket, who is let in (ZAP), and who was refused and why."""

from __future__ import annotations

import logging
import os
import resource
import socket as sockets
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from ramnas_edge.fleet import handshake, keys
from ramnas_models.errors import FleetError

log = logging.getLogger(__name__)

_ZAP, _DOMAIN = "inproc://zeromq.zap.01", b"ramnas"  # https://rfc.zeromq.org/spec/27
HANDSHAKE_MS = 10_000  # whoever has not shaken hands by then is cut off
_BACKLOG = 1024  # connections that the kernel holds until they are accepted
_AGAIN_S = 60.0  # the same refusal is said once in this time
_REMEMBERED = 256  # refusals; a flood from many addresses ends there
_LOOK_S = 1.0  # the folder of keys is looked at no more often
_NOT_ZMQ = "it does not speak ZeroMQ"


@dataclass(frozen=True)
class Door:
    """Where a host binds and whom it lets in: those with a key in the folder `authorized`.

    `keys` is the host's `.key_secret`; without one nothing is encrypted and everybody is let in,
    which a public address needs `insecure` for. `authorized` None: `authorized_keys` beside it.
    """

    endpoint: str
    keys: Path | None = None
    authorized: Path | None = None
    insecure: bool = False


class Authorized:
    """The keys of a folder, read again when a file in it came, went or changed."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self._clock = folder, clock
        self._due_s = float("-inf")
        self._seen: list[tuple[str, int, int]] | None = None
        self._known: dict[bytes, str] = {}

    def name_of(self, public: bytes) -> str | None:
        """The name under which that key may connect; None if it may not."""
        if self._clock() >= self._due_s:
            self._due_s = self._clock() + _LOOK_S
            self._look()
        return self._known.get(public)

    def _look(self) -> None:
        try:
            with os.scandir(self.folder) as entries:
                found = [(e.name, (s := e.stat()).st_mtime_ns, s.st_size) for e in entries]
        except FileNotFoundError:  # the folder, or a file of it just now
            found = []
        except OSError as error:
            log.warning("cannot look into %s: %s", self.folder, error.strerror)
            return
        found.sort()
        if found != self._seen:
            self._seen = found
            self._known, wrong = keys.load_authorized(self.folder)
            for reason in wrong:
                log.warning("%s", reason)
            log.info("%d keys are authorised in %s", len(self._known), self.folder)


class RefusedConnections:
    """Who was refused and why: every one counted, each said once a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._said: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()
        self._unread: deque[str] = deque(maxlen=_REMEMBERED)

    def add(self, address: str, reason: str, detail: str = "") -> None:
        """Count by `reason`; `detail` follows it in words."""
        who = (address, reason + detail)
        now = self._clock()
        with self._lock:
            self._counts[reason] += 1
            said_s, since = self._said.pop(who, (float("-inf"), 0))
            if now - said_s < _AGAIN_S:
                self._said[who] = said_s, since + 1
                return
            more = f" ({since} more times)" if since else ""
            self._unread.append(f"{address}: {reason}{detail}{more}")
            self._said[who] = now, 0
            if len(self._said) > _REMEMBERED:
                self._said.popitem(last=False)

    def new(self) -> list[str]:
        with self._lock:
            unread = list(self._unread)
            self._unread.clear()
            return unread

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)


class Gate:
    """Stands at a ROUTER: `Gate.open` before it binds, `close` before its context ends.

    A thread of its own answers ZeroMQ's questions whom to let in, so that a host that is busy
    keeps nobody waiting; it never touches the ROUTER.
    """

    def __init__(self, context: zmq.Context[Any], socket: zmq.Socket[Any], door: Door) -> None:
        self._refusals = RefusedConnections()
        self._watch = handshake.Watch(socket)
        self._zap: zmq.Socket[bytes] | None = None
        self._authorized = Authorized(Path())
        if door.keys:
            self._authorized = Authorized(door.authorized or door.keys.parent / "authorized_keys")
            self._zap = context.socket(zmq.REP)
            self._zap.setsockopt(zmq.LINGER, 0)
            self._zap.bind(_ZAP)
        self._arrived: dict[int, tuple[str, int]] = {}  # by file descriptor, until it leaves
        self._entered = 0  # handshakes that were done
        self._reason: str | None = None  # of the failure whose connection is about to end
        stop = f"inproc://ramnas.gate.{id(self)}"
        self._stop, self._stopped = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        self._stop.bind(stop)
        self._stopped.connect(stop)
        self._thread = threading.Thread(target=self._stand, name="gate", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, context: zmq.Context[Any], socket: zmq.Socket[Any], door: Door) -> Gate:
        """FleetError for a public address without keys, FileError for keys that cannot be used."""
        if keys.is_public(door.endpoint) and not door.keys and not door.insecure:
            raise FleetError(
                f"{door.endpoint} can be reached from other machines: make keys with `ramnas keys "
                "new` and give --keys, or take everybody unencrypted with --insecure"
            )
        if door.keys:
            keys.server_options(socket, keys.load_keys(door.keys))
            socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
            # without it a client is let in while nobody answers for ZAP
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        elif keys.is_public(door.endpoint):
            log.warning("%s takes everybody, and nothing is encrypted", door.endpoint)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        socket.setsockopt(zmq.BACKLOG, _BACKLOG)
        _allow_many_connections()
        return cls(context, socket, door)

    def refused(self) -> list[str]:
        """Who was refused since last asked, with the reason, in words: the same once a minute."""
        return self._refusals.new()

    def counts(self) -> dict[str, int]:
        """How many connections were refused so far, by reason."""
        return self._refusals.counts()

    def close(self) -> None:
        """Nobody is let in from here on; call it in the thread of the ROUTER."""
        if self._thread.is_alive():
            self._stop.send(b"")
            self._thread.join()
        for socket in (self._stop, self._stopped, self._zap):
            if socket:
                socket.close(linger=0)
        self._watch.close()

    # -- the thread --------------------------------------------------------------------------------

    def _stand(self) -> None:
        poller = zmq.Poller()
        for socket in (self._stopped, self._watch.monitor, self._zap):
            if socket:
                poller.register(socket, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._stopped in ready:
                return
            if self._zap and self._zap in ready:
                self._answer(self._zap)
            for event in self._watch.events():
                self._saw(event)

    def _answer(self, zap: zmq.Socket[bytes]) -> None:
        """Whether to let one in; the name of its key becomes the `User-Id` of all its frames."""
        version, request, _, address, _, mechanism, *credentials = zap.recv_multipart()
        public = z85.encode(credentials[0]) if mechanism == b"CURVE" else b""
        name = self._authorized.name_of(public)
        if name is None:
            why = "its key is not authorised"
            how = f": {public.decode()}; `ramnas keys authorize` lets it in"
            self._refusals.add(address.decode(), why, how)
            zap.send_multipart([version, request, b"400", b"not authorised", b"", b""])
        else:
            zap.send_multipart([version, request, b"200", b"OK", name.encode(), b""])

    def _saw(self, event: handshake.Event) -> None:
        """ZeroMQ gives the reason of a failure first, then the connection that ends with it."""
        if event.kind == zmq.EVENT_ACCEPTED:
            self._arrived[event.value] = _address(event.value), self._entered
        elif event.kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._entered += 1
        elif event.kind == zmq.EVENT_DISCONNECTED:
            address, entered = self._arrived.pop(event.value, ("an unknown address", -1))
            reason, self._reason = self._reason, None
            if reason is None and entered == self._entered:
                reason = _NOT_ZMQ  # it ends without a reason, as boards do that were let in
            if reason:
                self._refusals.add(address, reason)
        elif event.kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._reason = ""  # ZAP has said it, with the key
        else:
            self._reason = handshake.why(event)


def _address(descriptor: int) -> str:
    """The peer of a connection; the event that names it may come after its end."""
    try:
        with sockets.socket(fileno=os.dup(descriptor)) as connection:
            return str(connection.getpeername()[0])
    except OSError:
        return "an unknown address"


def _allow_many_connections() -> None:
    """As many open files as the system lets this process have: a board is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
