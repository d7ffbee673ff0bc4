"""Calls of until_tau between blocks, in a thread of its own: a fit takes seconds, boards do not
wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from ramnas_edge.measuring.request import BLOCK

if TYPE_CHECKING:
    from ramnas_edge.measuring.record import LatencyRecord
    from ramnas_edge.measuring.store import Store
    from ramnas_host.fleet.dispatch import Dispatch, Queue


class Advice(Protocol):
    """What is asked of `until_tau.UntilTau`."""

    def finished(self, device_class: str, records: Sequence[LatencyRecord]) -> bool: ...


EVERY_S = 5.0  # at most one fit in this time


class Steering:
    """Ends a class that is known well enough.

    The thread works on copies: neither the store nor a socket is touched by it.
    """

    def __init__(self, until_tau: Advice, store: Store, run: str) -> None:
        self._until_tau, self._store, self._run = until_tau, store, run
        self._thread = ThreadPoolExecutor(1)
        self._fit: tuple[Queue, Future[bool]] | None = None
        self._due_s = 0.0
        self._seen: dict[str, int] = {}  # records of a class at its last fit

    def step(self, dispatch: Dispatch, now: float) -> list[Queue]:
        """Take the result of a fit, begin another; the classes that have ended by it."""
        ended = []
        if self._fit and self._fit[1].done():
            queue, fit = self._fit
            self._fit = None
            if fit.result():
                ended.append(queue)
        if self._fit is None and now >= self._due_s:
            self._begin(dispatch, now)
        return ended

    @property
    def idle(self) -> bool:
        """No fit is under way."""
        return self._fit is None

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _begin(self, dispatch: Dispatch, now: float) -> None:
        for queue in dispatch.queues.values():
            known = queue.total - len(queue.missing)
            if queue.ended or known - self._seen.get(queue.name, 0) < BLOCK:
                continue
            self._seen[queue.name], self._due_s = known, now + EVERY_S
            records = self._store.records(self._run, queue.name)
            self._fit = queue, self._thread.submit(self._until_tau.finished, queue.name, records)
            return
