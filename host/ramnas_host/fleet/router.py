"""The host's one ROUTER socket, which receives the messages of all boards and sends theirs."""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import NamedTuple

import zmq

from ramnas_edge.fleet import endpoint as endpoints
from ramnas_edge.fleet import keys, wire
from ramnas_edge.measuring.messages import Measured
from ramnas_host.fleet.authentication import Door, Gate
from ramnas_host.fleet.peer_log import PeerLog, printable
from ramnas_models.errors import FleetError, WireError

log = logging.getLogger(__name__)
QUEUED = 24  # messages that wait for one peer: few enough that a thousand peers fit in memory
GROUP, GROUP_S = 1000, 0.05  # after this many messages, or seconds, the host commits what came
MAX_OTHER_BYTES = 2**16  # the limit of every message but Measured
FAREWELL_S = 2.0


_WAY_OUT = "use tcp://HOST:PORT with a free port, or with * for any free one"
_WAYS_OUT = {
    errno.EACCES: "ports below 1024 belong to root: use a higher one, such as 5555",
    errno.EADDRNOTAVAIL: "this machine does not have that address: `ip address` lists those that "
    "it has, and tcp://*:PORT takes all of them",
}


class Letter(NamedTuple):
    """What came from one peer: a message, or the reason why it is not one."""

    name: bytes  # the routing id of the peer
    key: str  # its public key (Z85); empty without CURVE
    message: wire.FromBoard | WireError
    size: int  # bytes


class Router:
    """A ROUTER socket bound to `endpoint`. Only `letters` and `farewell` wait."""

    def __init__(self, door: Door, peer_log: PeerLog) -> None:
        """Bind `door`; FleetError if that is impossible."""
        # from here on it is an address: who may connect to it without keys depends on that
        address = _address(door.endpoint)
        self._keyed = door.keys is not None
        self.drained = True  # whether the last call of `letters` left nothing behind
        with ExitStack() as opened:
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            opened.callback(context.destroy, linger=1000)
            self._socket = context.socket(zmq.ROUTER)
            self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            # a board that comes back on a new connection keeps its name
            self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
            # a message up to twice the cap still arrives, so that its sender can be told
            self._socket.setsockopt(zmq.MAXMSGSIZE, 2 * wire.MAX_BYTES)
            self._socket.setsockopt(zmq.RCVHWM, QUEUED)
            at = replace(door, endpoint=address)
            gate = opened.enter_context(closing(Gate(context, self._socket, at, peer_log)))
            self.lets_in = gate.lets_in
            self._bind(door.endpoint, address)
            self.endpoint = str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))
            self.close = opened.pop_all().close

    def _bind(self, endpoint: str, address: str) -> None:
        # IPv6 needs an option, with which * is both families and ZeroMQ writes IPv4 as IPv6
        for ip6 in (1, 0) if "[" in address or "//*:" in address else (0, 1):
            self._socket.setsockopt(zmq.IPV6, ip6)
            try:
                self._socket.bind(address)
            except zmq.ZMQError as error:
                number = error.errno or 0
                if number not in (errno.ENODEV, errno.EAFNOSUPPORT):  # another family may do
                    break
            else:
                return
        reason, way_out = zmq.strerror(number), _WAYS_OUT.get(number, _WAY_OUT)
        raise FleetError(f"cannot bind '{endpoint}': {reason}; {way_out}")

    def letters(self, wait_s: float) -> Iterator[Letter]:
        """Wait for letters, then give those that came: not so many that their commit is late."""
        self._socket.poll(int(1000 * wait_s))
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
            key = str(frame.get("User-Id")) if self._keyed else ""
            yield Letter(name, key, _decoded(frame.bytes, frames), len(frame.bytes))
            if count % 64 == 63 and time.monotonic() > end_s:
                return

    def send(self, name: bytes, message: wire.FromHost) -> bool:
        """Send without waiting; False if the peer is gone or does not read: the message is lost."""
        try:
            # two sends take half the time of send_multipart
            self._socket.send(name, zmq.SNDMORE | zmq.DONTWAIT)
            self._socket.send(wire.encode(message), zmq.DONTWAIT)
        except zmq.ZMQError as error:  # the board's silence will show what is wrong
            log.debug("cannot send to %s: %s", printable(name), error)
            return False
        return True

    def farewell(self, names: Iterable[bytes]) -> None:
        """Say goodbye to these boards until each has answered, for FAREWELL_S at most.

        A socket that is closed while messages are unread loses those that it has just sent.
        """
        here, now = set(names), time.monotonic()
        end_s, again_s = now + FAREWELL_S, now
        while here and (now := time.monotonic()) < end_s:
            if now >= again_s:
                again_s = now + FAREWELL_S / 4
                here = {name for name in here if self.send(name, wire.Bye("all is measured"))}
            letters = self.letters(FAREWELL_S / 20)
            here -= {one.name for one in letters if isinstance(one.message, wire.Bye)}


def _address(endpoint: str) -> str:
    """The address to bind; FleetError if `endpoint` is not one, or has a name without an address.

    Names of network interfaces are left to ZeroMQ.
    """
    try:
        parsed = endpoints.parse(endpoint, binds=True)
    except ValueError as error:
        raise FleetError(f"cannot bind '{endpoint}': {error}; {_WAY_OUT}") from error
    interfaces = [name for _, name in socket.if_nameindex()]
    if parsed.transport != "tcp" or parsed.host in ("*", *interfaces):
        return endpoint
    try:
        address = endpoints.addresses(parsed)[0]
    except OSError as error:
        raise FleetError(
            f"cannot bind '{endpoint}': '{parsed.host}' does not resolve ({error.strerror}), and "
            f"no network interface of this machine has that name; it has {', '.join(interfaces)}, "
            "and tcp://*:PORT takes all of them"
        ) from error
    if keys.is_public(endpoint) and not keys.is_public(address):  # as in many an /etc/hosts
        log.warning(
            "%s is %s here, which only agents of this machine can reach; tcp://*:PORT is for all",
            endpoint, address,
        )  # fmt: skip
    return address


def _decoded(data: bytes, frames: int) -> wire.FromBoard | WireError:
    if frames != 1:
        return WireError(f"a message of {frames} frames; it must have one")
    try:
        message = wire.decode_from_board(data)
    except WireError as error:
        return error
    if len(data) > MAX_OTHER_BYTES and not isinstance(message, Measured):
        return WireError(f"a {type(message).__name__} of {len(data)} bytes")
    return message
