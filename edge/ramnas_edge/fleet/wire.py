"""The messages between host and boards, and their bytes: typed msgpack, versioned, size-capped.

Each is one frame: a msgpack map whose `type` names the message. The host binds a ROUTER, a board
connects a DEALER whose routing id is the board's name.

    board -> host                              host -> board
    Hello      who I am, what I hold           Welcome    what is measured here; answers Hello
    Ready      room for so many more blocks    Job        measure this block
    Visited    progress, newest wins           Drop       these blocks are no longer yours
    Measured   the record of one arch          Ack        the records of these keys are committed
    Heartbeat  how I am, what I hold           Rejected   records that this host does not take
    Bye        I leave                         Greet      I do not know you: say Hello
                                               Refused    you cannot take part
                                               Heartbeat, Bye

Any message may be lost or come twice. What must not be lost is said again until it is answered:
Hello until Welcome, Measured until Ack or Rejected; Ready and a lost Job are healed by the next
Heartbeat, which says what the board holds and how much room it has.
"""

from __future__ import annotations

from typing import Optional, Tuple, Union

import msgspec

from ramnas_edge.board.device import Device
from ramnas_edge.measuring.messages import Job, Measured, Ready, Visited
from ramnas_edge.measuring.record import Target
from ramnas_models.errors import WireError
from ramnas_models.space import Space

PROTOCOL = 3
MAX_BYTES = 4 * 2**20
MAX_RECORD_BYTES = 2**20  # of a Measured; a real one of 40 rounds has about 150 KiB
HEARTBEAT_S = 2.0
SILENCE_S = 10.0  # a peer that sent nothing for so long is taken for dead
PROGRESS_S = 0.1  # between two Visited of a board: a thousand boards are not to drown records
RESEND_S = 5.0  # without an answer, what must not be lost is said again
WINDOW = 2  # blocks that a board holds at most: the one at work and the next

Key = Tuple[str, ...]  # of a record (`record_key`)


class Holding(msgspec.Struct, frozen=True):
    """A block that a board still works on, and the ids of its archs."""

    job: str
    archs: Tuple[str, ...]


class Hello(msgspec.Struct, frozen=True, tag=True):
    """Board -> host, first on every connection: who I am; again after Greet or a reconnect.

    `board` is the same for ever and whatever is measured, `session` that of this process alone.
    Old protocols' Hellos can be read, so that they can be refused by name.
    """

    protocol: int
    device: Device
    engines: Tuple[Tuple[str, str], ...]  # (engine, version) that load on this board
    board: str = ""
    session: str = ""
    run: str = ""  # of what it holds
    holding: Tuple[Holding, ...] = ()


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """Host -> board: the space whose archs will come, and what of them is measured in which run."""

    protocol: int
    space: Space
    target: Target
    run: str = ""


class Greet(msgspec.Struct, frozen=True, tag=True):
    """Host -> board: I do not know you, as after a restart of mine; say Hello."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Host -> board: you cannot take part, and why."""

    reason: str


class Drop(msgspec.Struct, frozen=True, tag=True):
    """Host -> board: do not measure these blocks, and why."""

    jobs: Tuple[str, ...]
    reason: str = ""


class Ack(msgspec.Struct, frozen=True, tag=True):
    """Host -> board: the records with these keys are committed to the disk."""

    keys: Tuple[Key, ...]


class Rejected(msgspec.Struct, frozen=True, tag=True):
    """Host -> board: this host does not take the records with these keys, and why."""

    keys: Tuple[Key, ...]
    reason: str


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """A board, every HEARTBEAT_S: how it is. A host, when it has had nothing else to say for a
    while: all fields left out."""

    room: int = 0  # blocks that the board would take now
    holding: Tuple[str, ...] = ()  # ids of the blocks that it has
    spooled: int = 0  # records that wait for their Ack
    temperature_c: Optional[float] = None  # the hottest sensor
    power_mode: Optional[str] = None
    error: str = ""  # what is wrong with the board now


class Bye(msgspec.Struct, frozen=True, tag=True):
    """Either side: I am leaving, and why."""

    reason: str


FromBoard = Union[Hello, Ready, Visited, Measured, Heartbeat, Bye]
FromHost = Union[Welcome, Greet, Refused, Job, Drop, Ack, Rejected, Heartbeat, Bye]

_encoder = msgspec.msgpack.Encoder()
_from_board = msgspec.msgpack.Decoder(FromBoard)
_from_host = msgspec.msgpack.Decoder(FromHost)


def encode(message: Union[FromBoard, FromHost]) -> bytes:
    return _encoder.encode(message)


def decode_from_board(data: bytes) -> FromBoard:
    """WireError if `data` is too large or no message of a board."""
    try:
        message: FromBoard = _from_board.decode(_capped(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a message of a board: {error}") from error
    return message


def decode_from_host(data: bytes) -> FromHost:
    """WireError if `data` is too large or no message of a host."""
    try:
        message: FromHost = _from_host.decode(_capped(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a message of a host: {error}") from error
    return message


def _capped(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise WireError(f"message of {len(data)} bytes, the cap is {MAX_BYTES}")
    return data
