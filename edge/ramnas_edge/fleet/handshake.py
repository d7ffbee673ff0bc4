"""What goes wrong while ZeroMQ connects, from the events of a socket's monitor, in words."""

from __future__ import annotations

import itertools
import time
from typing import Any, Callable, List, NamedTuple, Optional

import zmq
from zmq.utils.monitor import parse_monitor_message

_WATCHED = (
    zmq.EVENT_CONNECTED | zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)  # fmt: skip
SILENT_S = 4.0  # connected for so long, and no handshake
# zmq.h: of EVENT_HANDSHAKE_FAILED_PROTOCOL
CRYPTOGRAPHIC, MECHANISM_MISMATCH = 0x11000001, 0x11000002
_CURVE = 2  # of zmq.MECHANISM

_WRONG_SERVER_KEY = (
    "the host ends every handshake: most likely a wrong server key, so copy the .key that the host "
    "has now to this board again; else the host was started without keys"
)
_UNKNOWN = (
    "the host does not know the key of this board: on the host, ramnas keys authorize FILE.key "
    "with the public key of this board"
)
_WANTS_KEYS = "the host takes encrypted connections only: give --keys and --server-key"
_WANTS_NONE = "the host takes unencrypted connections only: it was started without keys"
_SILENT = (
    f"something listens there that has not said anything for {SILENT_S:.0f} s: no ramnas host, or "
    "one that hangs"
)
_names = itertools.count()


class Event(NamedTuple):
    """One of zmq.EVENT_*, with its value: a file descriptor, an errno or a code of ZeroMQ."""

    kind: int
    value: int


class Watch:
    """Watches one socket, from before it connects or binds; use it in one thread and `close` it.

    What ZeroMQ 4.3 says to a client: of a wrong server key nothing but that the connection ended
    in its handshake, again and again; of keys that one side alone has either that or a mechanism
    mismatch, on each side, as one side ends the connection before or after the other has read why;
    of a key that is not authorised, that.
    """

    def __init__(
        self, socket: zmq.Socket[Any], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._socket, self._clock = socket, clock
        self._failure: Optional[str] = None
        self._ended = 0  # handshakes that ended with no reason, in a row
        self._connected_s: Optional[float] = None  # since when, with no handshake yet
        address = f"inproc://ramnas.watch.{next(_names)}"
        self._monitor: zmq.Socket[bytes] = socket.context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.LINGER, 0)
        # ZeroMQ's own thread waits where a monitor is full
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        socket.monitor(address, _WATCHED)
        self._monitor.connect(address)

    @property
    def monitor(self) -> zmq.Socket[bytes]:
        """To poll: readable when there are events."""
        return self._monitor

    def events(self) -> List[Event]:
        """What happened since last asked; never waits."""
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
        """Why a client does not get in; None while it may still, and once it did.

        ZeroMQ tries again by itself after some failures and gives up after others: take a new
        socket to go on.
        """
        self.events()
        if self._failure is None and self._connected_s is not None:
            silent_s = self._clock() - self._connected_s
            return _SILENT if silent_s > SILENT_S else None
        return self._failure

    def close(self) -> None:
        """Before the socket, or after it."""
        if not self._socket.closed:
            self._socket.disable_monitor()
        self._monitor.close()

    def _saw(self, event: Event) -> None:
        if event.kind == zmq.EVENT_CONNECTED:
            self._connected_s = self._clock()
        elif event.kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._failure, self._ended, self._connected_s = None, 0, None
        elif event.kind == zmq.EVENT_DISCONNECTED:
            self._connected_s = None
        elif event.kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._failure = _UNKNOWN
        elif event.kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._failure = self._mismatch(event.value)
        elif event.kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._ended += 1
            if self._ended > 1 and self._failure is None:  # once may be a cut, or a host's end
                self._failure = _WRONG_SERVER_KEY if self._encrypted() else _WANTS_KEYS

    def _mismatch(self, code: int) -> str:
        if code == MECHANISM_MISMATCH:
            return _WANTS_NONE if self._encrypted() else _WANTS_KEYS
        if code == CRYPTOGRAPHIC:
            return _WRONG_SERVER_KEY
        return f"the host's handshake breaks the protocol of ZeroMQ (code {code:#x})"

    def _encrypted(self) -> bool:
        return bool(self._socket.getsockopt(zmq.MECHANISM) == _CURVE)


def why(event: Event) -> Optional[str]:
    """Why a host refused whoever the event is of, in words; None if it is no refusal."""
    if event.kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return "its key is not authorised"
    if event.kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return {
            CRYPTOGRAPHIC: "it has a wrong server key",
            MECHANISM_MISMATCH: "one side speaks CURVE and the other plain ZeroMQ",
        }.get(event.value, f"its handshake breaks the protocol of ZeroMQ (code {event.value:#x})")
    if event.kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        return "it left before its handshake was done: no board, or one side alone has keys"
    return None
