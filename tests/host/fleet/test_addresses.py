"""Where a host binds: IPv4 and IPv6, by address and by name, and who needs keys there."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zmq

from ramnas_edge.fleet import endpoint as endpoints
from ramnas_edge.fleet import keys, wire
from ramnas_edge.fleet.link import ClientKeys, Link
from ramnas_edge.measuring.store import Store
from ramnas_host.fleet import calibration
from ramnas_host.fleet.authentication import Door
from ramnas_host.fleet.peer_log import PeerLog
from ramnas_host.fleet.router import Router
from ramnas_models.errors import FleetError
from tests.host.fleet.hostile import PATIENCE_S, until


def _has_ip6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


ip6 = pytest.mark.skipif(not _has_ip6(), reason="this machine has no IPv6 loopback")
Bind = Callable[..., Router]


@pytest.fixture
def bind() -> Iterator[Bind]:
    def bound(endpoint: str, *, keys: Path | None = None, insecure: bool = False) -> Router:
        router = Router(Door(endpoint, keys, insecure=insecure), PeerLog())
        opened.append(router)
        return router

    opened: list[Router] = []
    yield bound
    for router in opened:
        router.close()


def hears(router: Router, endpoint: str, client_keys: ClientKeys | None = None) -> bool:
    """Whether a board at `endpoint` reaches the host with a message."""
    with closing(Link(endpoint, "board", client_keys)) as link:

        def arrived() -> bool:
            link.step()
            link.send(wire.encode(wire.Bye("test")))
            return any(letter.name == b"board" for letter in router.letters(0.05))

        return until(arrived)


def port(router: Router) -> str:
    return router.endpoint.rpartition(":")[2]


@ip6
@pytest.mark.parametrize("address", ["[::1]", "[::ffff:127.0.0.1]"])
def test_loopback_of_either_family_needs_no_keys(bind: Bind, address: str) -> None:
    router = bind(f"tcp://{address}:*")
    assert hears(router, f"tcp://{address}:{port(router)}")


def test_a_socket_of_this_machine_needs_no_keys(bind: Bind, tmp_path: Path) -> None:
    router = bind(f"ipc://{tmp_path}/s")
    assert hears(router, router.endpoint)


@pytest.mark.parametrize(
    "address", ["[::]", "*", "0.0.0.0", "[fd00::1]", "[fe80::1%lo]", "[::ffff:192.168.1.7]"]
)
def test_every_other_address_needs_keys(bind: Bind, address: str) -> None:
    with pytest.raises(FleetError, match="can be reached from other machines: make keys"):
        bind(f"tcp://{address}:*")


@ip6
@pytest.mark.parametrize("address", ["[::]", "*"])
def test_all_addresses_are_those_of_both_families(bind: Bind, address: str) -> None:
    router = bind(f"tcp://{address}:*", insecure=True)
    assert hears(router, f"tcp://[::1]:{port(router)}")
    assert hears(router, f"tcp://127.0.0.1:{port(router)}")


@ip6
def test_ipv6_is_encrypted_as_ipv4_is(bind: Bind, tmp_path: Path) -> None:
    own, server = keys.new(tmp_path, "board"), keys.new(tmp_path, "host")
    keys.authorize(own, tmp_path / "authorized_keys")
    router = bind("tcp://[::]:*", keys=server)
    right = ClientKeys(keys.load_keys(own), keys.load_public(server))
    assert hears(router, f"tcp://[::1]:{port(router)}", right)


@ip6
def test_a_refused_board_is_named_by_its_ipv4_address_on_a_socket_of_both_families(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server, log = keys.new(tmp_path, "host"), PeerLog()
    stranger = keys.load_keys(keys.new(tmp_path, "stranger"))
    with (
        closing(Router(Door("tcp://*:*", keys=server), log)) as router,
        closing(
            Link(
                f"tcp://127.0.0.1:{port(router)}",
                "b",
                ClientKeys(stranger, keys.load_public(server)),
            )
        ),
    ):
        assert until(lambda: bool(log.refused()))
    assert any(m.startswith("refused 127.0.0.1 with the key") for m in caplog.messages)


def test_a_name_is_bound_by_its_address(
    bind: Bind, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    router = bind("tcp://localhost:*")
    assert hears(router, f"tcp://localhost:{port(router)}")
    assert not caplog.messages
    monkeypatch.setattr(endpoints, "addresses", lambda parsed: [f"tcp://127.0.1.1:{parsed.port}"])
    assert bind("tcp://robot:*").endpoint.startswith("tcp://127.0.1.1:")
    assert "robot:* is tcp://127.0.1.1:* here, which only agents of this machine" in caplog.text


def test_a_name_that_means_another_machine_does_not_make_its_address_private(
    bind: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "addresses", lambda parsed: ["tcp://192.168.1.7:*"])
    with pytest.raises(FleetError, match=r"192.168.1.7:.* can be reached from other machines"):
        bind("tcp://localhost:*")


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("tcp://no-such.invalid:*", "'no-such.invalid' does not resolve .*, and no network"),
        ("host:5555", "it does not begin with tcp://, such as tcp://host:5555"),
        ("tcp://[::1]", "it has no port"),
        ("tcp://127.0.0.1:x", "the port 'x' is neither"),
        ("tcp://192.0.2.99:*", "this machine does not have that address: `ip address` lists"),
        ("tcp://[2001:db8::99]:*", "this machine does not have that address: `ip address` lists"),
    ],
)
def test_what_cannot_be_bound_is_refused_with_the_reason_and_the_way_out(
    bind: Bind, endpoint: str, reason: str
) -> None:
    with pytest.raises(FleetError, match=reason) as caught:
        bind(endpoint, insecure=True)
    assert str(caught.value).startswith(f"cannot bind '{endpoint}': ")


def test_a_port_that_belongs_to_root_is_named(bind: Bind, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, address: str) -> None:
        raise zmq.ZMQError(errno.EACCES)

    monkeypatch.setattr(zmq.Socket, "bind", refuse)
    with pytest.raises(FleetError, match="Permission denied; ports below 1024 belong to root"):
        bind("tcp://127.0.0.1:80")


IP4_ONLY = """
import subprocess
for command in ("sysctl -qw net.ipv6.conf.all.disable_ipv6=1", "ip link set lo up"):
    subprocess.run(command.split(), check=True)
