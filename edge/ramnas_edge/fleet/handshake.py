"""Why a ZeroMQ connection fails: the events of a socket's monitor -> a reason in words."""

from __future__ import annotations

import itertools
import time
from typing import Any, Callable, List, NamedTuple, Optional

import zmq
from zmq.utils.monitor import parse_monitor_message

_WATCHED = (
    zmq.EVENT_CONNECTED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)  # fmt: skip
SILENT_S = 4.0  # a peer that has not begun the handshake by then is reported
# values of EVENT_HANDSHAKE_FAILED_PROTOCOL, from zmq.h
CRYPTOGRAPHIC, MECHANISM_MISMATCH = 0x11000001, 0x11000002
_CURVE = 2  # a value of the socket option zmq.MECHANISM

_WRONG_SERVER_KEY = (
    "the host ends every handshake. This is most likely a wrong server key: copy the host's "
    "present .key file to this board again. Otherwise the host was started without keys"
)
_UNKNOWN = (
    "the host does not know the key of this board: on the host, run `ramnas keys authorize "
    "FILE.key` with the public key of this board"
)
_WANTS_KEYS = "the host takes encrypted connections only: give --keys and --server-key"
_WANTS_NONE = (
    "the host takes unencrypted connections only: it was started without keys. Start it with "
    "--keys, or leave out --keys and --server-key here"
)
_SILENT = (
    f"something listens there but has not said anything for {SILENT_S:.0f} s: it is no ramnas "
    "host, or one that hangs"
)
_names = itertools.count()


class Event(NamedTuple):
    """One of zmq.EVENT_*, and its value: a file descriptor, an errno or a code of ZeroMQ."""

    kind: int
    value: int


class Watch:
    """Watches one socket; make it before the socket connects or binds, and use it in one thread.

    ZeroMQ 4.3 tells a client little. If its key is not authorised, it is told so. If its server key
    is wrong, it only sees that the connection ends in the handshake, again and again. If only one
    side has keys, either side sees that or a mechanism mismatch: it depends on whether a side ends
    the connection before the other has read the reason.
    """

    def __init__(
        self, socket: zmq.Socket[Any], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._socket, self._clock = socket, clock
        self.unreached = 0  # tries to connect that have failed since it was last connected
        self._failure: Optional[str] = None
        self._ended = 0  # handshakes in a row that ended without a reason
        self._connected_s: Optional[float] = None  # when it connected, until the handshake is done
        address = f"inproc://ramnas.watch.{next(_names)}"
        self._monitor: zmq.Socket[bytes] = socket.context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.LINGER, 0)
        # no limit: ZeroMQ's own thread would wait while the monitor is full
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        socket.monitor(address, _WATCHED)
        self._monitor.connect(address)

    @property
    def monitor(self) -> zmq.Socket[bytes]:
        """A socket to poll: it is readable when there are events."""
        return self._monitor

    def events(self) -> List[Event]:
        """The events since the last call; never waits."""
        found: List[Event] = []
        while True:
            try:
                message = self._monitor.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return found
            event = parse_monitor_message(message)
            found.append(Event(int(event["event"]), int(event["value"])))
            self._saw(found[-1])

    def failure(self) -> Optional[str]:
        """Why this client cannot connect; None if it has connected, or still may.

        After some failures ZeroMQ tries again by itself and after others it gives up, so that only
        a new socket can go on.
        """
        self.events()
        if self._failure is None and self._connected_s is not None:
            silent_s = self._clock() - self._connected_s
            return _SILENT if silent_s > SILENT_S else None
        return self._failure

    def close(self) -> None:
        """Stop watching; the socket may be closed before or afterwards."""
        if not self._socket.closed:
            self._socket.disable_monitor()
        self._monitor.close()

    def _saw(self, event: Event) -> None:
        if event.kind == zmq.EVENT_CONNECTED:
            self._connected_s, self.unreached = self._clock(), 0
        elif event.kind == zmq.EVENT_CONNECT_RETRIED:
            self.unreached += 1
        elif event.kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._failure, self._ended, self._connected_s = None, 0, None
        elif event.kind == zmq.EVENT_DISCONNECTED:
            # ZeroMQ then says that it will connect again, and only after that whether it could
            self._connected_s, self.unreached = None, -1
        elif event.kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._failure = _UNKNOWN
        elif event.kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._failure = self._mismatch(event.value)
        elif event.kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._ended += 1
            # a single one may be a network that was cut, or a host that ended
            if self._ended > 1 and self._failure is None:
                self._failure = _WRONG_SERVER_KEY if self._encrypted() else _WANTS_KEYS

    def _mismatch(self, code: int) -> str:
        if code == MECHANISM_MISMATCH:
            return _WANTS_NONE if self._encrypted() else _WANTS_KEYS
        if code == CRYPTOGRAPHIC:
            return _WRONG_SERVER_KEY
        return f"the host's handshake breaks ZeroMQ's protocol (code {code:#x})"

    def _encrypted(self) -> bool:
        return bool(self._socket.getsockopt(zmq.MECHANISM) == _CURVE)


def refusal(event: Event) -> Optional[str]:
    """Why a host refused the peer that `event` is about; None if the event is not a refusal."""
    if event.kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return "its key is not authorised"
    if event.kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return {
            CRYPTOGRAPHIC: "it has a wrong server key",
            MECHANISM_MISMATCH: "one side speaks CURVE and the other plain ZeroMQ",
        }.get(event.value, f"its handshake breaks ZeroMQ's protocol (code {event.value:#x})")
    if event.kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        return "it left during the handshake: it is not a board, or only one side has keys"
    return None
