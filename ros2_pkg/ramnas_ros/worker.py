"""The newest frames of the inbox -> results, in a thread; replaces an engine that fails.

The node's executor never runs this code, so services and parameters answer while a frame is worked
on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Deque,
    Dict,
    FrozenSet,
    List,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np

from ramnas_models.errors import DataError, EngineError, RamnasError, SourceError
from ramnas_ros.diagnosis import RunningModels

if TYPE_CHECKING:
    from ramnas_edge.runtime.perception import Perception
    from ramnas_edge.vision.preprocessing import Image
    from ramnas_edge.vision.results import Result
    from ramnas_ros.inbox import Inbox

    # (engines that failed, height and width of the frames) -> an open perception
    Opener = Callable[[FrozenSet[str], Tuple[int, int]], Perception]
    # (camera, message, its image, one result per task, perf_counter() when the message was taken)
    Deliver = Callable[[int, Any, Image, Sequence[Result], float], None]

log = logging.getLogger(__name__)
WINDOW = 100  # calls
FRAME_HW = (480, 640)  # assumed until the first image has come


class Worker:
    """Runs `perception` on the newest frames between `start` and `stop`; `close` frees the models.

    It may be started and stopped repeatedly. The counters are for the diagnosis and may be read
    from any thread.
    """

    def __init__(
        self,
        inbox: Inbox,
        open_perception: Opener,
        to_bgr: Callable[[Any], Image],
        deliver: Deliver,
        *,
        batch: int,
        can_fall_back: bool,
        on_failure: Callable[[], None],
    ) -> None:
        """Open the models.

        `can_fall_back`: another engine may take over from one that fails. `on_failure` is called
        after each failure, in the worker's thread.
        """
        self._inbox, self._open, self._to_bgr, self._deliver = (
            inbox, open_perception, to_bgr, deliver,
        )  # fmt: skip
        self._batch, self._can_fall_back, self._on_failure = batch, can_fall_back, on_failure
        self._thread: Optional[threading.Thread] = None
        self._swap = threading.Lock()  # held while another perception is opened
        self._frame_hw, self._seen_a_frame = FRAME_HW, False
        self.perception = open_perception(frozenset(), FRAME_HW)
        self.call_ms: Deque[float] = deque(maxlen=WINDOW)
        self._timed: Any = None  # the models and the budget that call_ms is about
        self.processed = 0
        self.failures = 0
        self.failure = ""  # why the last frame had no result; empty if it had one
        self.failed_engines: Dict[str, str] = {}  # engine -> why it failed
        self._refused: Deque[Tuple[int, str]] = deque()

    def start(self) -> None:
        self._inbox.open()
        self._thread = threading.Thread(target=self._work, name="ramnas-frames")
        self._thread.start()

    def stop(self) -> None:
        """Stop after the frame in progress; the models stay open."""
        self._inbox.close()
        if self._thread:
            self._thread.join()
        self._thread = None

    def close(self) -> None:
        self.stop()
        self.perception.close()

    def change(self, setter: Callable[[Perception], None]) -> None:
        """Call `setter` on the perception, while no other one is being opened in its place.

        DataError if that is happening right now. What `setter` raises is passed on.
        """
        if not self._swap.acquire(blocking=False):
            raise DataError("the models are being opened again: try again in a moment")
        try:
            setter(self.perception)
        finally:
            self._swap.release()

    def take_refused(self) -> List[Tuple[int, str]]:
        """Return (camera, reason) for each image refused since the last call."""
        return [self._refused.popleft() for _ in range(len(self._refused))]

    def running(self, tasks: Sequence[str]) -> RunningModels:
        """Describe what runs now, for the diagnosis."""
        perception = self.perception
        choice, calls = perception.choice, [*self.call_ms]
        p50_ms, p90_ms = np.percentile(calls, [50, 90]).tolist() if calls else (None, None)
        return RunningModels(
            models=tuple((t, m.file, m.arch_id) for t, m in zip(tasks, perception.models)),
            engine=perception.engine,
            providers=perception.providers,
            policy=perception.policy,
            switches=perception.switches,
            processed=self.processed,
            failures=self.failures,
            source=choice.source,
            calibrated=choice.calibrated,
            expected_p90_ms=choice.p90_ms,
            budget_ms=perception.latency_budget_ms,
            calls=len(calls),
            p50_ms=p50_ms,
            p90_ms=p90_ms,
            failed_engines=tuple(self.failed_engines.items()),
        )

    def _work(self) -> None:
        while True:
            taken = self._inbox.take()
            if not taken:
                return
            try:
                self._run(taken)
            except Exception as error:  # the thread must survive any error: the next frame may work
                log.exception("no result for a frame, after an unexpected error")
                self._fail(f"{type(error).__name__}: {error}")

    def _run(self, taken: List[Tuple[int, Any]]) -> None:
        start = time.perf_counter()
        seen = []
        for camera, message in taken:
            try:
                seen.append((camera, message, self._to_bgr(message)))
            except SourceError as error:
                self._refused.append((camera, str(error)))
        if not seen:
            return
        images = [image for _, _, image in seen]
        self._fit_frame_size((images[0].shape[0], images[0].shape[1]))
        # the models need a full batch: fill it with the first image and drop those results
        images += images[:1] * (self._batch - len(images))
        try:
            begin = time.perf_counter()
            results = self.perception(images)
            self._count((time.perf_counter() - begin) * 1e3)
        except EngineError as error:
            self._fail(str(error))
            if self._can_fall_back:
                self._fall_back(error)
            return
        for (camera, message, image), found in zip(seen, results):
            self._deliver(camera, message, image, found, start)
        self.processed += len(seen)
        self.failure = ""

    def _count(self, ms: float) -> None:
        """Add a call to the window, which holds calls of one set of models under one budget."""
        timed = (self.perception, self.perception.models, self.perception.latency_budget_ms)
        if timed != self._timed:
            self._timed = timed
            self.call_ms.clear()
        self.call_ms.append(ms)

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self.failures += 1
        self._on_failure()

    def _fit_frame_size(self, frame_hw: Tuple[int, int]) -> None:
        """At the first frame, choose the models again if it has another size than assumed.

        A budget holds for frames of one size.
        """
        if self._seen_a_frame:
            return
        self._seen_a_frame = True
        if frame_hw == self._frame_hw:
            return
        self._frame_hw = frame_hw
        if self.perception.latency_budget_ms is not None:
            log.info("frames are %dx%d: choosing the models again for this size", *frame_hw)
            self._reopen()

    def _fall_back(self, error: EngineError) -> None:
        before, engine = self.failed_engines, self.perception.engine
        self.failed_engines = {**before, engine: str(error)}
        if self._reopen():
            log.error("engine %s failed, engine %s takes over", engine, self.perception.engine)
        else:  # no other engine works: keep this one, it may recover
            self.failed_engines, self._can_fall_back = before, False

    def _reopen(self) -> bool:
        """Replace the perception by a new one; if none can be opened, keep it and return False."""
        with self._swap:
            before = self.perception
            try:
                self.perception = self._open(frozenset(self.failed_engines), self._frame_hw)
            except RamnasError as error:
                log.error("cannot open other models, so the current ones stay: %s", error)
                return False
        try:
            before.close()
        except RamnasError as error:
            log.warning("engine %s did not close: %s", before.engine, error)
        return True
