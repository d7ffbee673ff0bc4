"""The board's connection: a fresh socket whenever the host is silent, each after a longer wait."""

from __future__ import annotations

import random
import time
from typing import Iterator, List, Optional

import pytest
import zmq

from ramnas_edge.fleet import wire
from ramnas_edge.fleet.link import FIRST_WAIT_S, LONGEST_WAIT_S, Link
from ramnas_edge.measuring import messages
from ramnas_models.errors import FleetError

HANG_S = 120  # only a hang lasts so long


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


@pytest.mark.parametrize(
    ("endpoint", "reason"), [("nowhere", "cannot connect to 'nowhere'"), ("tcp://127.0.0.1", None)]
)
def test_a_wrong_endpoint_is_an_error_that_shows_a_right_one(
    endpoint: str, reason: Optional[str]
) -> None:
    with pytest.raises(FleetError, match=reason or "an endpoint is tcp://HOST:PORT"):
        Link(endpoint, "board")
