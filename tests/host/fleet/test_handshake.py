"""Every way in which a handshake fails, over real sockets, and what each side says about it."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket as sockets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import zmq

from ramnas_edge.fleet import keys
from ramnas_edge.fleet.handshake import SILENT_S, Watch
from ramnas_edge.fleet.keys import Authorized
from ramnas_host.fleet.authentication import Door, Gate
from ramnas_host.fleet.peer_log import LINES_PER_MINUTE, PeerLog
from ramnas_models.errors import FileError, FleetError, RamnasError
from tests.host.fleet.hostile import PATIENCE_S, read_to_the_end, until


class Host:
    """A ROUTER behind a Gate; `log` has the refusals."""

    def __init__(self, door: Door) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.log = PeerLog()
        try:
            self.gate = Gate(self.context, self.socket, door, self.log)
        except RamnasError:
            self.context.destroy(linger=0)
            raise
        self.socket.bind(door.endpoint)
        self.endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def refuses(self, *reasons: str) -> bool:
        """Wait for a refusal with one of these reasons."""
        return until(lambda: any(part in told for told in self.log.refused() for part in reasons))

    def close(self) -> None:
        self.gate.close()
        self.context.destroy(linger=0)


class Client:
    """A DEALER as in an agent, with a Watch."""

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


@pytest.fixture
def opened() -> Iterator[Callable[[Any], Any]]:
    """A call that takes what a test opens, and closes it afterwards."""
    with ExitStack() as stack:
        yield lambda one: stack.enter_context(closing(one))


@pytest.fixture
def door(tmp_path: Path) -> Door:
    """A door with the keys of a host and of one authorised board."""
    board = keys.new(tmp_path, "board")
    keys.authorize(board, tmp_path / "authorized_keys")
    return Door("tcp://127.0.0.1:*", keys.new(tmp_path, "host"))


def own_and_server(door: Door, name: str = "board") -> tuple[keys.Keys, bytes]:
    assert door.keys
    return keys.load_keys(door.keys.with_name(f"{name}.key_secret")), keys.load_public(door.keys)


def test_a_board_with_the_right_keys_is_let_in_and_its_messages_name_its_key(
    door: Door, opened: Any
) -> None:
    host = opened(Host(door))
    client = opened(Client(host.endpoint, *own_and_server(door)))
    assert host.socket.poll(1000 * PATIENCE_S)
    message = host.socket.recv_multipart(copy=False)[1]
    assert message.bytes == b"hello"
    assert message.get("User-Id") == own_and_server(door)[0].public.decode()
    assert client.watch.failure() is None
    assert host.log.refused() == {}


def test_both_sides_report_a_wrong_server_key(door: Door, opened: Any) -> None:
    host = opened(Host(door))
    own, _ = own_and_server(door)
    client = opened(Client(host.endpoint, own, own.public))
    assert "most likely a wrong server key" in client.failure()
    assert host.refuses("it has a wrong server key")


def test_both_sides_report_a_key_that_is_not_authorised(
    door: Door, opened: Any, caplog: pytest.LogCaptureFixture
) -> None:
    host = opened(Host(door))
    keys.new(door.keys.parent, "stranger")  # type: ignore[union-attr]
    own, server = own_and_server(door, "stranger")
    client = opened(Client(host.endpoint, own, server))
    assert "ramnas keys authorize FILE.key" in client.failure()
    assert host.refuses("its key is not authorised")
    assert len(host.log.refused()) == 1  # the end of its connection does not count again
    key = own.public.decode()
    (said,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert said == (
        f"refused 127.0.0.1 with the key {key}: its key is not authorised: "
        "`ramnas keys authorize` lets it in"
    )


def test_both_sides_report_a_board_without_keys(door: Door, opened: Any) -> None:
    host = opened(Host(door))
    client = opened(Client(host.endpoint, None, b""))
    assert "encrypted connections only: give --keys and --server-key" in client.failure()
    # the second if the client noticed first, and left
    assert host.refuses("one side speaks CURVE", "only one side has keys")


def test_both_sides_report_a_host_without_keys(door: Door, opened: Any) -> None:
    host = opened(Host(Door("tcp://127.0.0.1:*")))
    client = opened(Client(host.endpoint, *own_and_server(door)))
    said = client.failure()  # the second if the host left before its greeting arrived
    assert "takes unencrypted connections only" in said or "was started without keys" in said
    assert host.refuses("one side speaks CURVE", "only one side has keys")


def test_a_listener_that_says_nothing_is_reported(opened: Any, door: Door) -> None:
    listener = opened(sockets.create_server(("127.0.0.1", 0)))
    now = [0.0]
    endpoint = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    client = opened(Client(endpoint, *own_and_server(door)))
    client.watch._clock = lambda: now[0]
    until(lambda: client.watch.failure() or client.watch._connected_s is not None)
    assert client.watch.failure() is None
    now[0] = SILENT_S + 0.1
    assert "no ramnas host, or one that hangs" in client.failure()


def test_waiting_for_a_host_is_not_a_failure(opened: Any) -> None:
    with sockets.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = opened(Client(f"tcp://127.0.0.1:{port}", None, b""))
    assert client.watch.failure() is None
    host = opened(Host(Door(f"tcp://127.0.0.1:{port}")))
    assert host.socket.poll(1000 * PATIENCE_S)
    assert client.watch.failure() is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "it does not speak ZeroMQ"),
        (os.urandom(500).replace(b"\xff", b"?"), "it does not speak ZeroMQ"),
        (b"", "during the handshake"),
    ],
    ids=["http", "random bytes", "opened and dropped"],
)
def test_peers_that_do_not_speak_zeromq_are_counted(
    door: Door, opened: Any, data: bytes, reason: str
) -> None:
    host = opened(Host(door))
    port = int(host.endpoint.rsplit(":", 1)[1])
    with sockets.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(data)
        if data:
            read_to_the_end(raw)  # the host does not keep it
    assert host.refuses(reason)
    client = opened(Client(host.endpoint, *own_and_server(door)))
    assert host.socket.poll(1000 * PATIENCE_S)  # others are let in as before
    assert client.watch.failure() is None


def test_a_board_that_was_let_in_and_leaves_is_not_refused(door: Door, opened: Any) -> None:
    host = opened(Host(door))
    client = Client(host.endpoint, *own_and_server(door))
    assert host.socket.poll(1000 * PATIENCE_S)
    client.close()
    until(lambda: not host.gate._arrived)  # the host has seen it leave
    assert host.log.refused() == {}


def test_a_board_authorised_while_the_host_runs_is_let_in(
    door: Door, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "LOOK_S", float("inf"))  # the change of the folder suffices
    host = opened(Host(door))
    stranger = keys.new(door.keys.parent, "late")  # type: ignore[union-attr]
    first = opened(Client(host.endpoint, *own_and_server(door, "late")))
    first.failure()
    keys.authorize(stranger, stranger.parent / "authorized_keys")
    opened(Client(host.endpoint, *own_and_server(door, "late")))
    assert host.socket.poll(1000 * PATIENCE_S)
    (stranger.parent / "authorized_keys/late.key").unlink()
    third = opened(Client(host.endpoint, *own_and_server(door, "late")))
    assert "ramnas keys authorize" in third.failure()


def test_a_file_that_is_not_a_key_does_not_keep_others_out(
    tmp_path: Path, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "authorized_keys"
    (folder / "broken.key").write_text("?")
    authorized = Authorized(folder)
    with caplog.at_level(logging.INFO):
        assert authorized.name_of(own_and_server(door)[0].public) == "board"
    assert "broken.key is not a key file" in caplog.text
    assert authorized.name_of(b"?" * 40) is None
    assert Authorized(tmp_path / "none").name_of(b"?" * 40) is None


def test_a_key_that_is_written_over_counts_after_a_while(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "LOOK_S", 0.0)
    own = door.keys.parent  # type: ignore[union-attr]
    authorized = Authorized(own / "authorized_keys")
    before, after = own_and_server(door)[0].public, keys.load_keys(keys.new(own, "new")).public
    assert authorized.name_of(before) == "board"
    # in place, as `cp` does it, which the folder's time of change does not show
    (own / "authorized_keys/board.key").write_text((own / "new.key").read_text())
    assert authorized.name_of(before) is None
    assert authorized.name_of(after) == "board"


def test_a_folder_of_keys_that_cannot_be_read_for_now_revokes_nothing(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a flood of connections has taken every file that the process may open."""
    monkeypatch.setattr(keys, "LOOK_S", 0.0)
    authorized = Authorized(door.keys.parent / "authorized_keys")  # type: ignore[union-attr]
    own = own_and_server(door)[0].public
    assert authorized.name_of(own) == "board"

    def too_many(path: Path) -> Iterator[Path]:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", too_many)
        assert authorized.name_of(own) == "board"
    shutil.rmtree(authorized.folder)
    assert authorized.name_of(own) is None


