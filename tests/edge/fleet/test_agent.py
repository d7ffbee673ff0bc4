"""The agent against a host of the test's own: a real socket, the agent a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, List, Type

import msgspec
import numpy as np
import psutil
import pytest
import zmq

from ramnas_edge.fleet import wire
from ramnas_edge.measuring import messages
from ramnas_edge.measuring.record import FAILED, OK, Block, Target
from ramnas_models.space import load_space

pytestmark = pytest.mark.alone

SPACE = load_space("micro")
TARGET = Target(num_classes=10)


class TestHost:
    """One ROUTER socket that speaks to one agent."""

    __test__ = False

    def __init__(self, spool: Path, *options: str) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.RCVTIMEO, 30_000)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self.command = [
            sys.executable, "-m", "ramnas_edge", "agent", "--connect", self.endpoint,
            "--name", "board", "--spool", str(spool), *options,
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        self.agent = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)
        self.seen: List[Any] = []

    def send(self, message: Any) -> None:
        self.socket.send_multipart([b"board", wire.encode(message)])

    def until(self, kind: Type[Any]) -> Any:
        """The next message of `kind`; what comes before it is kept in `seen`."""
        while True:
            name, data = self.socket.recv_multipart()
            assert name == b"board"
            message = wire.decode_from_board(data)
            if isinstance(message, wire.Heartbeat):  # of a silent host the agent would take leave
                self.send(message)
            if isinstance(message, kind):
                return message
            self.seen.append(message)

    def end(self) -> int:
        self.send(wire.Bye("test is over"))
        return self.agent.wait(timeout=20)

    def close(self) -> None:
        self.agent.kill()
        self.agent.communicate()
        self.context.destroy(linger=0)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[TestHost]:
    host = TestHost(tmp_path / "spool.sqlite")
    yield host
    host.close()


def job(*archs: Any, **changes: Any) -> messages.Job:
    block = Block("b", "run", TARGET, archs, (SPACE.min(),), runs=6, warm_up_ms=0.0, timed_ms=0.0)
    return messages.Job(msgspec.structs.replace(block, **changes), "dev")


def test_agent_greets_pulls_measures_and_leaves(host: TestHost) -> None:
    hello = host.until(wire.Hello)
    assert hello.protocol == wire.PROTOCOL
    assert "onnxruntime-cpu" in dict(hello.engines)
    host.send(wire.Welcome(wire.PROTOCOL, SPACE, TARGET))
    host.until(messages.Ready)
    host.send(job(SPACE.min(), SPACE.max(), timed_ms=20.0))
    records = [host.until(messages.Measured).record for _ in range(2)]
    assert {r.arch for r in records} == {SPACE.min(), SPACE.max()}
    assert {r.device_class for r in records} == {"dev"}
    done = [m.done for m in host.seen if isinstance(m, messages.Visited)]
    assert len(done) > 1
    steps = np.diff(done)
    assert (steps <= 0).sum() <= 1  # begun anew if an arch was doubtful
    assert steps.max() > 1  # the newest of each tenth of a second
    for record in records:
        host.send(wire.Ack((record.key,)))
    host.until(messages.Ready)
    assert host.end() == 0


def test_unacknowledged_records_come_again_after_a_new_welcome(host: TestHost) -> None:
    host.until(wire.Hello)
    host.send(wire.Welcome(wire.PROTOCOL, SPACE, TARGET))
    host.until(messages.Ready)
    host.send(job(SPACE.min(), SPACE.max()))
    first, second = (host.until(messages.Measured).record for _ in range(2))
    host.send(wire.Ack((first.key,)))
    host.until(messages.Ready)
    host.send(wire.Welcome(wire.PROTOCOL, SPACE, TARGET))  # as a restarted host would
    assert host.until(messages.Measured).record == second
    host.until(messages.Ready)
    assert host.end() == 0


def test_records_outlive_a_killed_agent_and_are_sent_as_they_were(host: TestHost) -> None:
    before = host.until(wire.Hello)
    host.send(wire.Welcome(wire.PROTOCOL, SPACE, TARGET, "run"))
    host.until(messages.Ready)
    host.send(job(SPACE.min(), SPACE.max()))
    records = {r.key: r for r in (host.until(messages.Measured).record for _ in range(2))}
    host.agent.kill()
    host.agent.communicate()
    host.start()
    hello = host.until(wire.Hello)
    while hello.session == before.session:  # said again while it was measuring
        hello = host.until(wire.Hello)
    assert (hello.board, hello.holding) == (before.board, ())
    host.send(wire.Welcome(wire.PROTOCOL, SPACE, TARGET, "another run"))
    host.until(messages.Ready)
    assert not any(isinstance(message, messages.Measured) for message in host.seen)
    host.send(wire.Welcome(wire.PROTOCOL, SPACE, TARGET, "run"))
    again = {r.key: r for r in (host.until(messages.Measured).record for _ in range(2))}
    assert again == records
    host.send(wire.Ack(tuple(again)))
    assert host.end() == 0


def test_an_agent_says_what_it_holds_and_drops_what_is_no_longer_its(host: TestHost) -> None:
    host.until(wire.Hello)
    host.send(wire.Greet())  # as a restarted host would
    host.until(wire.Hello)
    host.send(wire.Welcome(wire.PROTOCOL, SPACE, TARGET, "run"))
    assert host.until(messages.Ready).room == wire.WINDOW
    host.send(job(SPACE.min(), rounds=10_000))
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


def test_a_lost_measuring_process_costs_no_record(host: TestHost) -> None:
    host.until(wire.Hello)
    host.send(wire.Welcome(wire.PROTOCOL, SPACE, TARGET))
    host.until(messages.Ready)
    host.send(job(SPACE.min(), SPACE.max(), timed_ms=100.0))
    host.until(messages.Visited)
    measuring_process(host.agent.pid).kill()
    records = [host.until(messages.Measured).record for _ in range(2)]
    assert {r.arch for r in records} == {SPACE.min(), SPACE.max()}
    assert {r.validity for r in records} <= {OK, "inconclusive"}
    host.until(messages.Ready)


def test_an_arch_that_kills_its_process_twice_has_failed(host: TestHost) -> None:
    host.until(wire.Hello)
    host.send(wire.Welcome(wire.PROTOCOL, SPACE, TARGET))
    host.until(messages.Ready)
    host.send(job(SPACE.max(), timed_ms=100.0))
    host.until(messages.Visited)
    measuring_process(host.agent.pid).kill()
    record = host.until(messages.Measured).record
    assert record.validity == FAILED
    assert "killed by SIGKILL" in record.reason
    assert record.p50_ms is None
    host.until(messages.Ready)


def test_measuring_process_ends_with_a_killed_agent(host: TestHost) -> None:
    host.until(wire.Hello)
    host.send(wire.Welcome(wire.PROTOCOL, SPACE, TARGET))
    host.until(messages.Ready)
    host.send(job(SPACE.min(), rounds=10_000))
    host.until(messages.Visited)
    child = measuring_process(host.agent.pid)
    os.kill(host.agent.pid, signal.SIGKILL)
    child.wait(timeout=20)


def test_a_refusal_and_a_foreign_host_end_the_agent_with_the_reason(host: TestHost) -> None:
    host.until(wire.Hello)
    host.send(wire.Refused("wrong protocol"))
    assert host.agent.wait(timeout=20) == 2
    assert host.agent.stderr is not None
    assert "refuses this board: wrong protocol" in host.agent.stderr.read()


def test_a_peer_that_is_no_host_is_named(host: TestHost) -> None:
    host.until(wire.Hello)
    host.socket.send_multipart([b"board", b"HTTP/1.1 400"])
    assert host.agent.wait(timeout=20) == 2
    assert host.agent.stderr is not None
    assert "does not speak protocol 3 of ramnas" in host.agent.stderr.read()


def test_a_job_that_names_a_file_of_the_board_is_refused(host: TestHost) -> None:
    host.until(wire.Hello)
    host.send(wire.Welcome(wire.PROTOCOL, SPACE, TARGET))
    host.until(messages.Ready)
    host.send(job(SPACE.min(), bundle="/etc"))
    assert host.agent.wait(timeout=20) == 2
    assert host.agent.stderr is not None
    assert "names a file of this board" in host.agent.stderr.read()


def test_no_host_is_an_error_after_the_given_patience() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "ramnas_edge", "agent", "--connect", "tcp://127.0.0.1:1",
         "--give-up-s", "1.5"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "no host answered at tcp://127.0.0.1:1" in ran.stderr
    ran = subprocess.run(
        [sys.executable, "-m", "ramnas_edge", "agent", "--connect", "nowhere"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "cannot connect to 'nowhere'" in ran.stderr
