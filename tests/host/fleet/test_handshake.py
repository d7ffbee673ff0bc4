"""Every way that a handshake fails, over real sockets: what each side says about it, and when."""

from __future__ import annotations

import logging
import os
import socket as sockets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from ramnas_edge.fleet import keys
from ramnas_edge.fleet.handshake import SILENT_S, Watch
from ramnas_host.fleet.authentication import Authorized, Door, Gate, RefusedConnections
from ramnas_models.errors import FileError, FleetError, RamnasError
from tests.host.fleet.hostile import ended

SOON_S = 5.0  # the time in which a failure must be named


class Host:
    """A ROUTER behind a Gate."""

    def __init__(self, door: Door) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        try:
            self.gate = Gate.open(self.context, self.socket, door)
        except RamnasError:
            self.context.destroy(linger=0)
            raise
        self.socket.bind(door.endpoint)
        self.endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def refused(self, part: str) -> str:
        return until(lambda: next((r for r in self.gate.refused() if part in r), None))

    def close(self) -> None:
        self.gate.close()
        self.context.destroy(linger=0)


class Client:
    """A DEALER as an agent has it, watched."""

    def __init__(self, endpoint: str, own: keys.Keys | None, server: bytes) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        if own:
            keys.client_options(self.socket, own, server)
        self.watch = Watch(self.socket)
        self.socket.connect(endpoint)
        self.socket.send(b"hello")

    def failure(self) -> str:
        return until(self.watch.failure)

    def close(self) -> None:
        self.watch.close()
        self.context.destroy(linger=0)


def until(look: Callable[[], str | None]) -> str:
    """The first answer, within the time in which one must come."""
    end = time.monotonic() + SOON_S
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"nothing was said within {SOON_S:.0f} s")


@pytest.fixture
def opened() -> Iterator[Callable[[Any], Any]]:
    """Closes what a test opens."""
    all_: list[Any] = []

    def keep(it: Any) -> Any:
        all_.append(it)
        return it

    yield keep
    for it in reversed(all_):
        it.close()


@pytest.fixture
def door(tmp_path: Path) -> Door:
    """With the keys of a host, and a board that may come in."""
    board = keys.new(tmp_path, "board")
    keys.authorize(board, tmp_path / "authorized_keys")
    return Door("tcp://127.0.0.1:*", keys.new(tmp_path, "host"))


def own_and_server(door: Door, name: str = "board") -> tuple[keys.Keys, bytes]:
    assert door.keys
    return keys.load_keys(door.keys.with_name(f"{name}.key_secret")), keys.load_public(door.keys)


def test_a_board_with_the_right_keys_comes_in_by_its_name(door: Door, opened: Any) -> None:
    host = opened(Host(door))
    client = opened(Client(host.endpoint, *own_and_server(door)))
    assert host.socket.poll(5000)
    message = host.socket.recv_multipart(copy=False)[1]
    assert message.bytes == b"hello"
    assert message.get("User-Id") == "board"
    assert client.watch.failure() is None
    assert host.gate.refused() == [] and host.gate.counts() == {}


def test_a_wrong_server_key_is_named_by_both_sides(door: Door, opened: Any) -> None:
    host = opened(Host(door))
    own, _ = own_and_server(door)
    client = opened(Client(host.endpoint, own, own.public))
    assert "most likely a wrong server key" in client.failure()
    assert ": it has a wrong server key" in host.refused("wrong server key")


def test_a_board_that_is_not_authorised_is_named_by_both_sides(door: Door, opened: Any) -> None:
    host = opened(Host(door))
    keys.new(door.keys.parent, "stranger")  # type: ignore[union-attr]
    own, server = own_and_server(door, "stranger")
    client = opened(Client(host.endpoint, own, server))
    assert "ramnas keys authorize FILE.key" in client.failure()
    said = host.refused("not authorised")
    assert said.startswith("127.0.0.1: its key is not authorised: ")
    assert own.public.decode() in said
    assert host.gate.counts() == {"its key is not authorised": 1}  # and nothing else of it


def test_a_plain_client_at_a_host_with_keys_is_named_by_both_sides(door: Door, opened: Any) -> None:
    host = opened(Host(door))
    client = opened(Client(host.endpoint, None, b""))
    assert "encrypted connections only: give --keys and --server-key" in client.failure()
    said = host.refused("")  # the second where the client saw it first, and left
    assert "one side speaks CURVE" in said or "one side alone has keys" in said


def test_a_board_with_keys_at_a_plain_host_is_named_by_both_sides(door: Door, opened: Any) -> None:
    host = opened(Host(Door("tcp://127.0.0.1:*")))
    client = opened(Client(host.endpoint, *own_and_server(door)))
    said = client.failure()  # the second where the host left before its greeting arrived
    assert "takes unencrypted connections only" in said or "was started without keys" in said
    said = host.refused("")
    assert "one side speaks CURVE" in said or "one side alone has keys" in said


