"""The messages between host and boards, and their bytes: typed msgpack, versioned, size-capped."""

from __future__ import annotations

from typing import Tuple, Union

import msgspec

from ramnas_edge.device import Device
from ramnas_edge.profiler import Block
from ramnas_edge.record import LatencyRecord, Target, Visit
from ramnas_models.errors import WireError
from ramnas_models.space import Space

PROTOCOL = 1
MAX_BYTES = 4 * 2**20
HEARTBEAT_S = 1.0
SILENCE_S = 10.0  # a peer that sent nothing for so long is taken for dead


class Hello(msgspec.Struct, frozen=True, tag=True):
    """Board -> host, first message: who I am; again after a reconnect."""

    protocol: int
    device: Device
    engines: Tuple[Tuple[str, str], ...]  # (engine, version) that load on this board


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """Host -> board: the space whose archs will come."""

    protocol: int
    space: Space
    target: Target


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Host -> board: you cannot take part, and why."""

    reason: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Board -> host: give me a block."""


class Job(msgspec.Struct, frozen=True, tag=True):
    """Host -> board: measure this block."""

    block: Block
    device_class: str
    again: bool = False  # the board's own second try of a part of a block


class Visited(msgspec.Struct, frozen=True, tag=True):
    """Board -> host: progress inside a block; may be dropped."""

    visit: Visit
    done: int
    total: int


class Measured(msgspec.Struct, frozen=True, tag=True):
    """Board -> host: the record of one arch."""

    record: LatencyRecord


class Ack(msgspec.Struct, frozen=True, tag=True):
    """Host -> board: the record with this key is committed."""

    key: Tuple[str, ...]


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """Both ways, every HEARTBEAT_S."""


class Bye(msgspec.Struct, frozen=True, tag=True):
    """Either side: I am leaving, and why."""

    reason: str


FromBoard = Union[Hello, Ready, Visited, Measured, Heartbeat, Bye]
FromHost = Union[Welcome, Refused, Job, Ack, Heartbeat, Bye]

_encoder = msgspec.msgpack.Encoder()
_from_board = msgspec.msgpack.Decoder(FromBoard)
_from_host = msgspec.msgpack.Decoder(FromHost)


def encode(message: Union[FromBoard, FromHost]) -> bytes:
    return _encoder.encode(message)


def decode_from_board(data: bytes) -> FromBoard:
    """WireError if `data` is too large or no message of a board."""
    try:
        message: FromBoard = _from_board.decode(_capped(data))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"not a message of a board: {error}") from error
    return message


def decode_from_host(data: bytes) -> FromHost:
    """WireError if `data` is too large or no message of a host."""
    try:
        message: FromHost = _from_host.decode(_capped(data))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"not a message of a host: {error}") from error
    return message


def _capped(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise WireError(f"message of {len(data)} bytes, the cap is {MAX_BYTES}")
    return data
