"""Hostile peers: the host counts and refuses them, and an honest board does not notice."""

from __future__ import annotations

import math
import socket as sockets
import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ramnas_edge.fleet import wire
from ramnas_edge.measuring import messages
from ramnas_edge.measuring.record import LatencyRecord, Visit
from ramnas_edge.measuring.store import Store
from ramnas_host.fleet.boards import MAX_CLASSES
from ramnas_models.errors import WireError
from ramnas_models.sampling import sample_by_macs
from tests.host.fleet.hostile import (
    ARCHS,
    CLASS,
    DEVICE,
    ENGINES,
    PATIENCE_S,
    SPACE,
    TARGET,
    Honest,
    Raw,
    Serving,
    measured,
    read_to_the_end,
    until,
)

EXAMPLES, EACH = 250, 42  # 10,500 messages
CONNECTIONS = 10_000


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One host under all attacks."""
    host = Serving(tmp_path_factory.mktemp("hostile") / "s.sqlite")
    yield host
    host.close()


@pytest.fixture(scope="module")
def honest(serving: Serving) -> Iterator[Honest]:
    """A board that works from the first attack to the last; then the store has only its records."""
    board = Honest(serving.endpoint)
    until(lambda: len(board.acked) > 0)
    yield board
    board.finish()
    assert serving.alive
    store = Store(serving.path)
    kept = {record.key: record for record in store.records("run", CLASS)}
    assert kept == board.sent
    assert store.runs() == ["run"]
    store.close()


class Stranger:
    """A DEALER that sends whatever it is given."""

    def __init__(self, endpoint: str, name: bytes) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, name)
        self.socket.setsockopt(zmq.SNDTIMEO, int(1000 * PATIENCE_S))
        self.socket.setsockopt(zmq.RCVTIMEO, int(1000 * PATIENCE_S))
        self.socket.connect(endpoint)

    def receive(self, kind: type | tuple[type, ...]) -> Any:
        while True:
            message = wire.decode_from_host(self.socket.recv())
            if isinstance(message, kind):
                return message

    def send(self, message: Any) -> None:
        self.socket.send(wire.encode(message))

    def job(self) -> messages.Job:
        """Say Hello and take a block."""
        self.send(wire.Hello(wire.PROTOCOL, DEVICE, ENGINES, board="evil", session="1"))
        self.receive(wire.Welcome)
        self.send(messages.Ready())
        job = self.receive(messages.Job)
        assert isinstance(job, messages.Job)
        return job

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def stranger(serving: Serving, honest: Honest) -> Iterator[Stranger]:
    made = Stranger(serving.endpoint, b"stranger")
    yield made
    made.close()


# -- messages that hypothesis makes ----------------------------------------------------------------

VISIT = Visit(ARCHS[0].id, "b", 0, 0, (1.0, 2.0))
RECORD = LatencyRecord(
    "run", TARGET, ARCHS[0], ARCHS[0].id, SPACE.hash, (32, 32), CLASS, "1", (), "ok",
    visits=(VISIT,),
)  # fmt: skip
REAL = [
    wire.Hello(99, DEVICE, ENGINES, "id", "s", "run", (wire.Holding("j", ("a", "b")),)),
    messages.Ready(2), messages.Visited(VISIT, 3, 9), messages.Measured(RECORD),
    wire.Heartbeat(1, ("j",), 3, 51.5, "15W", "hot"), wire.Bye("so long"),
]  # fmt: skip
BYTES = [wire.encode(message) for message in REAL]
TREES = [msgspec.msgpack.decode(data) for data in BYTES]
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(),
    st.text(max_size=8), st.binary(max_size=8), st.just([]), st.just({}), st.just({"type": 1}),
)  # fmt: skip
trees = st.recursive(
    leaves,
    lambda t: st.lists(t, max_size=3) | st.dictionaries(st.text(max_size=4), t, max_size=3),
    max_leaves=4,
)


@st.composite
def truncated(draw: st.DrawFn) -> bytes:
    data = draw(st.sampled_from(BYTES))
    return data[: draw(st.integers(0, len(data) - 1))]


@st.composite
def garbled(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(BYTES)))
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@st.composite
def of_wrong_types(draw: st.DrawFn) -> bytes:
    """A real message with any value somewhere in it."""
    tree = msgspec.msgpack.decode(msgspec.msgpack.encode(draw(st.sampled_from(TREES))))
    node = tree
    while True:
        places = list(node) if isinstance(node, dict) else range(len(node))
        place = draw(st.sampled_from(list(places)))
        inside = node[place]
        if isinstance(inside, (dict, list)) and inside and draw(st.booleans()):
            node = inside
            continue
        node[place] = draw(leaves)
        return msgspec.msgpack.encode(tree)


def nested(depth: int) -> bytes:
    return b"\x81\xa4type\x91" + b"\x91" * depth + b"\x90"


frames = st.lists(
    st.one_of(
        st.binary(max_size=300),
        truncated(),
        garbled(),
        of_wrong_types(),
        trees.map(msgspec.msgpack.encode),
        st.sampled_from(BYTES),
        st.integers(0, 5000).map(nested),
    ).map(lambda data: [data])
    | st.lists(st.binary(max_size=20), min_size=2, max_size=5),
    min_size=EACH,
    max_size=EACH,
)


class Flood:
    """Counts what strangers sent, and how much of it cannot be a message."""

    def __init__(self, serving: Serving) -> None:
        self.serving, self.sent, self.nonsense = serving, 0, 0
        self.before = serving.refused("not a message")

    def send(self, socket: zmq.Socket[bytes], parts: list[bytes]) -> None:
        socket.send_multipart(parts)
        self.sent += 1
        try:
            if len(parts) != 1:
                raise WireError("frames")
            wire.decode_from_board(parts[0])
        except WireError:
            self.nonsense += 1

    def counted(self) -> bool:
        return self.serving.refused("not a message") - self.before == self.nonsense


def test_ten_thousand_messages_of_any_kind_are_counted_and_refused(
    serving: Serving, honest: Honest
) -> None:
    flood = Flood(serving)
    progress = len(honest.acked)
    strangers = [Stranger(serving.endpoint, f"stranger {i}".encode()) for i in range(4)]

    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate],  # the host has a memory, so a smaller example would prove nothing
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(frames, st.sampled_from(strangers))
    def attack(messages: list[list[bytes]], stranger: Stranger) -> None:
        for parts in messages:
            flood.send(stranger.socket, parts)
        assert serving.alive

    try:
        attack()
        assert flood.sent >= 10_000
        assert flood.nonsense > 5_000
        until(flood.counted)
    finally:
        for stranger in strangers:
            stranger.close()
    assert serving.refused("not said Hello") > 0  # real messages, from peers that never said Hello
    until(lambda: len(honest.acked) > progress)
    assert honest.trouble == []


def test_made_up_boards_and_classes_do_not_keep_an_honest_board_out(
    serving: Serving, honest: Honest
) -> None:
    progress = len(honest.acked)
    hello = wire.Hello(wire.PROTOCOL, DEVICE, ENGINES, board="evil", session="1")
    for i in range(MAX_CLASSES + 10):
        stranger = Stranger(serving.endpoint, f"made up {i}".encode())
        device = msgspec.structs.replace(DEVICE, module=f"made up {i}")
        stranger.send(msgspec.structs.replace(hello, device=device))
        assert isinstance(stranger.receive((wire.Welcome, wire.Refused)), wire.Welcome)
        stranger.send(wire.Bye("so long"))
        stranger.send(wire.Heartbeat())
        stranger.receive(wire.Greet)  # so the Bye has been read
        stranger.close()
    until(lambda: len(serving.status.classes) <= MAX_CLASSES)
    until(lambda: len(honest.acked) > progress)
    assert honest.trouble == []


def test_texts_that_are_too_long_are_refused_or_cut(serving: Serving, stranger: Stranger) -> None:
    long = "\x1b[2J" * 10_000
    device = msgspec.structs.replace(DEVICE, module=long)
    stranger.send(wire.Hello(wire.PROTOCOL, device, ENGINES, board="evil", session="1"))
    assert "characters" in stranger.receive(wire.Refused).reason
    stranger.send(wire.Hello(wire.PROTOCOL, DEVICE, ENGINES, board="evil", session="1"))
    stranger.receive(wire.Welcome)
    stranger.send(wire.Heartbeat(temperature_c=math.nan, power_mode=long, error=long))
    stranger.send(wire.Bye(long))
    left = ("stranger", "gone")
    until(lambda: left in [(b.name, b.state) for b in serving.status.boards])
    shown = msgspec.json.encode(serving.status)
    assert len(shown) < 100_000
    assert b"u001b" not in shown


# -- records ---------------------------------------------------------------------------------------


def test_a_record_for_a_job_that_was_never_given_is_refused(
    serving: Serving, stranger: Stranger
) -> None:
    job = stranger.job()
    (arch, *_) = job.block.archs
    good = measured(job, arch)
    replace = msgspec.structs.replace
    unknown = sample_by_macs(SPACE, np.random.default_rng(7), 9)[-1]
    wrong = [
        replace(good, run="another run"),
        replace(good, device_class="another class"),
        replace(good, space_hash="0" * 12),
        replace(good, model="of a bundle"),
        replace(good, target=replace(TARGET, batch=2)),
        replace(good, arch=unknown, arch_id=unknown.id),
        replace(good, arch=unknown),  # under the id of one that was asked for
    ]
    before = serving.refused("job that was never given")
    for record in wrong:
        stranger.send(messages.Measured(record))
        assert "never given" in stranger.receive(wire.Rejected).reason
    until(lambda: serving.refused("job that was never given") == before + len(wrong))
    stranger.send(wire.Bye(""))


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "changes",
    [
        {"validity": "fine"}, {"p50_ms": NAN}, {"p50_ms": 1e9}, {"p90_ms": None}, {"cv": NAN},
        {"p95_ms": INF}, {"p90_bound_ms": NAN}, {"stages_ms": {"run": NAN}}, {"mean_ms": -1.0},
        {"visits": "times"}, {"visits": "negative"}, {"visits": "start"}, {"visits": "empty"},
        {"visits": "of another"}, {"anchors": "times"}, {"reason": "x" * 9000},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_a_record_with_values_that_cannot_be_true_is_refused(
    serving: Serving, stranger: Stranger, changes: dict[str, Any]
) -> None:
    job = stranger.job()
    good = measured(job, job.block.archs[0])
    first = good.visits[0]
    replace = msgspec.structs.replace
    visits = {
        "times": replace(first, times_ms=(1.0, NAN, 1.1)),
        "negative": replace(first, times_ms=(1.0, -1.0)),
        "start": replace(first, start_s=NAN),
        "empty": replace(first, times_ms=()),
        "of another": replace(first, arch_id="another"),
    }
    for field in ("visits", "anchors"):
        if isinstance(changes.get(field), str):
            changes = {field: (visits[changes[field]], *good.visits[1:])}
    stranger.send(messages.Measured(replace(good, **changes)))
    assert stranger.receive(wire.Rejected).keys == (good.key,)
    stranger.send(wire.Bye(""))
    store = Store(serving.path)
    assert good.key not in {record.key for record in store.records("run")}  # and all can be read
    store.close()


# -- frames and connections ------------------------------------------------------------------------


def test_a_message_over_the_cap_is_refused(serving: Serving, stranger: Stranger) -> None:
    before = serving.refused("not a message")
    stranger.socket.send(bytes(wire.MAX_BYTES + 1))
    stranger.socket.send(b"nonsense")
    until(lambda: serving.refused("not a message") == before + 2)


def test_a_frame_that_claims_to_be_endless_ends_its_connection(
    serving: Serving, honest: Honest
) -> None:
    for size in (wire.MAX_BYTES * 3, 2**40, 2**63 - 1):
        raw = Raw(serving.port)
        raw.shake_hands(b"endless")
        raw.socket.sendall(b"\x02" + struct.pack(">Q", size) + b"x" * 1000)
        read_to_the_end(raw.socket)
        raw.close()


def test_frames_that_end_half_way_are_not_messages(serving: Serving, honest: Honest) -> None:
    acked = len(honest.acked)
    until(lambda: len(honest.acked) > acked + 1)  # the host has read all that came before
    before = serving.refused()
    for data in BYTES:
        raw = Raw(serving.port)
        raw.shake_hands(b"half way")
        header = b"\x02" + struct.pack(">Q", len(data))
        raw.socket.sendall(header + data[: len(data) // 2])
        raw.close()
    raw = Raw(serving.port)
    raw.shake_hands(b"whole")
    raw.socket.sendall(b"\x00\x03abc")
    until(lambda: serving.refused() > before)
    raw.close()
    assert serving.refused() == before + 1  # the whole one alone arrived


def test_ten_thousand_connections_opened_and_dropped_are_counted(
    serving: Serving, honest: Honest
) -> None:
    before, progress = serving.refused("during the handshake"), len(honest.acked)
    abrupt = struct.pack("ii", 1, 0)  # the connection is reset, so that no port stays in use
    for i in range(CONNECTIONS):
        connection = sockets.create_connection(("127.0.0.1", serving.port), timeout=PATIENCE_S)
        if i % 2:
            connection.sendall(b"\xff\0\0")
        connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, abrupt)
        connection.close()
    until(lambda: serving.refused("during the handshake") - before == CONNECTIONS)
    until(lambda: len(honest.acked) > progress)
    assert honest.trouble == []