def test_what_listens_and_says_nothing_is_named(opened: Any, door: Door) -> None:
    listener = opened(sockets.create_server(("127.0.0.1", 0)))
    now = [0.0]
    endpoint = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    client = opened(Client(endpoint, *own_and_server(door)))
    client.watch._clock = lambda: now[0]
    time.sleep(0.3)
    assert client.watch.failure() is None
    now[0] = SILENT_S + 0.1
    assert "no ramnas host, or one that hangs" in client.failure()


def test_a_host_that_is_not_there_yet_is_no_failure(opened: Any) -> None:
    with sockets.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = opened(Client(f"tcp://127.0.0.1:{port}", None, b""))
    time.sleep(0.5)
    assert client.watch.failure() is None
    client.watch.close()
    host = opened(Host(Door(f"tcp://127.0.0.1:{port}")))
    assert host.socket.poll(5000)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "it does not speak ZeroMQ"),
        (os.urandom(500).replace(b"\xff", b"?"), "it does not speak ZeroMQ"),
        (b"", "before its handshake was done"),
    ],
    ids=["http", "random bytes", "opened and dropped"],
)
def test_what_does_not_speak_zeromq_is_counted(
    door: Door, opened: Any, data: bytes, reason: str
) -> None:
    host = opened(Host(door))
    port = int(host.endpoint.rsplit(":", 1)[1])
    with sockets.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(data)
        if data:
            assert ended(raw, 5.0)  # it is thrown out, not kept
    host.refused(reason)
    client = opened(Client(host.endpoint, *own_and_server(door)))
    assert host.socket.poll(5000)  # others come in as before
    assert client.watch.failure() is None


def test_a_board_that_was_let_in_and_leaves_is_no_refusal(door: Door, opened: Any) -> None:
    host = opened(Host(door))
    client = Client(host.endpoint, *own_and_server(door))
    assert host.socket.poll(5000)
    client.close()
    time.sleep(0.3)
    assert host.gate.counts() == {}


def test_a_key_authorised_while_the_host_runs_lets_in(door: Door, opened: Any) -> None:
    host = opened(Host(door))
    stranger = keys.new(door.keys.parent, "late")  # type: ignore[union-attr]
    first = opened(Client(host.endpoint, *own_and_server(door, "late")))
    first.failure()
    keys.authorize(stranger, stranger.parent / "authorized_keys")
    time.sleep(1.1)  # the folder is looked at once a second
    opened(Client(host.endpoint, *own_and_server(door, "late")))
    assert host.socket.poll(5000)
    (stranger.parent / "authorized_keys/late.key").unlink()
    time.sleep(1.1)
    assert (
        "ramnas keys authorize"
        in opened(Client(host.endpoint, *own_and_server(door, "late"))).failure()
    )


def test_a_file_that_is_no_key_keeps_the_others_in(
    tmp_path: Path, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "authorized_keys"
    (folder / "broken.key").write_text("?")
    authorized = Authorized(folder)
    with caplog.at_level(logging.INFO):
        assert authorized.name_of(own_and_server(door)[0].public) == "board"
    assert "broken.key is no key file" in caplog.text
    assert authorized.name_of(b"?" * 40) is None
    assert Authorized(tmp_path / "none").name_of(b"?" * 40) is None


def test_a_public_address_needs_keys_or_the_word_insecure(tmp_path: Path, opened: Any) -> None:
    with pytest.raises(FleetError, match=r"`ramnas keys new` and give --keys, .* --insecure"):
        Host(Door("tcp://0.0.0.0:*"))
    with pytest.raises(FileError, match=r"cannot read the key"):
        Host(Door("tcp://0.0.0.0:*", tmp_path / "none.key_secret"))
    host = opened(Host(Door("tcp://0.0.0.0:*", insecure=True)))
    opened(Client(host.endpoint.replace("0.0.0.0", "127.0.0.1"), None, b""))
    assert host.socket.poll(5000)


def test_a_refusal_is_said_once_a_minute_and_counted_each_time() -> None:
    now = [0.0]
    refusals = RefusedConnections(lambda: now[0])
    for _ in range(5):
        refusals.add("10.0.0.1", "it is plain")
    refusals.add("10.0.0.2", "it is plain", ", see")
    assert refusals.new() == ["10.0.0.1: it is plain", "10.0.0.2: it is plain, see"]
    now[0] = 61.0
    refusals.add("10.0.0.1", "it is plain")
    assert refusals.new() == ["10.0.0.1: it is plain (4 more times)"]
    assert refusals.new() == []
    assert refusals.counts() == {"it is plain": 7}
    for i in range(10_000):  # a flood fills no memory
        refusals.add(f"10.1.{i // 250}.{i % 250}", "it is plain")
    assert len(refusals.new()) == 256
    assert refusals.counts() == {"it is plain": 10_007}
