"""The board's connection: a fresh socket whenever the host is silent, each after a longer wait."""

from __future__ import annotations

import random
import socket
import time
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import pytest
import zmq

from ramnas_edge.fleet import wire
from ramnas_edge.fleet.link import FIRST_WAIT_S, LONGEST_WAIT_S, Link
from ramnas_edge.measuring import messages
from ramnas_models.errors import FleetError

HANG_S = 120  # only a hang lasts so long
getaddrinfo: Any = socket.getaddrinfo


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def router() -> Iterator[zmq.Socket]:
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.RCVTIMEO, HANG_S * 1000)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    yield socket
    context.destroy(linger=0)


def until_sent(link: Link, message: wire.FromBoard) -> None:
    poller = zmq.Poller()
    link.register(poller)
    deadline_s = time.monotonic() + HANG_S
    while not link.send(wire.encode(message)):
        assert time.monotonic() < deadline_s, "no connection"
        poller.poll(50)
        link.failure  # noqa: B018 - reads the events that woke the poller


def next_messages(link: Link) -> List[wire.FromHost]:
    poller = zmq.Poller()
    link.register(poller)
    deadline_s = time.monotonic() + HANG_S
    while True:
        received = link.receive()
        if received:
            return received
        assert time.monotonic() < deadline_s, "no message"
        poller.poll(50)
        link.failure  # noqa: B018 - reads the events that woke the poller


def waits(link: Link, clock: Clock, count: int) -> Iterator[float]:
    """Seconds until each of the next fresh sockets."""
    for _ in range(count):
        start_s = clock.now_s
        while not link.step():
            clock.now_s += 0.1
        yield clock.now_s - start_s


def test_without_a_host_nothing_is_queued_and_each_wait_is_twice_as_long() -> None:
    clock = Clock()
    link = Link("tcp://127.0.0.1:1", "board", rng=random.Random(0), clock=clock)
    assert not link.send(b"lost")
    for i, wait_s in enumerate(waits(link, clock, 6)):
        least_s = min(FIRST_WAIT_S * 2**i, LONGEST_WAIT_S)
        assert least_s <= wait_s <= 1.3 * least_s + 0.2
    assert link.silent_s == pytest.approx(clock.now_s - 100.0)
    link.close(0)


def test_a_host_that_falls_silent_is_reached_again_on_a_fresh_socket(router: zmq.Socket) -> None:
    clock = Clock()
    port = router.bind_to_random_port("tcp://127.0.0.1")
    link = Link(f"tcp://127.0.0.1:{port}", "board", rng=random.Random(0), clock=clock)
    until_sent(link, messages.Ready())
    assert router.recv_multipart() == [b"board", wire.encode(messages.Ready())]
    router.send_multipart([b"board", wire.encode(wire.Greet())])
    assert next_messages(link) == [wire.Greet()]
    clock.now_s += wire.SILENCE_S - 1
    assert not link.step()
    clock.now_s += 1.1
    assert link.step()
    until_sent(link, messages.Ready(2))  # the same routing id, on another connection
    assert router.recv_multipart() == [b"board", wire.encode(messages.Ready(2))]
    assert link.silent_s == pytest.approx(wire.SILENCE_S + 0.1)
    link.close(0)


def listening(router: zmq.Socket, host: str, port: str = "*") -> str:
    """Bind `router` and return its port."""
    router.setsockopt(zmq.IPV6, int("[" in host))
    router.bind(f"tcp://{host}:{port}")
    return str(router.getsockopt_string(zmq.LAST_ENDPOINT)).rpartition(":")[2]


def until_reached(link: Link, router: zmq.Socket, clock: Clock) -> None:
    """Go on until a message has arrived; each round of the loop counts as a second."""
    deadline_s = time.monotonic() + HANG_S
    while not (link.send(b"here") and router.poll(1000)):
        assert time.monotonic() < deadline_s, link.failure
        time.sleep(0.02)
        clock.now_s += 1.0
        link.step()
    assert router.recv_multipart() == [b"board", b"here"]


