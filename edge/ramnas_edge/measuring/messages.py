"""What the measuring process and its parent say to each other, as msgpack.

    parent -> child                            child -> parent
    Job        measure this block              Ready      I have no block
                                               Visited    a visit was timed
                                               Measured   the record of one arch

The fleet's protocol (`fleet/wire.py`) carries the same four between a host and its boards.
"""

from __future__ import annotations

from typing import Union

import msgspec

from ramnas_edge.measuring.record import Block, LatencyRecord, Visit


class Job(msgspec.Struct, frozen=True, tag=True):
    """Host -> board: measure this block."""

    block: Block
    device_class: str
    again: bool = False  # the board's own second try of a part of a block


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Board -> host: I have room for so many more blocks."""

    room: int = 1


class Visited(msgspec.Struct, frozen=True, tag=True):
    """Board -> host: a visit as it was timed; of those within PROGRESS_S only the newest is sent,
    and it may be lost. Every visit comes with its record."""

    visit: Visit
    done: int
    total: int


class Measured(msgspec.Struct, frozen=True, tag=True):
    """Board -> host: the record of one arch; again until Ack or Rejected names its key."""

    record: LatencyRecord


FromChild = Union[Ready, Visited, Measured]

_encoder = msgspec.msgpack.Encoder()
_from_child = msgspec.msgpack.Decoder(FromChild)
_job = msgspec.msgpack.Decoder(Job)


def encode(message: Union[Job, FromChild]) -> bytes:
    return _encoder.encode(message)


def decode_from_child(data: bytes) -> FromChild:
    message: FromChild = _from_child.decode(data)
    return message


def decode_job(data: bytes) -> Job:
    job: Job = _job.decode(data)
    return job
