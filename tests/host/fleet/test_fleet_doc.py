"""docs/fleet.md suffices to speak the protocol: its tables are whole, a board made of it works."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from ramnas_edge.fleet import wire
from ramnas_edge.measuring import messages
from ramnas_edge.measuring.store import Store
from tests.host.fleet.hostile import CLASS, PATIENCE_S, TARGET, Serving, until

DOC = Path(__file__).parents[3] / "docs/fleet.md"
MESSAGES = [*wire.FromBoard.__args__, *wire.FromHost.__args__]  # type: ignore[attr-defined]


@pytest.mark.parametrize("message", dict.fromkeys(MESSAGES), ids=lambda message: message.__name__)
def test_the_table_has_every_field_of_every_message(message: Any) -> None:
    rows = re.findall(rf"^\| `{message.__name__}` \|([^|]*)\|", DOC.read_text(), re.MULTILINE)
    assert len(rows) == (message in wire.FromBoard.__args__) + (message in wire.FromHost.__args__)  # type: ignore[attr-defined]
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert set(message.__struct_fields__) <= named


def test_the_bytes_in_the_document_are_those_of_the_message() -> None:
    (shown,) = re.findall(r"^ {4}(82 a4 .*)$", DOC.read_text(), re.MULTILINE)
    text = re.sub(r'"(\w+)"', lambda m: m[1].encode().hex(" "), shown)
    assert bytes.fromhex(text) == wire.encode(messages.Ready(2))


class Foreign:
    """A board that knows only msgpack and ZeroMQ, and nothing of this package."""

    def __init__(self, endpoint: str) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, b"foreign")
        self.socket.setsockopt(zmq.RCVTIMEO, int(1000 * PATIENCE_S))
        self.socket.connect(endpoint)

    def send(self, type_: str, **fields: Any) -> None:
        self.socket.send(msgspec.msgpack.encode({"type": type_, **fields}))

    def receive(self, type_: str) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = msgspec.msgpack.decode(self.socket.recv())
            if message["type"] == type_:
                return message
            assert message["type"] == "Heartbeat", message

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    host = Serving(tmp_path / "s.sqlite")
    yield host
    host.close()


@pytest.fixture
def board(serving: Serving) -> Iterator[Foreign]:
    made = Foreign(serving.endpoint)
    yield made
    made.close()


def arch_id(arch: dict[str, Any]) -> str:
    """12 hex digits of a hash of the arch's integers, as the document says."""
    stages = arch["stages"]
    integers = [
        arch["resolution"], arch["stem"], *(s["width"] for s in stages), arch["head"],
        *(s["depth"] for s in stages), *(k for s in stages for k in s["kernels"]),
        *(e for s in stages for e in s["expands"]), *(int(s["se"]) for s in stages if "se" in s),
    ]  # fmt: skip
    return hashlib.sha256(",".join(map(str, integers)).encode()).hexdigest()[:12]


def test_a_board_written_from_the_document_measures(serving: Serving, board: Foreign) -> None:
    device = {"module": "board", "cores": 4, "memory_gib": 8, "system": "Linux"}
    engines = [["onnxruntime-cpu", "1.2.3"]]
    board.send("Hello", protocol=3, device=device, engines=engines, board="f", session="1")
    welcome = board.receive("Welcome")
    board.send("Ready", room=1)
    job = board.receive("Job")
    block = job["block"]
    arch = block["archs"][0]
    found = arch_id(arch)
    times = [1.0, 1.1, 1.2]
    visits = [
        {"arch_id": found, "block": block["id"], "round": r, "position": 0, "times_ms": times}
        for r in range(8)
    ]
    board.send("Visited", visit=visits[0], done=1, total=112)
    side = block["target"]["input_hw"] or [arch["resolution"]] * 2
    board.send("Measured", record={
        "run": welcome["run"], "target": block["target"], "arch": arch, "arch_id": found,
        "space_hash": serving.request.space.hash, "input_hw": side,
        "device_class": job["device_class"], "engine_version": "1.2.3", "providers": ["cpu"],
        "validity": "ok", "visits": visits, "p50_ms": 1.1, "p90_ms": 1.2, "mean_ms": 1.1,
    })  # fmt: skip
    key = [welcome["run"], "classification", found, f"{side[0]}x{side[1]}", job["device_class"],
           "onnxruntime-cpu", "fp32", "1", "1"]  # fmt: skip
    assert board.receive("Ack")["keys"] == [key]
    board.send("Heartbeat", room=0, holding=[block["id"]], temperature_c=51.5)
    assert until(lambda: [b.temperature_c for b in serving.status.boards] == [51.5])
    board.send("Bye", reason="done")
    store = Store(serving.path)
    (record,) = store.records("run", CLASS)
    store.close()
    assert (record.arch_id, record.target, len(record.visits)) == (found, TARGET, 8)
    assert serving.status.refused == {}
