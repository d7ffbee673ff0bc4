"""Refits between blocks: when a class ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ramnas_edge.measuring import profiler
from ramnas_edge.measuring.record import LatencyRecord, Target
from ramnas_edge.measuring.request import BLOCK, Request
from ramnas_edge.measuring.store import Store
from ramnas_host.fleet.dispatch import Dispatch
from ramnas_host.fleet.steering import EVERY_S, Steering
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import load_space

SPACE = load_space("micro")
ARCHS = sample_by_macs(SPACE, np.random.default_rng(0), 60)
REQUEST = Request("run", SPACE, Target(num_classes=10), ARCHS)


class AfterTwoBlocks:
    """Is called as UntilTau is; has finished when it sees two blocks of records."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.threads: set[int] = set()

    def finished(self, device_class: str, records: Sequence[LatencyRecord]) -> bool:
        self.threads.add(threading.get_ident())
        self.asked.append(len(records))
        return len(records) >= 2 * BLOCK


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "s.sqlite")
    yield store
    store.close()


def measure(dispatch: Dispatch, store: Store) -> None:
    queue = dispatch.queues["class"]
    block = dispatch.give(b"a", queue, 0.0)
    assert block
    for arch in block.archs:
        blank = profiler.failed(block, arch, SPACE, "class", "")
        store.add(msgspec.structs.replace(blank, validity="ok"))
        dispatch.recorded(queue, arch.id, 1.0)


def stepped(steering: Steering, dispatch: Dispatch, now: float) -> list[str]:
    """Begin a fit if it is due, wait for it, take it."""
    ended = steering.step(dispatch, now)
    for _ in range(500):
        if steering.idle:
            break
        time.sleep(0.01)
        ended += steering.step(dispatch, now)
    return [queue.name for queue in ended]


def test_a_fit_follows_every_block_and_ends_the_class(store: Store) -> None:
    until_tau, dispatch = AfterTwoBlocks(), Dispatch(REQUEST)
    queue = dispatch.open("class", ())
    queue.boards = 1
    steering = Steering(until_tau, store, "run")
    try:
        assert stepped(steering, dispatch, 0.0) == []
        assert until_tau.asked == []  # nothing is measured
        measure(dispatch, store)
        assert stepped(steering, dispatch, 10.0) == []
        assert stepped(steering, dispatch, 10.0 + 2 * EVERY_S) == []
        assert until_tau.asked == [BLOCK]  # no new record, no new fit
        measure(dispatch, store)
        assert stepped(steering, dispatch, 10.0 + EVERY_S / 2) == []  # too soon
        assert stepped(steering, dispatch, 10.0 + 3 * EVERY_S) == ["class"]
        assert until_tau.asked == [BLOCK, 2 * BLOCK]
        assert threading.get_ident() not in until_tau.threads
    finally:
        steering.close()
