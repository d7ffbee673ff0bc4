"""Measure a block of archs on this machine: shuffled rounds of visits in, LatencyRecords out."""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Callable, DefaultDict, Dict, Iterator, List, Tuple

import msgspec
import numpy as np

from ramnas_edge.engines import backends
from ramnas_edge.measuring.drift import spread, standard_error
from ramnas_edge.measuring.record import (
    FAILED,
    INCONCLUSIVE,
    OK,
    Block,
    LatencyRecord,
    Sustained,
    Visit,
    statistics,
)
from ramnas_edge.measuring.runner import Runner
from ramnas_models.errors import OutOfMemoryError, RamnasError
from ramnas_models.space import Arch, Space

if TYPE_CHECKING:
    from ramnas_edge.engines.backends import Clock

MAX_OPENING = 0.25  # opening sessions again may take this part of the time of the rounds they serve
# Standard error of a block's log levels; at 0.0085 two passes differed by 1.4 %.
REPEATABLE = 0.0065
MAX_SPREAD = 0.10  # robust sigma of log visits; a measurement with more is inconclusive


def measure(
    block: Block,
    space: Space,
    device_class: str,
    *,
    on_visit: Callable[[Visit], None] = lambda visit: None,
    clock: Clock = time.monotonic_ns,
) -> List[LatencyRecord]:
    """Measure every arch of `block`: whole calls or the engine alone, as its target says.

    If the session of an arch cannot be opened, or fails, its record is `failed` and names the
    reason. If the visits of an arch scatter by more than MAX_SPREAD around the block's drift, its
    record is `inconclusive`. OutOfMemoryError is raised and no record is made, because each arch
    may still fit alone, in a fresh process.
    """
    measurement = _BlockMeasurement(block, space, on_visit, clock)
    with _no_garbage_collection():
        for number in range(max(block.rounds, block.most_rounds)):
            if number >= block.rounds and measurement.is_settled(number):
                break
            if measurement.must_reopen(number):
                measurement.open()
            measurement.round(number)
        for name in block.names:
            measurement.sustain(name)
    measurement.close()
    scatter = spread([*measurement.visits, *measurement.anchor_visits])
    return [
        measurement.record(name, arch, device_class, scatter)
        for name, arch in zip(block.names, block.archs)
    ]


def failed(
    block: Block, arch: Arch, space: Space, device_class: str, reason: str, model: str = ""
) -> LatencyRecord:
    """The record of an arch that could not be measured: it has the reason and no figures.

    `model` is its name if it is a bundle's.
    """
    return LatencyRecord(
        run=block.run,
        target=block.target,
        arch=arch,
        arch_id=arch.id,
        space_hash=space.hash,
        input_hw=block.target.hw(arch),
        device_class=device_class,
        engine_version="",
        providers=(),
        validity=FAILED,
        reason=reason,
        model=model,
    )


