"""The agent against a host of the test's own: a real socket, and the agent a real process."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Type

import msgspec
import numpy as np
import psutil
import pytest
import zmq

from ramnas_edge.fleet import agent, wire
from ramnas_edge.measuring import messages, supervisor
from ramnas_edge.measuring.board_lock import BoardLock
from ramnas_edge.measuring.record import FAILED, INCONCLUSIVE, OK, Block, LatencyRecord, Target
from ramnas_models.errors import FleetError
from ramnas_models.space import load_space
from tests.edge.measuring.hanging import Hanging

SPACE = load_space("micro")
TARGET = Target(num_classes=10)
HANG_S = 300  # only a hang lasts so long
ENDLESS = 10**6  # rounds


class TestHost:
    """One ROUTER socket that speaks to one agent."""

    __test__ = False

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.RCVTIMEO, HANG_S * 1000)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self.seen: List[Any] = []

    def send(self, message: Any) -> None:
        self.socket.send_multipart([b"board", wire.encode(message)])

    def until(self, kind: Type[Any]) -> Any:
        """The next message of `kind`; the messages before it are kept in `seen`."""
        while True:
            name, data = self.socket.recv_multipart()
            assert name == b"board"
            message = wire.decode_from_board(data)
            if isinstance(message, wire.Heartbeat):
                self.send(message)  # an agent leaves a host that is silent
            if isinstance(message, kind):
                return message
            self.seen.append(message)

    def records(self, count: int) -> Dict[wire.Key, LatencyRecord]:
        """The next `count` records by their key: an unanswered one may be sent more than once."""
        found: Dict[wire.Key, LatencyRecord] = {}
        while len(found) < count:
            record = self.until(messages.Measured).record
            found.setdefault(record.key, record)
        return found

    def welcome(self, run: str = "") -> messages.Ready:
        """Welcome the agent, and wait until it asks for blocks."""
        self.send(wire.Welcome(wire.PROTOCOL, SPACE, TARGET, run))
        return self.until(messages.Ready)

    def close(self) -> None:
        self.context.destroy(linger=0)


class AgentHost(TestHost):
    """A host that has started its agent as a process."""

    def __init__(self, spool: Path) -> None:
        super().__init__()
        self.command = [
            sys.executable, "-m", "ramnas_edge", "agent", "--connect", self.endpoint,
            "--name", "board", "--spool", str(spool),
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        self.agent = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)
        self.seen = []

    def kill(self) -> None:
        self.agent.kill()
        self.agent.communicate()

    def end(self) -> int:
        self.send(wire.Bye("the test is over"))
        return self.agent.wait(timeout=HANG_S)

    def close(self) -> None:
        self.kill()
        super().close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[AgentHost]:
    host = AgentHost(tmp_path / "spool.sqlite")
    yield host
    host.close()


def job(*archs: Any, **changes: Any) -> messages.Job:
    block = Block(
        "b", "run", TARGET, archs, (SPACE.min(),), most_rounds=8, runs=6, warm_up_ms=0.0,
        timed_ms=0.0,
    )  # fmt: skip
    return messages.Job(msgspec.structs.replace(block, **changes), "dev")


def test_agent_greets_pulls_measures_and_leaves(host: AgentHost) -> None:
    hello = host.until(wire.Hello)
    assert hello.protocol == wire.PROTOCOL
    assert "onnxruntime-cpu" in dict(hello.engines)
    host.welcome()
    host.send(job(SPACE.min(), SPACE.max(), rounds=80))
    records = host.records(2).values()
    assert {r.arch for r in records} == {SPACE.min(), SPACE.max()}
    assert {r.device_class for r in records} == {"dev"}
    done = [m.done for m in host.seen if isinstance(m, messages.Visited)]
    assert len(done) > 1
    steps = np.diff(done)
    assert (steps <= 0).sum() <= 1  # it begins again at 1 if an arch was doubtful
    assert steps.max() > 1  # the newest of each tenth of a second
    for record in records:
        host.send(wire.Ack((record.key,)))
    host.until(messages.Ready)
    assert host.end() == 0


def test_an_agent_that_waits_for_another_process_says_so_and_measures_then(host: AgentHost) -> None:
    lock = BoardLock()
    deadline_s = time.monotonic() + HANG_S
    while not lock.take():  # another test may measure just now
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    try:
        host.until(wire.Hello)
        host.welcome()
        host.send(job(SPACE.min()))
        while not (beat := host.until(wire.Heartbeat)).waits:
            pass
        assert f"waiting for process {os.getpid()}" in beat.error
        assert not any(isinstance(message, messages.Visited) for message in host.seen)
    finally:
        lock.release()
    host.records(1)
    assert not host.until(wire.Heartbeat).waits


def test_unacknowledged_records_come_again_after_a_new_welcome(host: AgentHost) -> None:
    host.until(wire.Hello)
    host.welcome()
    host.send(job(SPACE.min(), SPACE.max()))
    first, second = host.records(2).values()
    host.send(wire.Ack((first.key,)))
    while host.until(wire.Heartbeat).spooled != 1:  # until the Ack has arrived
        pass
    host.seen.clear()
    host.welcome()  # as a restarted host would
    again = [m.record for m in host.seen if isinstance(m, messages.Measured)]
    assert again
    assert all(record == second for record in again)
    assert host.end() == 0


def test_records_outlive_a_killed_agent_and_are_sent_as_they_were(host: AgentHost) -> None:
    before = host.until(wire.Hello)
    host.welcome("run")
    host.send(job(SPACE.min(), SPACE.max()))
    records = host.records(2)
    host.kill()
    host.start()
    hello = host.until(wire.Hello)
    while hello.session == before.session:  # sent again while the first agent was measuring
        hello = host.until(wire.Hello)
    assert (hello.board, hello.holding) == (before.board, ())
    host.seen.clear()
    host.welcome("another run")
    assert not any(isinstance(message, messages.Measured) for message in host.seen)
    host.send(wire.Welcome(wire.PROTOCOL, SPACE, TARGET, "run"))
    assert host.records(2) == records
    host.send(wire.Ack(tuple(records)))
    assert host.end() == 0


def test_an_agent_says_what_it_holds_and_drops_what_is_no_longer_its(host: AgentHost) -> None:
    host.until(wire.Hello)
    host.send(wire.Greet())  # as a restarted host would
    host.until(wire.Hello)
    assert host.welcome("run").room == wire.WINDOW
    host.send(job(SPACE.min(), rounds=ENDLESS))
    host.until(messages.Visited)
    host.send(wire.Greet())
    hello = host.until(wire.Hello)
    assert hello.holding == (wire.Holding("b", (SPACE.min().id,)),)
    assert hello.run == "run"
    host.send(wire.Welcome(wire.PROTOCOL, SPACE, TARGET, "run"))
    host.send(wire.Drop(("b",), "another board has measured it"))
    while host.until(wire.Heartbeat).holding:
        pass
    assert host.end() == 0


def measuring_process(agent: int) -> psutil.Process:
    children = psutil.Process(agent).children(recursive=True)
    (child,) = [c for c in children if "ramnas_edge.measuring.child" in c.cmdline()]
    return child


def test_a_lost_measuring_process_costs_no_record(host: AgentHost) -> None:
    host.until(wire.Hello)
    host.welcome()
    host.send(job(SPACE.min(), SPACE.max(), rounds=100))
    host.until(messages.Visited)
    measuring_process(host.agent.pid).kill()
    records = host.records(2).values()
    assert {r.arch for r in records} == {SPACE.min(), SPACE.max()}
    assert {r.validity for r in records} <= {OK, INCONCLUSIVE}
    host.until(messages.Ready)


def test_an_arch_that_kills_its_process_alone_has_failed(host: AgentHost) -> None:
    host.until(wire.Hello)
    host.welcome()
    host.send(job(SPACE.max(), rounds=ENDLESS))
    host.until(messages.Visited)
    measuring_process(host.agent.pid).kill()
    (record,) = host.records(1).values()
    assert record.validity == FAILED
    assert "killed by SIGKILL" in record.reason
    assert record.p50_ms is None
    host.until(messages.Ready)


def test_an_arch_whose_engine_hangs_has_failed_and_the_agent_asks_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = Hanging(tmp_path, monkeypatch, "visit", SPACE.max())
    monkeypatch.setattr(supervisor, "FIRST_SAMPLES_S", 0.0)
    monkeypatch.setattr(supervisor, "STALL_S", 60.0)
    patient = functools.partial(supervisor.Supervisor, clock=hanging.clock)
    monkeypatch.setattr(agent, "Supervisor", patient)
    host, found = TestHost(), []

    def play() -> None:
        host.until(wire.Hello)
        host.welcome()
        host.send(job(SPACE.max()))
        found.extend(host.records(1).values())
        host.until(messages.Ready)
        host.send(wire.Bye("the test is over"))

    thread = threading.Thread(target=play)
    thread.start()
    try:
        agent.serve(host.endpoint, name="board", spool=tmp_path / "spool.sqlite")
    finally:
        thread.join()
        host.close()
    (record,) = found
    assert record.validity == FAILED
    assert "said nothing for" in record.reason
    assert hanging.ended


def test_the_measuring_process_ends_with_a_killed_agent(host: AgentHost) -> None:
    host.until(wire.Hello)
    host.welcome()
    host.send(job(SPACE.min(), rounds=ENDLESS))
    host.until(messages.Visited)
    child = measuring_process(host.agent.pid)
    os.kill(host.agent.pid, signal.SIGKILL)
    child.wait(timeout=HANG_S)


def test_a_refused_board_ends_with_the_reason_and_exit_code_2(host: AgentHost) -> None:
    host.until(wire.Hello)
    host.send(wire.Refused("wrong protocol"))
    assert host.agent.wait(timeout=HANG_S) == 2
    assert host.agent.stderr is not None
    assert "refuses this board: wrong protocol" in host.agent.stderr.read()


def serve(answer: Any, tmp_path: Path) -> None:
    """Run an agent in this process, against a host that answers its Hello with `answer`."""
    host = TestHost()

    def play() -> None:
        host.until(wire.Hello)
        if isinstance(answer, bytes):
            host.socket.send_multipart([b"board", answer])
        else:
            host.welcome()
            host.send(answer)

    thread = threading.Thread(target=play)
    thread.start()
    try:
        agent.serve(host.endpoint, name="board", spool=tmp_path / "spool.sqlite")
    finally:
        thread.join()
        host.close()


def test_a_peer_that_is_not_a_host_is_an_error_with_its_address(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"tcp://127.* does not speak protocol 3 of ramnas"):
        serve(b"HTTP/1.1 400", tmp_path)


def test_a_job_that_names_a_file_of_the_board_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_SAMPLES_S", 0.0)
    with pytest.raises(FleetError, match=r"names a file of this board, .*: /etc"):
        serve(job(SPACE.min(), bundle="/etc"), tmp_path)


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("tcp://127.0.0.1:1", "no host answered at tcp://127.0.0.1:1"),
        ("nowhere", "cannot connect to 'nowhere'"),
    ],
)
def test_a_host_that_cannot_be_reached_is_an_error_after_the_given_patience(
    endpoint: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(FleetError, match=message):
        agent.serve(endpoint, give_up_s=0.1, spool=tmp_path / "spool.sqlite")
