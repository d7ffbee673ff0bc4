"""The host serves boards that these tests play, and a real agent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from ramnas_edge.board.device import Device
from ramnas_edge.fleet import keys, wire
from ramnas_edge.fleet.link import ClientKeys
from ramnas_edge.measuring import messages, profiler
from ramnas_edge.measuring.record import MOST_ROUNDS, LatencyRecord, Visit
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.store import Store
from ramnas_host.fleet.authentication import Door
from ramnas_host.fleet.boards import Status
from ramnas_host.fleet.calibration import calibrate_boards
from ramnas_host.fleet.dispatch import LONGEST_S
from ramnas_host.fleet.host import Host
from ramnas_host.fleet.router import Letter
from ramnas_models.errors import FleetError
from ramnas_models.sampling import sample_by_macs
from tests.host.fleet.hostile import (
    CLASS,
    DEVICE,
    ENGINES,
    LOOPBACK,
    PATIENCE_S,
    SPACE,
    TARGET,
    Serving,
    until,
)  # fmt: skip

ARCHS = sample_by_macs(SPACE, np.random.default_rng(0), 30)
REQUEST = Request("run", SPACE, TARGET, ARCHS)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    host = Serving(tmp_path / "s.sqlite", request=REQUEST)
    yield host
    host.close()


class Board:
    """An agent played by a test: real messages, made-up times."""

    def __init__(
        self, endpoint: str, name: str, device: Device = DEVICE, curve: ClientKeys | None = None
    ) -> None:
        self.device = device
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, name.encode())
        self.socket.setsockopt(zmq.RCVTIMEO, int(1000 * PATIENCE_S))
        if curve:
            keys.client_options(self.socket, *curve)
        self.socket.connect(endpoint)

    def join(self) -> None:
        self.send(wire.Hello(wire.PROTOCOL, self.device, ENGINES))
        welcome = self.receive()
        assert isinstance(welcome, wire.Welcome)
        assert (welcome.space, welcome.target) == (SPACE, TARGET)

    def send(self, message: Any) -> None:
        self.socket.send(wire.encode(message))

    def receive(self) -> Any:
        while True:
            message = wire.decode_from_host(self.socket.recv())
            if isinstance(message, wire.Greet):  # it seemed silent for too long
                self.join()
            elif isinstance(message, wire.Bye):
                self.send(message)
                return message
            elif not isinstance(message, wire.Heartbeat):
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

    def work(self, blocks: int = 10**6) -> set[str]:
        """Answer so many blocks, or all until the host says goodbye; returns the ids of archs."""
        done: set[str] = set()
        self.send(messages.Ready())
        while blocks:
            if not self.socket.poll(100):
                self.send(wire.Heartbeat(room=1))
                continue
            message = self.receive()
            if isinstance(message, wire.Bye):
                break
            if isinstance(message, messages.Job):
                blocks -= 1
                for record in self.records(message):
                    self.send(messages.Measured(record))
                    done.add(record.arch_id)
                self.send(messages.Ready())
        return done

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def join(serving: Serving) -> Iterator[Callable[..., Board]]:
    """A call that makes a board and has it join: join(name, device)."""
    with ExitStack() as made:

        def new(name: str, device: Device = DEVICE) -> Board:
            board = made.enter_context(closing(Board(serving.endpoint, name, device)))
            board.join()
            return board

        yield new


def kept(serving: Serving) -> list[LatencyRecord]:
    with closing(Store(serving.path)) as store:
        return store.records("run")


def test_one_board_measures_every_arch_once(serving: Serving, join: Callable[..., Board]) -> None:
    assert join("a").work() == {arch.id for arch in ARCHS}
    assert serving.join() == [CLASS]
    assert len(kept(serving)) == 30


def test_blocks_hold_about_a_dozen_archs_and_two_anchors() -> None:
    blocks = REQUEST.blocks(ARCHS)
    assert [len(b.archs) for b in blocks] == [12, 12, 6]
    assert {a for b in blocks for a in b.archs} == set(ARCHS)
    assert len({b.anchors for b in blocks}) == 1
    assert len(set(blocks[0].anchors)) == 2
    assert len({b.id for b in blocks}) == 3


def test_records_are_committed_before_they_are_acknowledged(
    serving: Serving, join: Callable[..., Board]
) -> None:
    board = join("a")
    first = board.records(board.job())[0]
    board.send(messages.Measured(first))
    board.send(messages.Measured(first))  # twice, as after a lost acknowledgement
    keys: list[wire.Key] = []
    while len(keys) < 2:
        ack = board.receive()
        assert isinstance(ack, wire.Ack)
        keys += ack.keys
    assert keys == [first.key] * 2
    assert kept(serving) == [first]


def test_what_is_recorded_is_not_asked_for_again(
    serving: Serving, join: Callable[..., Board]
) -> None:
    first = join("a")
    done = first.work(blocks=1)
    first.send(wire.Bye("leaving"))
    rest = join("b").work()
    assert done | rest == {arch.id for arch in ARCHS}
    assert not done & rest
    serving.join()
    again = Serving(serving.path, request=REQUEST)
    with closing(Board(again.endpoint, "c")) as third:
        third.join()
        assert third.receive() == wire.Bye("all is measured")
    again.join()


def test_a_board_that_falls_silent_loses_its_block_to_one_that_is_idle(
    serving: Serving, join: Callable[..., Board], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {arch.id for arch in join("dead").job().block.archs}
    alive = join("alive")
    done = alive.work(blocks=2)  # everything else
    monkeypatch.setattr(wire, "SILENCE_S", 1.0)
    again = alive.work()
    serving.join()
    assert again == taken
    assert done | taken == {arch.id for arch in ARCHS}


class Keyed:
    """A host with keys, in whose folder those of the boards `cut` and `other` are."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.authorized = folder, folder / "authorized_keys"
        for name in ("cut", "other"):
            keys.authorize(keys.new(folder, name), self.authorized)
        door = Door("tcp://127.0.0.1:*", keys.new(folder, "host"))
        self.serving = Serving(folder / "s.sqlite", door, REQUEST)
        self.close = self.serving.close

    def board(self, name: str) -> Board:
        own = keys.load_keys(self.folder / f"{name}.key_secret")
        server = keys.load_public(self.folder / "host.key")
        return Board(self.serving.endpoint, name, curve=ClientKeys(own, server))


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Keyed]:
    with closing(Keyed(tmp_path)) as host:
        yield host


