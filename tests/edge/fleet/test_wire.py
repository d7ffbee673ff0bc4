"""Every message survives the wire; damaged, oversized and foreign ones are refused."""

from __future__ import annotations

import contextlib
from typing import Any, List

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramnas_edge.board.device import this_device
from ramnas_edge.fleet import wire
from ramnas_edge.measuring import messages
from ramnas_edge.measuring.record import Block, LatencyRecord, Target, Visit
from ramnas_models.errors import WireError
from ramnas_models.space import load_space

SPACE = load_space("micro")
ARCH = SPACE.sample(np.random.default_rng(0))
VISIT = Visit(ARCH.id, "b", 0, 1, (1.0, 2.0))
RECORD = LatencyRecord(
    "run", Target(), ARCH, ARCH.id, SPACE.hash, (24, 24), "dev", "1", ("CPU",), "ok",
    visits=(VISIT,), p50_ms=1.5,
)  # fmt: skip
FROM_BOARD: List[Any] = [
    wire.Hello(wire.PROTOCOL, this_device(), (("onnxruntime-cpu", "1.2"),)),
    wire.Hello(
        wire.PROTOCOL, this_device(), (), "id", "session", "run", (wire.Holding("b", (ARCH.id,)),)
    ),
    messages.Ready(2), messages.Visited(VISIT, 1, 9), messages.Measured(RECORD), wire.Heartbeat(),
    wire.Heartbeat(1, ("b",), 3, 45.5, "MAXN", "the disk is full", True), wire.Bye("done"),
]  # fmt: skip
FROM_HOST: List[Any] = [
    wire.Welcome(wire.PROTOCOL, SPACE, Target(), "run"), wire.Refused("no"), wire.Greet(),
    wire.Ack((RECORD.key, RECORD.key)), wire.Rejected((RECORD.key,), "no"),
    wire.Drop(("b",), "late"),
    messages.Job(Block("b", "run", Target(), (ARCH,), (SPACE.min(),)), "dev"),
    wire.Heartbeat(), wire.Bye("done"),
]  # fmt: skip


@pytest.mark.parametrize("message", FROM_BOARD, ids=lambda m: type(m).__name__)
def test_a_message_of_a_board_survives_the_wire(message: Any) -> None:
    assert wire.decode_from_board(wire.encode(message)) == message


@pytest.mark.parametrize("message", FROM_HOST, ids=lambda m: type(m).__name__)
def test_a_message_of_a_host_survives_the_wire(message: Any) -> None:
    assert wire.decode_from_host(wire.encode(message)) == message


def test_an_arch_travels_in_a_few_bytes() -> None:
    job = messages.Job(Block("b", "run", Target(), (ARCH,) * 12, (SPACE.min(),)), "dev")
    assert len(wire.encode(job)) < 12 * 500


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    for decode in (wire.decode_from_board, wire.decode_from_host):
        try:
            decode(data)
        except WireError:
            continue


@given(st.sampled_from(FROM_BOARD), st.data())
def test_damaged_messages_are_refused_or_read(message: Any, data: st.DataObject) -> None:
    raw = bytearray(wire.encode(message))
    cut = data.draw(st.integers(0, len(raw) - 1))
    raw[cut] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(WireError):
        wire.decode_from_board(bytes(raw))
    with pytest.raises(WireError):
        wire.decode_from_board(bytes(wire.encode(message)[:cut]))


def test_oversized_and_foreign_messages_are_refused() -> None:
    with pytest.raises(WireError, match="exceeds the limit"):
        wire.decode_from_host(bytes(wire.MAX_BYTES + 1))
    with pytest.raises(WireError, match="not a message of a host"):
        wire.decode_from_host(wire.encode(messages.Ready()))


def test_the_hello_of_an_old_protocol_is_read_so_that_it_can_be_refused() -> None:
    old = {"type": "Hello", "protocol": 2, "device": this_device(), "engines": ()}
    assert wire.decode_from_board(msgspec.msgpack.encode(old)) == wire.Hello(2, this_device(), ())
