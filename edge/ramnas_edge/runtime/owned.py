"""Pipelines opened and closed in a thread of their own, and run there where the engine wants it."""

from __future__ import annotations

import contextlib
import ctypes
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Callable, List, Optional, Sequence, Tuple

import numpy as np

if TYPE_CHECKING:
    from concurrent.futures import Future

    from ramnas_edge.engines.backends import Running
    from ramnas_edge.vision.detection import Limits
    from ramnas_edge.vision.pipeline import Frame, Pipelines
    from ramnas_edge.vision.results import Result

    Opening = Future[Pipelines]  # novermin
    Freed = Future[None]  # novermin


def handover_ms(calls: int = 100) -> float:
    """p90 (ms) of handing nothing to a thread and its result back, on this machine."""
    times = []
    with ThreadPoolExecutor(1) as thread:
        for _ in range(calls):
            start = time.perf_counter()
            thread.submit(int).result()
            times.append((time.perf_counter() - start) * 1e3)
    return float(np.percentile(times, 90))


class Owned:
    """What pipelines are, from any thread; opened in the background.

    Opening must not stall the frames of others. A session of TensorRT may be used only in the
    thread that opened it: `bound` hands each call over and its result back, which costs
    `handover_ms`. Else the caller's thread runs it.
    """

    def __init__(
        self, start: Callable[[], Pipelines], bound: bool, after: Sequence[Freed] = ()
    ) -> None:
        """They are opened once those `after` are freed, unless closed until then."""
        self._bound, self._closed = bound, False
        self._open_ones: Optional[Pipelines] = None  # asking the future for them takes 2 us a frame
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ramnas-model")
        self._pipelines: Opening = self._thread.submit(self._open, start, after)

    def opened(self) -> bool:
        """Whether they are open; raises what opening raised."""
        return self._pipelines.done() and bool(self._pipelines.result())

    @property
    def running(self) -> Running:
        """Waits until they are open; raises what opening raised."""
        return self._pipelines.result().running

    def __call__(self, frames: Sequence[Frame], limits: Limits) -> List[Tuple[Result, ...]]:
        pipelines = self._open_ones or self._pipelines.result()
        if self._bound:
            return self._thread.submit(pipelines, frames, limits).result()
        return pipelines(frames, limits)

    def close(self) -> Freed:
        """Free them, in their thread; if they are still being opened, when that ends."""
        self._closed = True
        freed = self._thread.submit(self._free)
        self._thread.shutdown(wait=False)
        return freed

    def _open(self, start: Callable[[], Pipelines], after: Sequence[Freed]) -> Pipelines:
        wait(after)
        if self._closed:
            raise CancelledError
        self._open_ones = start()
        return self._open_ones

    def _free(self) -> None:
        if self._pipelines.exception() is None:
            self._pipelines.result().close()
        # what was freed here is kept for this thread by glibc, unless it is asked for
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