def test_a_board_whose_key_is_revoked_is_cut_off_at_its_next_message(
    keyed: Keyed, caplog: pytest.LogCaptureFixture
) -> None:
    serving = keyed.serving
    with closing(keyed.board("cut")) as cut, closing(keyed.board("other")) as other:
        cut.join()
        job = cut.job()
        first, second, *_ = cut.records(job)
        cut.send(messages.Measured(first))
        assert isinstance(cut.receive(), wire.Ack)
        (keyed.authorized / "cut.key").unlink()
        cut.send(messages.Measured(second))
        until(lambda: serving.refused("its key was revoked"))
        assert "board cut has gone: its key was revoked" in caplog.text
        cut.send(wire.Hello(wire.PROTOCOL, DEVICE, ENGINES))  # nor is it let in again
        cut.send(messages.Ready())
        until(lambda: serving.refused("its key was revoked") == 3)
        assert kept(serving) == [first]
        other.join()
        assert other.work() == {arch.id for arch in ARCHS} - {first.arch_id}
        serving.join()
        while cut.socket.poll(0):
            assert isinstance(wire.decode_from_host(cut.socket.recv()), wire.Heartbeat)


def test_a_board_whose_key_is_authorised_again_goes_on_with_its_block(keyed: Keyed) -> None:
    with closing(keyed.board("cut")) as cut:
        cut.join()
        job = cut.job()
        file = keyed.authorized / "cut.key"
        file.rename(keyed.folder / "revoked")
        first, second, *others = cut.records(job)
        cut.send(messages.Measured(first))
        until(lambda: keyed.serving.refused("its key was revoked"))
        (keyed.folder / "revoked").rename(file)
        cut.send(wire.Heartbeat(holding=(job.block.id,)))
        assert isinstance(wire.decode_from_host(cut.socket.recv()), wire.Greet)
        held = wire.Holding(job.block.id, tuple(arch.id for arch in job.block.archs))
        cut.send(wire.Hello(wire.PROTOCOL, DEVICE, ENGINES, run="run", holding=(held,)))
        assert isinstance(cut.receive(), wire.Welcome)
        for record in (first, second, *others):  # the first was refused, so it is sent again
            cut.send(messages.Measured(record))
        cut.work()
        keyed.serving.join()
        assert {record.arch_id for record in kept(keyed.serving)} == {arch.id for arch in ARCHS}


