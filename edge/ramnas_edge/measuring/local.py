"""Measure a request on this machine, without a host: blocks to the child, records to a store."""

from __future__ import annotations

import select
from typing import Callable, Iterable, Iterator, Tuple

import msgspec

from ramnas_edge.board.device import this_device
from ramnas_edge.board.telemetry import Telemetry
from ramnas_edge.engines import backends
from ramnas_edge.measuring import messages
from ramnas_edge.measuring.record import Block
from ramnas_edge.measuring.request import Request
from ramnas_edge.measuring.store import Store
from ramnas_edge.measuring.supervisor import Measuring, News
from ramnas_models.space import Space


class Progress(msgspec.Struct, frozen=True):
    """`done` of `total` archs have a record; `inside` more are done of the block at hand."""

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
    """Measure what the store does not hold yet; the device class that the records stand under.

    Every record is committed as it comes, so that the same call goes on after any kind of end.
    """
    target = request.target
    # an engine that cannot work at all is one error, not a failed record for every arch
    options = backends.Options(precision=target.precision, threads=target.threads)
    backend = backends.probe(target.engine, options)
    device_class = this_device().class_key(target.engine, backend.version)
    missing = request.missing(device_class, store.keys(request.run, device_class))
    total = len(request.archs)
    done = total - len(missing)
    on_progress(Progress(done, total, 0.0, "recorded before" if done else ""))
    if not missing:
        return device_class
    at, begun, inside = "", done, 0.0
    for block, news, source in measured(request.blocks(missing), request.space, device_class):
        if block.id != at:
            at, begun, inside = block.id, done, 0.0
        if isinstance(news, messages.Measured):
            store.add(news.record)
            done += 1
        else:  # a second try begins at its first visit again
            inside = max(inside, len(block.archs) * news.done / news.total)
        on_progress(Progress(done, total, max(0.0, begun + inside - done), source))
    return device_class


def measured(
    blocks: Iterable[Block], space: Space, device_class: str
) -> Iterator[Tuple[Block, News, str]]:
    """Have `blocks` measured in a child process: each news, with the source of telemetry."""
    with Telemetry.open() as telemetry:
        measuring = Measuring(space, this_device(), telemetry)
        try:
            for block in blocks:
                measuring.submit(messages.Job(block, device_class))
                while not measuring.idle:
                    select.select([measuring.fileno()], [], [], 0.5)
                    for news in measuring.step():
                        yield block, news, telemetry.source
        finally:
            measuring.close()