class _BlockMeasurement:
    """The open sessions of a block, and everything that they have yielded so far."""

    def __init__(
        self, block: Block, space: Space, on_visit: Callable[[Visit], None], clock: Clock
    ) -> None:
        self.block, self.space, self.on_visit, self.clock = block, space, on_visit, clock
        self.visits: List[Visit] = []
        self.anchor_visits: List[Visit] = []
        self.failures: Dict[str, str] = {}
        self.sustained: Dict[str, Sustained] = {}
        self._stages: DefaultDict[str, List[Dict[str, float]]] = defaultdict(list)
        self._rng = np.random.default_rng(block.seed)
        self._runners: Dict[str, Runner] = {}
        self._running: backends.Running
        self._outputs: Tuple[str, ...] = ()
        self._open_ns = self._round_ns = 0

    @functools.cached_property
    def _backend(self) -> backends.Backend:
        # loaded with the first session, so that every record names the reason if that fails
        return backends.load(self.block.target.engine)

    def must_reopen(self, number: int) -> bool:
        """Whether all sessions are to be opened again before round `number`.

        Two sessions of the same network may differ by up to 1 %, depending on where their weights
        and buffers lie in memory. Several sessions average that out. Each set of sessions serves
        two rounds, or more if the first set was slow to open (MAX_OPENING).
        """
        rounds = math.ceil(self._open_ns / max(1, MAX_OPENING * self._round_ns))
        return number % max(2, rounds) == 0

    def is_settled(self, number: int) -> bool:
        """Whether `number` rounds are enough to know the levels; checked every fourth round."""
        if (number - self.block.rounds) % 4:
            return False
        return standard_error([*self.visits, *self.anchor_visits]) <= REPEATABLE

    def open(self) -> None:
        """Close all sessions and open new ones, one for each network of the block."""
        self.close()
        start, block = self.clock(), self.block
        networks = {**dict(zip(block.names, block.archs)), **{a.id: a for a in block.anchors}}
        for name, arch in networks.items():
            if name not in self.failures:
                with self._failures_of(name):
                    self._runners[name] = Runner(
                        self._backend, arch, self.space, block.target, block.bundle, name
                    )
                    self._running = self._runners[name].running
                    self._outputs = self._runners[name].outputs
        self._open_ns = self._open_ns or self.clock() - start

    def round(self, number: int) -> None:
        """Visit every arch once, in random order.

        The anchors are visited before and after them, in order to see the drift of the round.
        """
        start = self.clock()
        anchors = [a.id for a in self.block.anchors]
        shuffled = self._rng.permutation([*self.block.names]).tolist()
        order = [*anchors, *shuffled, *anchors[::-1]]
        of_archs = range(len(anchors), len(anchors) + len(shuffled))
        for position, name in enumerate(order):
            if name in self.failures:
                continue
            with self._failures_of(name):
                visit = self._visit(name, number, position)
                (self.visits if position in of_archs else self.anchor_visits).append(visit)
                self.on_visit(visit)
        if number == 0:
            self._round_ns = self.clock() - start

    def _visit(self, name: str, number: int, position: int) -> Visit:
        runner, block, clock = self._runners[name], self.block, self.clock
        start = clock()
        runner.warm_up(block.warm_up_ms, clock)
        times = runner.time(block.runs, block.timed_ms, clock)
        end = clock()
        if position >= len(block.anchors):
            self._stages[name].append(runner.stages(clock))
        return Visit(name, block.id, number, position, tuple(times), start / 1e9, end / 1e9)

    def sustain(self, name: str) -> None:
        """Run one arch without a pause for `block.sustained_s`, so that its power can be read."""
        if not self.block.sustained_s or name in self.failures:
            return
        with self._failures_of(name):
            start = self.clock()
            times = self._runners[name].time(1, self.block.sustained_s * 1e3, self.clock)
            seconds = (self.clock() - start) / 1e9
            self.sustained[name] = Sustained(start / 1e9, seconds, len(times))

    def record(
        self, name: str, arch: Arch, device_class: str, scatter: Dict[str, float]
    ) -> LatencyRecord:
        block, model = self.block, name if self.block.models else ""
        if name in self.failures:
            return failed(block, arch, self.space, device_class, self.failures[name], model)
        own = tuple(v for v in self.visits if v.arch_id == name)
        running, stages = self._running, self._stages[name]
        steady = scatter[name] <= MAX_SPREAD
        return msgspec.structs.replace(
            failed(block, arch, self.space, device_class, "", model),
            engine_version=running.version,
            providers=running.providers,
            outputs=self._outputs,
            validity=OK if steady else INCONCLUSIVE,
            reason="" if steady else f"the visits scatter by {scatter[name]:.0%}",
            visits=own,
            anchors=tuple(self.anchor_visits),
            stages_ms={k: float(np.median([s[k] for s in stages])) for k in stages[0]},
            sustained=self.sustained.get(name),
            **statistics(own),
        )

    def close(self) -> None:
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()

    @contextlib.contextmanager
    def _failures_of(self, name: str) -> Iterator[None]:
        """Turn an error of ours into the reason why this arch failed, unless memory ran out."""
        try:
            yield
        except OutOfMemoryError:
            raise
        except RamnasError as error:
            self.failures[name] = str(error)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