def test_another_key_in_a_board_s_file_cuts_it_off_and_another_name_of_the_file_does_not(
    keyed: Keyed,
) -> None:
    with closing(keyed.board("cut")) as cut:
        cut.join()
        (keyed.authorized / "cut.key").rename(keyed.authorized / "renamed.key")
        assert cut.job().block.archs
        keys.authorize(keys.new(keyed.folder, "next"), keyed.authorized, "renamed")
        cut.send(messages.Ready())
        until(lambda: keyed.serving.refused("its key was revoked"))


@pytest.fixture
def unserved(tmp_path: Path) -> Iterator[Host]:
    """A host that does nothing by itself: letters are handed to it."""
    store = Store(tmp_path / "s.sqlite")
    with closing(Host(REQUEST, store, LOOPBACK, lambda status: None)) as host:
        yield host
    store.close()


def test_a_revoked_key_with_the_name_of_another_board_does_not_harm_that_board(
    unserved: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    hello = wire.Hello(wire.PROTOCOL, DEVICE, ENGINES)
    unserved._receive(Letter(b"name", "good", hello, 100))
    monkeypatch.setattr(unserved.router, "lets_in", lambda key: key == "good")
    unserved._receive(Letter(b"name", "revoked", wire.Bye("so long"), 100))
    assert not unserved.roster.boards[b"name"].gone
    unserved._receive(Letter(b"name", "good", wire.Bye("so long"), 100))
    assert unserved.roster.boards[b"name"].gone


def test_no_number_that_a_board_sends_moves_a_deadline_beyond_the_bound(unserved: Host) -> None:
    unserved._receive(Letter(b"a", "", wire.Hello(wire.PROTOCOL, DEVICE, ENGINES), 100))
    unserved._receive(Letter(b"a", "", messages.Ready(1), 100))
    unserved._give()
    (lease,) = unserved.roster.boards[b"a"].leases.values()
    start_s = unserved.now
    ends = (-(2**63), -1, 0, 1, 2, 10**9, 2**63, 2**64 - 1)
    for done in ends:
        for total in ends:
            visit = Visit(REQUEST.archs[0].id, lease.block.id, 0, 0, (1.0,))
            message = wire.decode_from_board(wire.encode(messages.Visited(visit, done, total)))
            for _ in range(200):
                unserved.now += 0.1
                unserved._receive(Letter(b"a", "", message, 100))
                assert lease.deadline_s <= start_s + LONGEST_S
                assert 0 <= unserved.roster.boards[b"a"].shown.inside <= len(lease.block.archs)


def test_each_device_class_gets_its_own_records(
    serving: Serving, join: Callable[..., Board]
) -> None:
    # both join before either is done, so that the host waits for both
    both = [join("a"), join("b", Device("other board", 4, 8, "Linux"))]
    threads = [threading.Thread(target=board.work) for board in both]
    for thread in threads:
        thread.start()
    assert len(serving.join()) == 2
    for thread in threads:
        thread.join()
    assert len(kept(serving)) == 60


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
    serving: Serving, join: Callable[..., Board], hello: Any, reason: str
) -> None:
    with closing(Board(serving.endpoint, "stranger")) as stranger:
        stranger.socket.send(hello if isinstance(hello, bytes) else wire.encode(hello))
        refused = stranger.receive()
    assert isinstance(refused, wire.Refused)
    assert reason in refused.reason
    assert len(join("honest").work()) == 30
    serving.join()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            FleetError, match=f"127.0.0.1:{port}.* in use; use tcp://HOST:PORT with a free port"
        ):
            calibrate_boards(REQUEST, store, door=Door(f"tcp://127.0.0.1:{port}"))
    with pytest.raises(FleetError, match="cannot bind 'nonsense'"):
        calibrate_boards(REQUEST, store, door=Door("nonsense"))


def test_a_real_agent_of_this_machine_measures(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    request = Request("run", SPACE, TARGET, ARCHS[:3])
    seen: list[Status] = []
    (device_class,) = calibrate_boards(
        request, store, local_agent_log=tmp_path / "agent.log", on_status=seen.append
    )
    records = store.records("run", device_class)
    assert {r.arch for r in records} == set(ARCHS[:3])
    # on a busy machine there are more visits, and an arch that is measured again has its own number
    assert all(8 <= len(r.visits) <= MOST_ROUNDS for r in records)
    assert (seen[-1].done, seen[-1].total, len(seen[-1].boards)) == (3, 3, 1)
    assert "all is measured" in (tmp_path / "agent.log").read_text()
