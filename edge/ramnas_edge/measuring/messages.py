"""The messages between the measuring process and its parent, as msgpack.

    parent -> child                            child -> parent
    Job        measure this block              Ready      I have no block
                                               Visited    a visit has been timed
                                               Measured   the record of one arch

A host and its boards exchange the same four (`fleet/wire.py`): there the host sends the jobs.
"""

from __future__ import annotations

from typing import Union

import msgspec

from ramnas_edge.measuring.record import Block, LatencyRecord, Visit


class Job(msgspec.Struct, frozen=True, tag=True):
    """A block to measure, and the device class that its records are stored under."""

    block: Block
    device_class: str
    again: bool = False  # this is the board's own second try of some archs of a block


class Ready(msgspec.Struct, frozen=True, tag=True):
    """There is room for `room` more blocks; a measuring process takes one at a time."""

    room: int = 1


class Visited(msgspec.Struct, frozen=True, tag=True):
    """One visit that has just been timed: progress, `done` of at most `total` visits of its block.

    It may be lost, because the record of its arch holds every visit. A board sends its host only
    the newest one in each PROGRESS_S.
    """

    visit: Visit
    done: int
    total: int


class Measured(msgspec.Struct, frozen=True, tag=True):
    """The record of one arch. A board sends it again until an Ack or Rejected names its key."""

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