from tests.host.fleet.test_addresses import *
router = Router(Door("tcp://*:*", insecure=True), PeerLog())
print(hears(router, f"tcp://127.0.0.1:{port(router)}"))
router.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own needs root")
def test_where_ipv6_is_switched_off_all_addresses_are_those_of_ipv4() -> None:
    command = ["unshare", "--net", sys.executable, "-c", IP4_ONLY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    if "CalledProcessError" in done.stderr or "unshare" in done.stderr:
        pytest.skip("this machine makes no networks: " + done.stderr[-200:])
    assert done.stdout == "True\n", done.stderr


@ip6
def test_boards_calibrate_over_ipv6_from_the_command_line(tmp_path: Path) -> None:
    store, log = tmp_path / "records.sqlite", tmp_path / "host.log"
    with log.open("wb") as errors:
        host = subprocess.Popen(
            [sys.executable, "-m", "ramnas_host", "calibrate", "--bind", "tcp://[::1]:*",
             "--space", "micro", "--classes", "10", "--samples", "2", "--store", str(store)],
            stderr=errors, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        until(lambda: "--connect tcp://[::1]:" in log.read_text() or host.poll() is not None)
        address = log.read_text().partition("--connect ")[2].split()[0]
        board = [sys.executable, "-m", "ramnas_edge", "agent", "--connect", address]
        spool = ["--spool", str(tmp_path / "spool.sqlite")]
        subprocess.run([*board, *spool], check=True, timeout=PATIENCE_S)
        assert host.wait(PATIENCE_S) == 0
    finally:
        host.kill()
        host.wait()
    with closing(Store(store)) as opened:
        assert len(opened.keys("calibrate")) == 2


def test_the_address_that_is_shown_can_be_connected() -> None:
    assert calibration._named("tcp://[::]:5555", "robot") == "tcp://robot:5555"
    assert calibration._named("tcp://0.0.0.0:5555", "robot") == "tcp://robot:5555"
    assert calibration._named("tcp://[fd00::1]:5555", "robot") == "tcp://[fd00::1]:5555"
