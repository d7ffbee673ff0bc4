"""A board's one connection to its host, made again on a fresh socket if the host falls silent."""

from __future__ import annotations

import contextlib
import random
import time
from concurrent.futures import Future, TimeoutError
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

import zmq

from ramnas_edge.fleet import endpoint as endpoints
from ramnas_edge.fleet import wire
from ramnas_edge.fleet.endpoint import Endpoint, Found
from ramnas_edge.fleet.handshake import Watch
from ramnas_edge.fleet.keys import Keys, client_options
from ramnas_models.errors import FleetError, WireError

FIRST_WAIT_S, LONGEST_WAIT_S = 4.5, 30.0  # how long to wait for a host's first message on a socket
RECONNECT_MS = 200  # how often ZeroMQ itself tries to connect the same socket
CONNECT_MS = 3000  # a machine that does not answer by then is tried again, or its next address
NEXT_S = 0.5  # between two addresses of the same host
QUICK_S = 0.2  # addresses and most names are known by then


class ClientKeys(NamedTuple):
    """The keys that a board needs for CURVE: its own pair, and the host's public key (Z85)."""

    own: Keys
    server_public: bytes


def checked(endpoint: str) -> Endpoint:
    """Take the endpoint of a host apart; FleetError says what is wrong with it."""
    try:
        return endpoints.parse(endpoint)
    except ValueError as error:
        raise _refused(endpoint, error) from error


