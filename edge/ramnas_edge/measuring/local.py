"""Measure a Request on this machine, without a host: blocks go to a child, records to a store."""

from __future__ import annotations

import select
from contextlib import closing
from typing import Callable, Generator, Iterable, Tuple

import msgspec

from ramnas_edge.board.device import this_device
from ramnas_edge.board.telemetry import Telemetry
from ramnas_edge.engines import backends
from ramnas_edge.measuring import messages
from ramnas_edge.measuring.record import Block
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.store import Store
from ramnas_edge.measuring.supervisor import News, Supervisor
from ramnas_models.space import Space


class Progress(msgspec.Struct, frozen=True):
    """How far a request is: `done` of `total` archs have a record.

    `inside` is how many more archs the finished visits of the current block are worth. `note` says
    where the sensor readings come from, or that the records were there before.
    """

    done: int
    total: int
    inside: float
    note: str


def profile(
    request: Request,
    store: Store,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> str:
    """Measure the archs that have no record in `store` yet, and return this board's device class.

    Every record is committed as soon as it is there. However the process ends, the same call then
    continues with the archs that are missing.
    """
    target = request.target
    # if the engine does not work at all, raise one error here instead of a failed record per arch
    options = backends.Options(precision=target.precision, threads=target.threads)
    backend = backends.probe(target.engine, options)
    device_class = this_device().class_key(target.engine, backend.version)
    missing = request.missing(device_class, store.keys(request.run, device_class))
    total = len(request.archs)
    done = total - len(missing)
    on_progress(Progress(done, total, 0.0, "recorded before" if done else ""))
    if not missing:
        return device_class
    current_block, done_before, inside = "", done, 0.0
    blocks = request.blocks(missing)
    with closing(measure_blocks(blocks, request.space, device_class)) as measuring:
        for block, news, source in measuring:
            if block.id != current_block:
                current_block, done_before, inside = block.id, done, 0.0
            if isinstance(news, messages.Measured):
                store.add(news.record)
                done += 1
            else:  # a second try counts its visits from 0 again, and progress must not step back
                inside = max(inside, len(block.archs) * news.done / news.total)
            on_progress(Progress(done, total, max(0.0, done_before + inside - done), source))
    return device_class


def measure_blocks(
    blocks: Iterable[Block], space: Space, device_class: str
) -> Generator[Tuple[Block, News, str], None, None]:
    """Measure `blocks`, one after the other, in a child process.

    Yields each visit and each record as it comes, with its block and the source of the sensor
    readings (`Telemetry.source`). Close it: a notebook keeps the last exception, and with it a
    generator that is not closed would keep the child process and the lock of the board.
    """
    with Telemetry.open() as telemetry:
        supervisor = Supervisor(space, this_device(), telemetry)
        try:
            for block in blocks:
                supervisor.submit(messages.Job(block, device_class))
                while not supervisor.idle:
                    select.select([supervisor.fileno()], [], [], 0.5)  # step also reads the sensors
                    for news in supervisor.step():
                        yield block, news, telemetry.source
        finally:
            supervisor.close()
