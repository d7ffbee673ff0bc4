"""Addresses as people write them: read, resolved, or refused with a right one."""

from __future__ import annotations

import re
import socket
from typing import Any, List, Tuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ramnas_edge.fleet import endpoint
from ramnas_edge.fleet.endpoint import addresses, look_up, parse


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tcp://192.168.1.7:5555", "192.168.1.7", "5555"), ("tcp://host:1", "host", "1"),
        ("tcp://[::1]:5555", "::1", "5555"), ("tcp://[fe80::1%eth0]:80", "fe80::1%eth0", "80"),
        ("tcp://jetson.local:65535", "jetson.local", "65535"),
        ("tcp://robot_2:5555", "robot_2", "5555"),
    ],
)  # fmt: skip
def test_an_endpoint_has_a_host_and_a_port(text: str, host: str, port: str) -> None:
    assert parse(text)[2:4] == (host, port)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("host:5555", "it does not begin with tcp://, such as tcp://host:5555"),
        ("host", "it does not begin with tcp://, such as tcp://host:5555"),
        ("tcp:/host:7", "it does not begin with tcp://, such as tcp://host:7"),
        ("tcp:host:7", "it does not begin with tcp://, such as tcp://host:7"),
        ("fd00::2", "it does not begin with tcp://, such as tcp://[fd00::2]:5555"),
        ("http://host:7/", "it begins with http:// and not with tcp://, such as tcp://host:7"),
        ("tcp://host", "it has no port, such as tcp://host:5555"),
        ("tcp://host:", "it has no port, such as tcp://host:5555"),
        ("tcp://[::1]", "it has no port, such as tcp://[::1]:5555"),
        ("tcp://host:x", "the port 'x' is not a number from 1 to 65535, such as tcp://host:5555"),
        ("tcp://host:70000", "the port '70000' is not a number from 1 to 65535"),  # ZeroMQ: 4464
        ("host:70000", "it does not begin with tcp://, such as tcp://host:5555"),
        ("*:7", "it does not begin with tcp://, such as tcp://192.168.1.7:5555, or "),
        ("[;]:7", "it does not begin with tcp://, such as tcp://192.168.1.7:5555, or "),
        ("tcp://host:0", "the port '0' is not a number from 1 to 65535"),
        ("tcp://host:7/x", "the port '7/x' is not a number from 1 to 65535"),
        ("tcp://::1:7", "an IPv6 address stands in brackets"),
        ("tcp://fd00::2", "an IPv6 address stands in brackets, such as tcp://[fd00::2]:5555"),
        ("tcp://fd00::2:5555", "an IPv6 address stands in brackets, such as tcp://[fd00::2]:5555"),
        ("tcp://[host]:7", "what stands in brackets is not an IPv6 address"),
        ("tcp://[::1:7", "what stands in brackets is not an IPv6 address"),
        ("tcp://me@host:7", "'me@host' is not the name or address of a machine"),
        ("tcp://:7", "'' is not the name or address of a machine"),
        ("tcp://*:7", "* is for the host that binds"),
        ("", "it does not begin with tcp://"),
    ],
)  # fmt: skip
def test_a_wrong_endpoint_is_refused_with_a_right_one(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}"):
        parse(text)


def test_only_a_host_that_binds_may_leave_out_address_and_port() -> None:
    assert parse("tcp://*:*", binds=True)[2:4] == ("*", "*")
    assert parse("tcp://localhost:0", binds=True).port == "0"


@given(st.text("tcp:/[]%.*;0159afx @\u0663", max_size=30))
@example("[;]")
@example("[:]")
@example("*:7")
@example("x:70000")
@example("x:\u0663")
def test_whatever_is_written_is_read_or_refused_and_what_is_proposed_is_right(text: str) -> None:
    for written in (text, f"tcp://{text}"):
        for binds in (False, True):
            try:
                found = parse(written, binds=binds)
            except ValueError as error:
                _, says, proposed = str(error).rpartition(", such as ")
                for each in proposed.replace(" with IPv6", "").split(", or ") if says else []:
                    assert parse(each, binds=binds).port
            else:
                assert found.transport == "tcp"
                assert found.host
                assert found.port


def answers(*found: Tuple[Any, ...]) -> Any:
    def getaddrinfo(host: str, port: None, type: int) -> List[Tuple[Any, ...]]:
        return [(family, type, 6, "", address) for family, address in found]

    return getaddrinfo


def test_the_addresses_of_a_name_begin_with_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    six, four = (socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0))
    monkeypatch.setattr(socket, "getaddrinfo", answers(six, four, six))
    assert addresses(parse("tcp://localhost:7")) == ["tcp://127.0.0.1:7", "tcp://[::1]:7"]


def test_a_link_local_address_keeps_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "if_indextoname", lambda index: f"eth{index}")
    monkeypatch.setattr(socket, "getaddrinfo", answers((socket.AF_INET6, ("fe80::7", 0, 0, 2))))
    assert addresses(parse("tcp://jetson.local:7")) == ["tcp://[fe80::7%eth2]:7"]


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".invalid", "fe80::1%none0"])
def test_a_name_that_does_not_resolve_is_a_failure_in_words(host: str) -> None:
    text = f"tcp://[{host}]:7" if ":" in host else f"tcp://{host}:7"
    found = look_up(parse(text), ask_why=False).result(60)
    assert found.failure.startswith(f"'{host}' does not resolve: ")
    assert not found.addresses


def test_a_port_that_nobody_listens_on_is_told_from_a_machine_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as free:  # bound but not listening
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        refused = look_up(parse(f"tcp://127.0.0.1:{port}"), ask_why=True).result(60)
    assert refused.failure == (
        f"127.0.0.1 port {port}: Connection refused (no host runs there yet, or it listens on "
        "another address or port)"
    )

    def silent(*_: Any, **__: Any) -> None:
        raise socket.timeout

    monkeypatch.setattr(endpoint.socket, "create_connection", silent)
    found = look_up(parse("tcp://127.0.0.1:7"), ask_why=True).result(60)
    assert "a firewall drops what is sent to this port" in found.failure