class Link:
    """Sends and receives whole messages on a DEALER socket, and never waits.

    Call `step` in every round of the loop. It takes a fresh socket if the host was heard and has
    been silent for `wire.SILENCE_S`, or if it has said nothing on a new socket. The wait on a new
    socket begins at FIRST_WAIT_S and doubles each time up to LONGEST_WAIT_S. A random part is
    added, so that the boards of a fleet do not all come back in the same moment.

    The host's name is resolved for each socket, because its address may change. If it has several
    addresses, each is tried in turn.
    """

    def __init__(
        self,
        endpoint: str,
        name: str,
        client_keys: Optional[ClientKeys] = None,
        *,
        rng: Optional[random.Random] = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """FleetError if `endpoint` cannot be one; a name that does not resolve is a `failure`."""
        self._host = checked(endpoint)
        self.endpoint, self.name = endpoint, name
        self._keys, self._rng, self._clock = client_keys, rng or random.Random(), clock
        self._context = zmq.Context()
        self._tries = 0  # sockets in a row on which no host was heard
        self._heard_s: Optional[float] = None  # when the host was last heard on this socket
        self._lost_s = clock()  # when it was last heard on an earlier socket, or the start
        self._addresses: Tuple[str, ...] = ()  # of the host
        self._turn = 0  # of the address that is tried
        self._unreachable = ""  # why no address answers, or why there is none
        self._connect()

    @property
    def silent_s(self) -> float:
        """Seconds since the host was last heard, on this or an earlier socket."""
        return self._clock() - (self._lost_s if self._heard_s is None else self._heard_s)

    @property
    def failure(self) -> Optional[str]:
        """Why there is no connection, in words; None if there is one or the reason is unknown."""
        failure = self._watch.failure()
        if failure or (self._dialled and self._watch.unreached < 1):
            return failure
        return self._unreachable or None

    def register(self, poller: zmq.Poller) -> None:
        """Make `poller` wake up when a message or news of the connection has come."""
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._watch.monitor, zmq.POLLIN)

    def send(self, data: bytes) -> bool:
        """Send `data`; False if there is no connection, or the host does not read."""
        try:
            self._socket.send(data, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def receive(self) -> List[wire.FromHost]:
        """Every message that has come; FleetError if the peer does not speak this protocol."""
        messages: List[wire.FromHost] = []
        while True:
            try:
                data = self._socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                return messages
            try:
                messages.append(wire.decode_from_host(data))
            except WireError as error:
                raise FleetError(
                    f"{self.endpoint} does not speak protocol {wire.PROTOCOL} of ramnas: {error}"
                ) from error
            self._heard_s, self._tries = self._clock(), 0

    def step(self) -> bool:
        """Take a fresh socket if it is time. True if so: the host must then be greeted again."""
        self._find()
        now = self._clock()
        heard = self._heard_s is not None
        if self.silent_s < wire.SILENCE_S if heard else now < self._patient_until_s:
            return False
        if self._heard_s is not None:
            self._lost_s = self._heard_s
        self._tries += 1
        self._disconnect()
        self._connect()
        return True

    def close(self, linger_ms: int = 500) -> None:
        self._watch.close()
        self._socket.close(linger=linger_ms)
        self._context.term()

    def _connect(self) -> None:
        dealer: zmq.Socket[Any] = self._context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.IDENTITY, self.name.encode())
        dealer.setsockopt(zmq.MAXMSGSIZE, wire.MAX_BYTES)
        dealer.setsockopt(zmq.IMMEDIATE, 1)  # queue nothing while no host is connected
        dealer.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        dealer.setsockopt(zmq.RECONNECT_IVL_MAX, 10 * RECONNECT_MS)
        dealer.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
        dealer.setsockopt(zmq.LINGER, 0)
        if self._keys:
            client_options(dealer, self._keys.own, self._keys.server_public)
        self._socket, self._watch = dealer, Watch(dealer)
        self._dialled = ""  # the address that this socket connects to, as ZeroMQ takes it
        self._dialled_s = 0.0
        self._lookup: Optional[Future[Found]] = None  # novermin
        self._asked_why = False
        if self._host.transport != "tcp":
            self._dial((self.endpoint,))
        else:
            self._lookup = endpoints.look_up(self._host, ask_why=False)
            self._find(QUICK_S)
        self._heard_s = None
        wait_s = min(FIRST_WAIT_S * 2**self._tries, LONGEST_WAIT_S)
        self._patient_until_s = self._clock() + wait_s * self._rng.uniform(1.0, 1.3)

    def _find(self, wait_s: float = 0.0) -> None:
        """Take what was found out about the host, connect its address, or its next one."""
        if self._lookup:
            try:
                found = self._lookup.result(wait_s)
            except TimeoutError:
                found = None
            if found:
                self._lookup, self._unreachable = None, found.failure
                if found.addresses and (not self._dialled or found.addresses != self._addresses):
                    self._dial(found.addresses)
        self._watch.events()
        if self._watch.unreached < 1 or self._host.transport != "tcp":
            return
        if not self._asked_why and not self._lookup:
            self._asked_why = True  # once for each socket
            self._lookup = endpoints.look_up(self._host, ask_why=True)
        if len(self._addresses) > 1 and time.monotonic() - self._dialled_s > NEXT_S:
            self._turn += 1
            self._dial(self._addresses)

    def _dial(self, addresses: Tuple[str, ...]) -> None:
        """Connect the socket to the address whose turn it is, and to no other."""
        if self._dialled:
            with contextlib.suppress(zmq.ZMQError):
                self._socket.disconnect(self._dialled)
        self._addresses, self._dialled_s = addresses, time.monotonic()
        self._dialled = addresses[self._turn % len(addresses)]
        # without this option ZeroMQ takes no IPv6, and with it no IPv4 where IPv6 is switched off
        self._socket.setsockopt(zmq.IPV6, int("[" in self._dialled))
        try:
            self._socket.connect(self._dialled)
        except zmq.ZMQError as error:
            self._disconnect()
            self._context.term()
            raise _refused(self.endpoint, error) from error

    def _disconnect(self) -> None:
        self._watch.close()
        self._socket.close(linger=0)


def _refused(endpoint: str, why: Exception) -> FleetError:
    return FleetError(f"cannot connect to '{endpoint}': {why}; an endpoint is tcp://HOST:PORT")
