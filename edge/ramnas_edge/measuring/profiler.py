"""Measure a block of archs on this machine: shuffled rounds of visits -> LatencyRecords."""

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

OPENING = 0.25  # of the time of a block's rounds may go to opening sessions
REPEATABLE = 0.0065  # standard error of a block's levels (log); 0.0085 left passes 1.4 % apart
MAX_SPREAD = 0.10  # robust sigma of log visits; above it a measurement is inconclusive


def measure(
    block: Block,
    space: Space,
    device_class: str,
    *,
    on_visit: Callable[[Visit], None] = lambda visit: None,
    clock: Clock = time.monotonic_ns,
) -> List[LatencyRecord]:
    """Measure every arch of `block`, by whole calls or the engine alone as its target says.

    An arch whose session cannot be opened or fails becomes a `failed` record with the reason; one
    whose visits scatter by more than MAX_SPREAD around the block's drift is `inconclusive`.
    OutOfMemoryError leaves no record: alone, in a fresh process, the arch may fit.
    """
    measuring = _Measuring(block, space, on_visit, clock)
    with _undisturbed():
        for number in range(max(block.rounds, block.most_rounds)):
            if number >= block.rounds and measuring.settled(number):
                break
            if measuring.new_sitting(number):
                measuring.open()
            measuring.round(number)
        for arch in block.archs:
            measuring.sustain(arch.id)
    measuring.close()
    scatter = spread([*measuring.visits, *measuring.anchor_visits])
    return [measuring.record(arch, device_class, scatter) for arch in block.archs]


def failed(block: Block, arch: Arch, space: Space, device_class: str, reason: str) -> LatencyRecord:
    """The record of an arch that could not be measured: no figure is invented for it."""
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
    )


class _Measuring:
    """The open sessions of a block and what they have given so far."""

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
        """Loaded once, however often sessions are opened; if it cannot be, every arch says why."""
        return backends.load(self.block.target.engine)

    def new_sitting(self, number: int) -> bool:
        """Whether round `number` begins with sessions opened anew.

        Where its weights and buffers come to lie in memory makes one session of a network up to 1 %
        slower than another: several average that out, as many as opening them stays cheap.
        The first ones opened decide how many rounds each serves.
        """
        return number % max(2, math.ceil(self._open_ns / max(1, OPENING * self._round_ns))) == 0

    def settled(self, number: int) -> bool:
        """Whether the levels are known well enough after `number` rounds; every fourth is asked."""
        if (number - self.block.rounds) % 4:
            return False
        return standard_error([*self.visits, *self.anchor_visits]) <= REPEATABLE

    def open(self) -> None:
        """Open the sessions of all networks of the block, the ones before them closed."""
        self.close()
        start, block = self.clock(), self.block
        for arch in {a.id: a for a in (*block.archs, *block.anchors)}.values():
            if arch.id not in self.failures:
                with self._failing(arch.id):
                    self._runners[arch.id] = Runner(
                        self._backend, arch, self.space, block.target, block.bundle
                    )
                    self._running = self._runners[arch.id].running
                    self._outputs = self._runners[arch.id].outputs
        self._open_ns = self._open_ns or self.clock() - start

    def round(self, number: int) -> None:
        """Visit every arch once, shuffled; the anchors at both ends see the drift of the round."""
        start = self.clock()
        anchors = [a.id for a in self.block.anchors]
        shuffled = self._rng.permutation([a.id for a in self.block.archs]).tolist()
        order = [*anchors, *shuffled, *anchors[::-1]]
        inner = range(len(anchors), len(anchors) + len(shuffled))
        for position, arch_id in enumerate(order):
            if arch_id in self.failures:
                continue
            with self._failing(arch_id):
                visit = self._visit(arch_id, number, position)
                (self.visits if position in inner else self.anchor_visits).append(visit)
                self.on_visit(visit)
        if number == 0:
            self._round_ns = self.clock() - start

    def _visit(self, arch_id: str, number: int, position: int) -> Visit:
        runner, block, clock = self._runners[arch_id], self.block, self.clock
        start = clock()
        runner.warm_up(block.warm_up_ms, clock)
        times = runner.time(block.runs, block.timed_ms, clock)
        end = clock()
        if position >= len(block.anchors):
            self._stages[arch_id].append(runner.stages(clock))
        return Visit(arch_id, block.id, number, position, tuple(times), start / 1e9, end / 1e9)

    def sustain(self, arch_id: str) -> None:
        """Run one arch without a pause, so that its power can be read."""
        if not self.block.sustained_s or arch_id in self.failures:
            return
        with self._failing(arch_id):
            start = self.clock()
            times = self._runners[arch_id].time(1, self.block.sustained_s * 1e3, self.clock)
            seconds = (self.clock() - start) / 1e9
            self.sustained[arch_id] = Sustained(start / 1e9, seconds, len(times))

    def record(self, arch: Arch, device_class: str, scatter: Dict[str, float]) -> LatencyRecord:
        block = self.block
        if arch.id in self.failures:
            return failed(block, arch, self.space, device_class, self.failures[arch.id])
        own = tuple(v for v in self.visits if v.arch_id == arch.id)
        running, stages = self._running, self._stages[arch.id]
        steady = scatter[arch.id] <= MAX_SPREAD
        return msgspec.structs.replace(
            failed(block, arch, self.space, device_class, ""),
            engine_version=running.version,
            providers=running.providers,
            outputs=self._outputs,
            validity=OK if steady else INCONCLUSIVE,
            reason="" if steady else f"visits scatter by {scatter[arch.id]:.0%}",
            visits=own,
            anchors=tuple(self.anchor_visits),
            stages_ms={k: float(np.median([s[k] for s in stages])) for k in stages[0]},
            sustained=self.sustained.get(arch.id),
            **statistics(own),
        )

    def close(self) -> None:
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()

    @contextlib.contextmanager
    def _failing(self, arch_id: str) -> Iterator[None]:
        try:
            yield
        except OutOfMemoryError:
            raise
        except RamnasError as error:
            self.failures[arch_id] = str(error)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """No garbage collection while timing."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