def test_a_public_address_needs_keys_or_insecure(tmp_path: Path, opened: Any) -> None:
    with pytest.raises(FleetError, match=r"`ramnas keys new` and give --keys, .* --insecure"):
        Host(Door("tcp://0.0.0.0:*"))
    with pytest.raises(FileError, match=r"cannot read the key"):
        Host(Door("tcp://0.0.0.0:*", tmp_path / "none.key_secret"))
    host = opened(Host(Door("tcp://0.0.0.0:*", insecure=True)))
    opened(Client(host.endpoint.replace("0.0.0.0", "127.0.0.1"), None, b""))
    assert host.socket.poll(1000 * PATIENCE_S)


def test_a_refusal_is_logged_once_a_minute_and_counted_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    log = PeerLog(lambda: now[0])
    for _ in range(5):
        log.refuse("it is plain", "10.0.0.1")
    log.refuse("it is plain", "10.0.0.2", "see")
    assert caplog.messages == [
        "refused 10.0.0.1: it is plain", "refused 10.0.0.2: it is plain: see"
    ]  # fmt: skip
    caplog.clear()
    now[0] = 61.0
    log.refuse("it is plain", "10.0.0.1")
    assert caplog.messages == [
        "4 more lines about peers were left out", "refused 10.0.0.1: it is plain"
    ]  # fmt: skip
    assert log.refused() == {"it is plain": 7}
    for i in range(10_000):  # a flood fills neither the log nor the memory
        log.refuse("it is plain", f"10.1.{i // 250}.{i % 250}")
    assert len(caplog.messages) == len(log._once) + 1 == LINES_PER_MINUTE + 1
    assert log.refused() == {"it is plain": 10_007}
