"""The records of a device class -> whether it is known well enough to stop measuring it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ramnas_edge.measuring import drift
from ramnas_edge.measuring.record import OK, LatencyRecord
from ramnas_edge.measuring.request import BLOCK
from ramnas_edge.measuring.store import Store
from ramnas_host.fleet.dispatch import Queue
from ramnas_host.surrogates.noise_floor import floor_ms
from ramnas_host.surrogates.surrogate import COST, MIN_RECORDS, fit
from ramnas_models.errors import DataError
from ramnas_models.space import Space

log = logging.getLogger(__name__)
EVERY_S = 5.0  # a fit begins at the earliest this long after the one before


class UntilTau:
    """Fits the latency surrogate (family `cost`) of a class again whenever it has more records.

    A class has finished when the cross-validated Kendall tau of its last `refits` fits, each on
    more records than the one before, was `target_tau` or more. The first fit needs MIN_RECORDS.
    """

    def __init__(self, space: Space, target_tau: float, *, refits: int = 3) -> None:
        if not 0 < target_tau < 1:
            raise DataError(f"the target tau is {target_tau:g}; it must lie between 0 and 1")
        self._space, self._target, self._refits = space, target_tau, refits
        self._taus: dict[str, dict[int, float]] = {}  # class -> archs of a fit -> its tau
        self._thread = ThreadPoolExecutor(1)
        self._fit: tuple[Queue, Future[bool]] | None = None
        self._due_s = 0.0
        self._seen: dict[str, int] = {}  # class -> records at its last fit

    def step(self, queues: Iterable[Queue], store: Store, now: float) -> list[Queue]:
        """Take the result of a fit, or begin one; returns the class that has finished, if any.

        A fit takes seconds, so it runs in a thread while boards measure on. The thread works on
        copies of the records, and touches neither the store nor a socket.
        """
        if self._fit and self._fit[1].done():
            queue, fitted = self._fit
            self._fit = None
            return [queue] if fitted.result() else []
        for queue in queues if self._fit is None and now >= self._due_s else ():
            if not queue.ended and queue.recorded - self._seen.get(queue.name, 0) >= BLOCK:
                self._seen[queue.name], self._due_s = queue.recorded, now + EVERY_S
                run, target = queue.request.run, queue.request.target
                records = [r for r in store.records(run, queue.name) if r.target == target]
                self._fit = queue, self._thread.submit(self.finished, queue.name, records)
                break
        return []

    def finished(self, device_class: str, records: Sequence[LatencyRecord]) -> bool:
        """Whether a class has finished; fits again if records of more archs have come.

        All `records` are of one target, whose input size shapes what the archs cost.
        """
        taus = self._taus.setdefault(device_class, {})
        archs = {r.arch_id: r.arch for r in records if r.validity == OK}
        if len(archs) >= MIN_RECORDS and len(archs) > max(taus, default=0):
            # all records show the drift, also the doubtful ones
            fitted = drift.fit(drift.visits_of(records))
            measured = [arch for arch_id, arch in archs.items() if arch_id in fitted.level]
            y = np.exp([fitted.level[arch.id] for arch in measured])
            try:
                surrogate = fit(
                    self._space, self._space.encode_all(measured), y, COST, log=True,
                    input_hw=records[0].target.input_hw, floor_ms=floor_ms(fitted),
                )  # fmt: skip
                taus[len(archs)] = surrogate.score.tau
                log.info("%s, %d archs: %s", device_class, len(y), surrogate.score.taus)
            except DataError as error:
                log.warning("%s: no surrogate of %d archs: %s", device_class, len(y), error)
        last = list(taus.values())[-self._refits :]
        return len(last) == self._refits and all(tau >= self._target for tau in last)

    def saved(self, done: int, total: int) -> str:
        """How many measurements were saved by stopping after `done` of `total`, in words."""
        part = (total - done) / total if total else 0.0
        return (
            f"{done} of {total} measured: tau {self._target:g} held over {self._refits} fits, "
            f"{total - done} measurements ({part:.0%}) saved"
        )
