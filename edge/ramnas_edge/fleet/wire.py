"""The messages between a host and its boards, and their bytes: typed msgpack of limited size.

Each message is one frame: a msgpack map whose `type` names the message. The host binds a ROUTER;
each board connects a DEALER whose routing id is the board's name.

    board -> host                                host -> board
    Hello      who I am and what I hold          Welcome   the answer: what is measured here
    Ready      how many more blocks I can take   Job       measure this block
    Visited    progress; the newest counts       Drop      these blocks are no longer yours
    Measured   the record of one arch            Ack       I have committed these records
    Heartbeat  how I am and what I hold          Rejected  I do not accept these records
    Bye        I am leaving                      Greet     I do not know you: send Hello
                                                 Refused   you cannot take part
                                                 Heartbeat, Bye

Any message may be lost or arrive twice. Those that must not be lost are sent again until they are
answered: Hello until Welcome, Measured until Ack or Rejected. If a Ready or a Job is lost, the
board's next Heartbeat repairs that, because it says which blocks the board has and how many more it
can take.
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
MAX_RECORD_BYTES = 2**20  # the limit of a Measured; a real one of 40 rounds has about 150 KiB
HEARTBEAT_S = 2.0
SILENCE_S = 10.0  # a peer that has sent nothing for so long is taken for dead
PROGRESS_S = 0.1  # between two Visited of a board, so that a thousand boards leave room for records
RESEND_S = 5.0  # a message that must not be lost is sent again if it has no answer by then
WINDOW = 2  # the most blocks that a board holds: the one it measures and the next

Key = Tuple[str, ...]  # the key of a record: `record_key`


class Holding(msgspec.Struct, frozen=True):
    """A block that a board has not finished, and the ids of its archs that have no record yet."""

    job: str
    archs: Tuple[str, ...]


class Hello(msgspec.Struct, frozen=True, tag=True):
    """Board -> host: who I am. First on every connection, and again after a Greet.

    `board` is the identity of the board and never changes; `session` is that of this process. Hello
    can be read whatever protocol its sender speaks, so that an old board is refused with a reason.
    """

    protocol: int
    device: Device
    engines: Tuple[Tuple[str, str], ...]  # (engine, version) that load on this board
    board: str = ""
    session: str = ""
    run: str = ""  # the run that the blocks in `holding` belong to
    holding: Tuple[Holding, ...] = ()


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """Host -> board: the run, the space of its archs, and the target that says what is timed."""

    protocol: int
    space: Space
    target: Target
    run: str = ""


class Greet(msgspec.Struct, frozen=True, tag=True):
    """Host -> board: I do not know you, perhaps because I was restarted; send Hello."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Host -> board: you cannot take part, and the reason."""

    reason: str


class Drop(msgspec.Struct, frozen=True, tag=True):
    """Host -> board: do not measure these blocks, and the reason."""

    jobs: Tuple[str, ...]
    reason: str = ""


class Ack(msgspec.Struct, frozen=True, tag=True):
    """Host -> board: the records with these keys are committed to the disk."""

    keys: Tuple[Key, ...]


class Rejected(msgspec.Struct, frozen=True, tag=True):
    """Host -> board: this host does not accept the records with these keys, and the reason."""

    keys: Tuple[Key, ...]
    reason: str


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """Either side: I am alive. A board says every HEARTBEAT_S how it is.

    A host sends it without any fields when it has sent the board nothing else for a while.
    """

    room: int = 0  # how many more blocks the board would take now
    holding: Tuple[str, ...] = ()  # ids of the blocks that it has
    spooled: int = 0  # records that wait for an Ack
    temperature_c: Optional[float] = None  # of the hottest sensor
    power_mode: Optional[str] = None
    error: str = ""  # what is wrong with the board now; empty if nothing is
    waits: bool = False  # another process measures there: its next block cannot begin yet


class Bye(msgspec.Struct, frozen=True, tag=True):
    """Either side: I am leaving, and the reason."""

    reason: str


FromBoard = Union[Hello, Ready, Visited, Measured, Heartbeat, Bye]
FromHost = Union[Welcome, Greet, Refused, Job, Drop, Ack, Rejected, Heartbeat, Bye]

_encoder = msgspec.msgpack.Encoder()
_from_board = msgspec.msgpack.Decoder(FromBoard)
_from_host = msgspec.msgpack.Decoder(FromHost)


def encode(message: Union[FromBoard, FromHost]) -> bytes:
    return _encoder.encode(message)


def decode_from_board(data: bytes) -> FromBoard:
    """Read a message of a board; WireError if `data` is too large or is not one."""
    try:
        message: FromBoard = _from_board.decode(_within_limit(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a message of a board: {error}") from error
    return message


def decode_from_host(data: bytes) -> FromHost:
    """Read a message of a host; WireError if `data` is too large or is not one."""
    try:
        message: FromHost = _from_host.decode(_within_limit(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a message of a host: {error}") from error
    return message


def _within_limit(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise WireError(f"a message of {len(data)} bytes exceeds the limit of {MAX_BYTES} bytes")
    return data
