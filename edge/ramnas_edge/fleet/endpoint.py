"""`tcp://HOST:PORT`, as people write it -> its parts, its numeric addresses, why none answers.

ZeroMQ itself says nothing of a name that does not resolve: it goes on trying for ever.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import threading
from concurrent.futures import Future
from typing import Dict, List, NamedTuple, Tuple

PORT = 5555  # in examples
PROBE_S = 5.0  # a machine that does not answer by then is reported; ARP gives up after 3 s
_OTHERS = ("ipc", "inproc")  # transports without hosts and ports
_NAME = re.compile(r"[^\s/\\?#@;:\[\]]+")  # of a machine, or of an interface
_WHY = {
    errno.ECONNREFUSED: "no host runs there yet, or it listens on another address or port",
    errno.ETIMEDOUT: "that machine is off, or a firewall drops what is sent to this port",
    errno.EHOSTUNREACH: "that machine is off, or in another network",
    errno.EINVAL: "a link-local address needs its interface, as in fe80::1%eth0",
}


class Endpoint(NamedTuple):
    """The parts of an endpoint; with another transport than tcp only `text` counts."""

    text: str
    transport: str
    host: str = ""  # a name, or an address without brackets, or * where a host binds
    port: str = ""  # a number, or * where a host binds
    source: str = ""  # `SOURCE;` of ZeroMQ: the address to connect from


class Found(NamedTuple):
    """Addresses to connect, as ZeroMQ takes them, or the `failure` in words."""

    addresses: Tuple[str, ...] = ()
    failure: str = ""


def parse(text: str, *, binds: bool = False) -> Endpoint:
    """Take an endpoint apart; ValueError says what is wrong with it, and shows a right one.

    `binds`: it is the address of a host that binds, which may be `*` and have the port `*`.
    """

    def wrong(reason: str, rest: str = "") -> ValueError:
        return ValueError(f"{reason}, such as {_right_one(rest, binds)}")

    transport, separator, rest = text.partition("://")
    if separator and transport in _OTHERS:
        return Endpoint(text, transport)
    if not separator:
        raise wrong("it does not begin with tcp://", re.sub(r"^(tcp:/*|/+)", "", text))
    if transport != "tcp":
        raise wrong(f"it begins with {transport}:// and not with tcp://", rest)
    source, _, address = rest.rpartition(";")
    host, colon, port = address.rpartition(":") if ":" in address else (address, "", "")
    if _is_ip6(address) or (colon and ":" in host and not host.startswith("[")):
        raise wrong("an IPv6 address stands in brackets", rest)
    if not port or "]" in port:
        raise wrong("it has no port", rest)
    if not _is_port(port, binds):
        either = "neither * nor" if binds else "not"
        raise wrong(f"the port '{port}' is {either} a number from 1 to 65535", host)
    if host.startswith("["):
        host = host[1:-1] if host.endswith("]") else ""
        if not _is_ip6(host):
            raise wrong("what stands in brackets is not an IPv6 address")
    if host == "*" and not binds:
        raise ValueError("* is for the host that binds: name that host here")
    if not _is_host(host, binds):
        raise wrong(f"'{host}' is not the name or address of a machine")
    return Endpoint(text, transport, host, port, source)


def addresses(endpoint: Endpoint) -> List[str]:
    """The numeric addresses of an endpoint's host, as ZeroMQ takes them; IPv4 comes first.

    IPv4 first, because names such as localhost often have both, and many a host listens on IPv4
    alone. OSError if the name does not resolve; this may wait for a name server.
    """
    try:
        found = socket.getaddrinfo(endpoint.host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(errno.EINVAL, f"not a host name: {error}") from error
    source = f"{endpoint.source};" if endpoint.source else ""
    hosts: Dict[str, None] = {}  # a set that keeps the order
    for family, _, _, _, address in sorted(found, key=lambda each: each[0] == socket.AF_INET6):
        host = str(address[0])
        if family == socket.AF_INET6:
            scope = int(address[3]) if len(address) > 3 else 0
            zone = f"%{socket.if_indextoname(scope)}" if scope and "%" not in host else ""
            host = f"[{host}{zone}]"
        hosts[f"tcp://{source}{host}:{endpoint.port}"] = None
    return [*hosts]


def look_up(endpoint: Endpoint, *, ask_why: bool) -> Future[Found]:  # novermin
    """Resolve an endpoint in a thread of its own, since that may take half a minute.

    With `ask_why` it also tries to connect to each address, to find out why nobody answers.
    """
    result: Future[Found] = Future()  # novermin

    def work() -> None:
        try:
            result.set_result(_found(endpoint, ask_why))
        except Exception as error:
            result.set_exception(error)

    threading.Thread(target=work, name="look up a host", daemon=True).start()
    return result


def _found(endpoint: Endpoint, ask_why: bool) -> Found:
    try:
        found = addresses(endpoint)
    except OSError as error:
        reason = f"'{endpoint.host}' does not resolve: {error.strerror}"
        if endpoint.host.endswith(".local"):
            reason += " (.local names need avahi on the host, and libnss-mdns on this board)"
        return Found(failure=reason)
    if not ask_why:
        return Found(tuple(found))
    reasons = [_why_not(each, int(endpoint.port)) for each in found]
    return Found(tuple(found), "; ".join(dict.fromkeys(filter(None, reasons))))


def _why_not(address: str, port: int) -> str:
    """Why `address` takes no connection; empty if it takes one."""
    host = address.rpartition(";")[2].partition("://")[2] or address.rpartition(";")[2]
    host = host.rpartition(":")[0].strip("[]")
    try:
        socket.create_connection((host, port), timeout=PROBE_S).close()
    except socket.timeout:
        number = errno.ETIMEDOUT
    except OSError as error:
        number = error.errno or 0
    else:
        return ""
    why = f" ({_WHY[number]})" if number in _WHY else ""
    return f"{host} port {port}: {os.strerror(number)}{why}"


def _is_ip6(text: str) -> bool:
    address, percent, zone = text.partition("%")
    try:
        if ipaddress.ip_address(address).version != 6:
            return False
    except ValueError:
        return False
    return not percent or bool(_NAME.fullmatch(zone))


def _is_host(text: str, binds: bool) -> bool:
    if text == "*":
        return binds
    return _is_ip6(text) or bool(_NAME.fullmatch(text))


def _is_port(text: str, binds: bool) -> bool:
    if text == "*":
        return binds
    return bool(re.fullmatch(r"[0-9]{1,5}", text)) and int(not binds) <= int(text) <= 65535


def _right_one(rest: str, binds: bool) -> str:
    """`tcp://...` with as much of what was written as can be used; `parse` reads it."""
    host, port = "", ""
    written = re.fullmatch(r"(\[.+\]|[^:\[\]]+)(?::([^:/]*))?/?", rest)
    if written:
        host, port = written.group(1).strip("[]"), written.group(2) or ""
    elif _is_ip6(rest):
        host, _, port = rest.rpartition(":")
        if not (_is_ip6(host) and re.fullmatch(r"[0-9]{4,5}", port)):  # a part of the address
            host, port = rest, ""
    if not _is_host(host, binds):
        return f"tcp://192.168.1.7:{PORT}, or tcp://[fd00::7]:{PORT} with IPv6"
    if not _is_port(port, binds):
        port = str(PORT)
    return f"tcp://{f'[{host}]' if ':' in host else host}:{port}"