class Names:
    """A name server that knows the addresses of `host`, in place of the system's."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: Sequence[str] = addresses

    def __call__(self, host: str, *more: Any, type: int = 1) -> List[Tuple[Any, ...]]:
        if host != "host":
            return getaddrinfo(host, *more)  # type: ignore[no-any-return]
        if not self.addresses:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        six, four = socket.AF_INET6, socket.AF_INET
        return [
            (six, type, 6, "", (a, 0, 0, 0)) if ":" in a else (four, type, 6, "", (a, 0))
            for a in self.addresses
        ]


def test_a_host_is_reached_over_ipv6(router: zmq.Socket) -> None:
    if not has_ip6():
        pytest.skip("this machine has no IPv6 loopback")
    clock = Clock()
    link = Link(f"tcp://[::1]:{listening(router, '[::1]')}", "board", clock=clock)
    until_reached(link, router, clock)
    assert link.failure is None
    link.close(0)


def test_each_address_of_a_name_is_tried(
    router: zmq.Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names("::1", "127.0.0.2", "127.0.0.3"))
    clock = Clock()
    link = Link(f"tcp://host:{listening(router, '127.0.0.3')}", "board", clock=clock)
    until_reached(link, router, clock)
    link.close(0)


def test_a_name_that_has_only_an_ipv6_address_is_reached(
    router: zmq.Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_ip6():
        pytest.skip("this machine has no IPv6 loopback")
    monkeypatch.setattr(socket, "getaddrinfo", Names("::1"))
    clock = Clock()
    link = Link(f"tcp://host:{listening(router, '[::1]')}", "board", clock=clock)
    until_reached(link, router, clock)
    link.close(0)


def test_a_name_that_does_not_resolve_yet_is_asked_for_again(
    router: zmq.Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    clock = Clock()
    link = Link(f"tcp://host:{listening(router, '127.0.0.1')}", "board", clock=clock)
    until_failing(link, "'host' does not resolve: Temporary failure in name resolution")
    names.addresses = ["127.0.0.1"]
    until_reached(link, router, clock)
    assert link.failure is None
    link.close(0)


def test_a_host_that_comes_back_with_another_address_is_found(
    router: zmq.Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names("127.0.0.2")
    monkeypatch.setattr(socket, "getaddrinfo", names)
    clock = Clock()
    port = listening(router, "127.0.0.2")
    link = Link(f"tcp://host:{port}", "board", clock=clock)
    until_reached(link, router, clock)
    router.unbind(f"tcp://127.0.0.2:{port}")
    again = router.context.socket(zmq.ROUTER)
    again.setsockopt(zmq.ROUTER_HANDOVER, 1)
    router.close(linger=0)
    listening(again, "127.0.0.3", port)
    names.addresses = ["127.0.0.3"]
    until_reached(link, again, clock)
    link.close(0)
    again.close(linger=0)


def test_a_host_that_is_not_there_is_a_failure_in_words_until_it_is(router: zmq.Socket) -> None:
    with socket.socket() as free:  # bound but not listening
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        clock = Clock()
        link = Link(f"tcp://127.0.0.1:{port}", "board", clock=clock)
        until_failing(link, f"127.0.0.1 port {port}: Connection refused (no host runs there yet")
    listening(router, "127.0.0.1", str(port))
    until_reached(link, router, clock)
    assert link.failure is None
    link.close(0)


def until_failing(link: Link, reason: str) -> None:
    deadline_s = time.monotonic() + HANG_S
    while not (link.failure or "").startswith(reason):
        assert time.monotonic() < deadline_s, link.failure
        time.sleep(0.02)
        link.step()


def has_ip6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("endpoint", "reason"), [("nowhere", "cannot connect to 'nowhere'"), ("tcp://127.0.0.1", None)]
)
def test_a_wrong_endpoint_is_an_error_that_shows_a_right_one(
    endpoint: str, reason: Optional[str]
) -> None:
    with pytest.raises(FleetError, match=reason or "an endpoint is tcp://HOST:PORT"):
        Link(endpoint, "board")
