"""Pipelines that a thread of their own opens and closes, and also runs if the engine needs that."""

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
    """Measure the p90 in ms of handing a call to another thread and its result back.

    The call itself does nothing.
    """
    times = []
    with ThreadPoolExecutor(1) as thread:
        for _ in range(calls):
            start = time.perf_counter()
            thread.submit(int).result()
            times.append((time.perf_counter() - start) * 1e3)
    return float(np.percentile(times, 90))


class OwnedPipelines:
    """Pipelines opened in the background, which may be called from any thread.

    They open in a thread of their own, so that the pipelines in use keep answering frames. A
    TensorRT session may be used only in the thread that opened it. With `bound`, that thread
    therefore runs every call, which costs `handover_ms`. Otherwise the caller's thread runs it.
    """

    def __init__(
        self, start: Callable[[], Pipelines], bound: bool, after: Sequence[Freed] = ()
    ) -> None:
        """Call `start` once all of `after` are freed, unless `close` was called before that."""
        self._bound, self._closed = bound, False
        self._opened: Optional[Pipelines] = None  # asking the future instead takes 2 us per frame
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ramnas-model")
        self._pipelines: Opening = self._thread.submit(self._open, start, after)

    def opened(self) -> bool:
        """Tell whether they are open; if opening failed, raise its error."""
        return self._pipelines.done() and bool(self._pipelines.result())

    @property
    def running(self) -> Running:
        """The engine that really runs. Waits until it is open, and raises what opening raised."""
        return self._pipelines.result().running

    def __call__(self, frames: Sequence[Frame], limits: Limits) -> List[Tuple[Result, ...]]:
        pipelines = self._opened or self._pipelines.result()
        if self._bound:
            return self._thread.submit(pipelines, frames, limits).result()
        return pipelines(frames, limits)

    def close(self) -> Freed:
        """Free them in their own thread, once it has finished opening them; do not wait for it."""
        self._closed = True
        freed = self._thread.submit(self._free)
        self._thread.shutdown(wait=False)
        return freed

    def _open(self, start: Callable[[], Pipelines], after: Sequence[Freed]) -> Pipelines:
        wait(after)
        if self._closed:
            raise CancelledError
        self._opened = start()
        return self._opened

    def _free(self) -> None:
        if self._pipelines.exception() is None:
            self._pipelines.result().close()
        # glibc keeps memory that was freed here for this thread, unless it is told to trim
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
