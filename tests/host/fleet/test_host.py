"""The host against boards of the test's own, and against a real agent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from ramnas_edge.board.device import Device
from ramnas_edge.fleet import wire
from ramnas_edge.measuring import messages, profiler
from ramnas_edge.measuring.record import MOST_ROUNDS, LatencyRecord, Target
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.store import Store
from ramnas_host.fleet.authentication import Door
from ramnas_host.fleet.calibration import calibrate_boards
from ramnas_host.fleet.host import Host
from ramnas_host.fleet.status import Status
from ramnas_models.errors import FleetError
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import load_space

SPACE = load_space("micro")
ARCHS = sample_by_macs(SPACE, np.random.default_rng(0), 30)
TARGET = Target(num_classes=10)
REQUEST = Request("run", SPACE, TARGET, ARCHS)
DEVICE = Device("board", 4, 8, "Linux")
ENGINES = (("onnxruntime-cpu", "1.2.3"),)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "records.sqlite")


class Serving:
    """A host that serves in a thread; SQLite and ZeroMQ objects live in that thread alone."""

    def __init__(self, path: Path, request: Request = REQUEST) -> None:
        self.path, self.request = path, request
        self.endpoint = ""
        self.result: Any = None
        self._bound = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._bound.wait(10)

    def _serve(self) -> None:
        store = Store(self.path)
        host = Host(self.request, store, lambda status: None)
        self.endpoint = host.bind(Door("tcp://127.0.0.1:*"))
        self._bound.set()
        try:
            self.result = host.serve()
        finally:
            host.close()
            store.close()

    def join(self) -> Any:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.result


class Board:
    """A scripted agent: the real messages, made-up times."""

    def __init__(self, endpoint: str, name: str, device: Device = DEVICE) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, name.encode())
        self.socket.setsockopt(zmq.RCVTIMEO, 10_000)
        self.socket.connect(endpoint)
        self.send(wire.Hello(wire.PROTOCOL, device, ENGINES))

    def send(self, message: Any) -> None:
        self.socket.send(wire.encode(message))

    def receive(self) -> Any:
        while True:
            message = wire.decode_from_host(self.socket.recv())
            if not isinstance(message, wire.Heartbeat):
                return message

    def job(self) -> messages.Job:
        self.send(messages.Ready())
        message = self.receive()
        assert isinstance(message, messages.Job)
        return message

    def records(self, job: messages.Job) -> list[LatencyRecord]:
        return [
            msgspec.structs.replace(
                profiler.failed(job.block, arch, SPACE, job.device_class, ""), validity="ok"
            )
            for arch in job.block.archs
        ]

    def work(self, count: int = 10**6) -> set[str]:
        """Pull and answer blocks until the host says goodbye or `count` blocks are done."""
        done: set[str] = set()
        self.send(messages.Ready())
        while count:
            if not self.socket.poll(300):
                self.send(wire.Heartbeat(room=1))
                continue
            message = self.receive()
            if isinstance(message, wire.Bye):
                break
            if isinstance(message, messages.Job):
                count -= 1
                for record in self.records(message):
                    self.send(messages.Measured(record))
                    done.add(record.arch_id)
                self.send(messages.Ready())
        return done

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def boards() -> Iterator[list[Board]]:
    made: list[Board] = []
    yield made
    for board in made:
        board.close()


def join(boards: list[Board], serving: Serving, name: str, device: Device = DEVICE) -> Board:
    board = Board(serving.endpoint, name, device)
    boards.append(board)
    welcome = board.receive()
    assert isinstance(welcome, wire.Welcome)
    assert (welcome.space, welcome.target) == (SPACE, TARGET)
    return board


def test_one_board_measures_every_arch_once(tmp_path: Path, boards: list[Board]) -> None:
    serving = Serving(tmp_path / "s.sqlite")
    board = join(boards, serving, "a")
    assert board.work() == {arch.id for arch in ARCHS}
    assert serving.join() == [DEVICE.class_key(*ENGINES[0])]
    assert len(Store(tmp_path / "s.sqlite").records("run")) == 30


def test_blocks_hold_about_a_dozen_archs_and_two_anchors() -> None:
    blocks = REQUEST.blocks(ARCHS)
    assert [len(b.archs) for b in blocks] == [12, 12, 6]
    assert {a for b in blocks for a in b.archs} == set(ARCHS)
    assert len({b.anchors for b in blocks}) == 1
    assert len(set(blocks[0].anchors)) == 2
    assert len({b.id for b in blocks}) == 3


def test_records_are_committed_before_they_are_acknowledged(
    tmp_path: Path, boards: list[Board]
) -> None:
    serving = Serving(tmp_path / "s.sqlite")
    board = join(boards, serving, "a")
    job = board.job()
    first = board.records(job)[0]
    board.send(messages.Measured(first))
    board.send(messages.Measured(first))  # twice, as after a lost acknowledgement
    keys: list[wire.Key] = []
    while len(keys) < 2:
        ack = board.receive()
        assert isinstance(ack, wire.Ack)
        keys += ack.keys
    assert keys == [first.key] * 2
    assert Store(tmp_path / "s.sqlite").records("run") == [first]
    for record in board.records(job)[1:]:
        board.send(messages.Measured(record))
    board.work()
    serving.join()


def test_what_is_recorded_is_not_asked_for_again(tmp_path: Path, boards: list[Board]) -> None:
    serving = Serving(tmp_path / "s.sqlite")
    first = join(boards, serving, "a")
    done = first.work(count=1)
    first.send(wire.Bye("leaving"))
    second = join(boards, serving, "b")
    rest = second.work()
    assert done | rest == {arch.id for arch in ARCHS}
    assert not done & rest
    serving.join()
    again = Serving(tmp_path / "s.sqlite")
    third = join(boards, again, "c")
    assert third.receive() == wire.Bye("all is measured")
    again.join()


def test_a_board_that_falls_silent_loses_its_block_to_another(
    tmp_path: Path, boards: list[Board], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "SILENCE_S", 4.0)
    serving = Serving(tmp_path / "s.sqlite")
    dead = join(boards, serving, "dead")
    taken = {arch.id for arch in dead.job().block.archs}
    alive = join(boards, serving, "alive")
    done = alive.work()  # it is idle when the block of the dead board comes free
    serving.join()
    assert taken <= done == {arch.id for arch in ARCHS}


def test_each_device_class_gets_its_own_records(tmp_path: Path, boards: list[Board]) -> None:
    serving = Serving(tmp_path / "s.sqlite")
    other = Device("other board", 4, 8, "Linux")
    first, second = join(boards, serving, "a"), join(boards, serving, "b", other)
    # both are known before either is done, so the host waits for both
    threads = [threading.Thread(target=b.work) for b in (first, second)]
    for thread in threads:
        thread.start()
    assert len(serving.join()) == 2
    for thread in threads:
        thread.join()
    assert len(Store(tmp_path / "s.sqlite").records("run")) == 60


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (wire.Hello(99, DEVICE, ENGINES), "it speaks protocol 99, this host 3"),
        (wire.Hello(wire.PROTOCOL, DEVICE, ()), "it has no onnxruntime-cpu, only no engine"),
        (b"\xff\x00 garbage", "not a message of a board"),
    ],
    ids=["old protocol", "no engine", "garbage"],
)
def test_a_peer_that_cannot_take_part_is_told_why(
    tmp_path: Path, boards: list[Board], hello: Any, reason: str
) -> None:
    serving = Serving(tmp_path / "s.sqlite")
    stranger = Board.__new__(Board)
    stranger.context = zmq.Context()
    stranger.socket = stranger.context.socket(zmq.DEALER)
    stranger.socket.setsockopt(zmq.RCVTIMEO, 10_000)
    stranger.socket.connect(serving.endpoint)
    boards.append(stranger)
    stranger.socket.send(hello if isinstance(hello, bytes) else wire.encode(hello))
    refused = stranger.receive()
    assert isinstance(refused, wire.Refused)
    assert reason in refused.reason
    honest = join(boards, serving, "honest")
    assert len(honest.work()) == 30
    serving.join()


def test_a_port_in_use_is_named(store: Store) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(FleetError, match=f"127.0.0.1:{port} is in use .* another port"):
            calibrate_boards(REQUEST, store, door=Door(f"tcp://127.0.0.1:{port}"))
    with pytest.raises(FleetError, match="cannot bind 'nonsense'"):
        calibrate_boards(REQUEST, store, door=Door("nonsense"))


def test_a_real_agent_of_this_machine_measures(store: Store, tmp_path: Path) -> None:
    request = Request("run", SPACE, TARGET, ARCHS[:3])
    seen: list[Status] = []
    (device_class,) = calibrate_boards(
        request, store, local_agent_log=tmp_path / "agent.log", on_status=seen.append
    )
    records = store.records("run", device_class)
    assert {r.arch for r in records} == set(ARCHS[:3])
    # more than the least where this machine is busy; one measured again may have another number
    assert all(8 <= len(r.visits) <= MOST_ROUNDS for r in records)
    assert (seen[-1].done, seen[-1].total, len(seen[-1].boards)) == (3, 3, 1)
    assert "all is measured" in (tmp_path / "agent.log").read_text()
