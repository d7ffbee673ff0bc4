"""The newest frames of the inbox -> results, in a thread of its own; an engine that fails is left.

The executor of the node is never in here, so that services and parameters answer meanwhile.
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
from ramnas_ros.diagnosis import Running

if TYPE_CHECKING:
    from ramnas_edge.runtime.perception import Perception
    from ramnas_edge.vision.preprocessing import Image
    from ramnas_edge.vision.results import Result
    from ramnas_ros.newest import Newest

    # (engines that failed, height and width of the frames) -> open
    Opener = Callable[[FrozenSet[str], Tuple[int, int]], Perception]
    # (camera, message, its image, a result for each task, perf_counter() when it was taken)
    Deliver = Callable[[int, Any, Image, Sequence[Result], float], None]

log = logging.getLogger(__name__)
WINDOW = 100  # calls
FRAME_HW = (480, 640)  # until the first image


class Worker:
    """Runs `perception` between `start` and `stop`, again and again; `close` frees it.

    The counters are for the diagnosis: they may be read from any thread.
    """

    def __init__(
        self,
        inbox: Newest,
        open_perception: Opener,
        to_bgr: Callable[[Any], Image],
        deliver: Deliver,
        *,
        batch: int,
        falls: bool,
        noticed: Callable[[], None],
    ) -> None:
        """Opens the models. `falls`: another engine may take over; `noticed`: something failed."""
        self._inbox, self._open, self._to_bgr, self._deliver = (
            inbox, open_perception, to_bgr, deliver,
        )  # fmt: skip
        self._batch, self._falls, self._noticed = batch, falls, noticed
        self._thread: Optional[threading.Thread] = None
        self._swap = threading.Lock()  # held while another perception is opened
        self._frame_hw, self._seen_one = FRAME_HW, False
        self.perception = open_perception(frozenset(), FRAME_HW)
        self.call_ms: Deque[float] = deque(maxlen=WINDOW)
        self._called: Any = None  # what those calls were of
        self.processed = 0
        self.failures = 0
        self.failure = ""  # why the last frame had no result; empty: it had one
        self.left: Dict[str, str] = {}  # engines that were left, and why
        self._refused: Deque[Tuple[int, str]] = deque()

    def start(self) -> None:
        self._inbox.open()
        self._thread = threading.Thread(target=self._work, name="ramnas-frames")
        self._thread.start()

    def stop(self) -> None:
        """After the frame at hand; the models stay open."""
        self._inbox.close()
        if self._thread:
            self._thread.join()
        self._thread = None

    def close(self) -> None:
        self.stop()
        self.perception.close()

    def change(self, how: Callable[[Perception], None]) -> None:
        """Let `how` set something of the perception; passes on what it raises."""
        if not self._swap.acquire(blocking=False):
            raise DataError("the models are being opened anew: try again in a moment")
        try:
            how(self.perception)
        finally:
            self._swap.release()

    def take_refused(self) -> List[Tuple[int, str]]:
        """(camera, why) of the images refused since the last time."""
        return [self._refused.popleft() for _ in range(len(self._refused))]

    def running(self, tasks: Sequence[str]) -> Running:
        """What runs now, for the diagnosis."""
        perception = self.perception
        choice, calls = perception.choice, [*self.call_ms]
        p50_ms, p90_ms = np.percentile(calls, [50, 90]).tolist() if calls else (None, None)
        return Running(
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
            left=tuple(self.left.items()),
        )

    def _work(self) -> None:
        while True:
            taken = self._inbox.take()
            if not taken:
                return
            try:
                self._run(taken)
            except Exception as error:  # whatever it is, the next frame may be a better one
                log.exception("a frame failed")
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
        self._suit((images[0].shape[0], images[0].shape[1]))
        # a batch is whole: what the last ones give is let go
        images += images[:1] * (self._batch - len(images))
        try:
            begin = time.perf_counter()
            results = self.perception(images)
            self._count((time.perf_counter() - begin) * 1e3)
        except EngineError as error:
            self._fail(str(error))
            if self._falls:
                self._fall(error)
            return
        for (camera, message, image), found in zip(seen, results):
            self._deliver(camera, message, image, found, start)
        self.processed += len(seen)
        self.failure = ""

    def _count(self, ms: float) -> None:
        """The window is of one set of models under one budget."""
        called = (self.perception, self.perception.models, self.perception.latency_budget_ms)
        if called != self._called:
            self._called = called
            self.call_ms.clear()
        self.call_ms.append(ms)

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self.failures += 1
        self._noticed()

    def _suit(self, frame_hw: Tuple[int, int]) -> None:
        """Budgets are about frames of one size: choose again if the camera's is another one."""
        if self._seen_one:
            return
        self._seen_one = True
        if frame_hw == self._frame_hw:
            return
        self._frame_hw = frame_hw
        if self.perception.latency_budget_ms is not None:
            log.info("frames are %dx%d: models are chosen for those", *frame_hw)
            self._reopen()

    def _fall(self, error: EngineError) -> None:
        before, engine = self.left, self.perception.engine
        self.left = {**before, engine: str(error)}
        if self._reopen():
            log.error("engine %s is left, %s goes on", engine, self.perception.engine)
        else:
            self.left, self._falls = before, False  # what is open may yet recover

    def _reopen(self) -> bool:
        """Another perception for this one, which stays if none can be opened."""
        with self._swap:
            before = self.perception
            try:
                self.perception = self._open(frozenset(self.left), self._frame_hw)
            except RamnasError as error:
                log.error("the models stay: %s", error)
                return False
        try:
            before.close()
        except RamnasError as error:
            log.warning("engine %s did not close: %s", before.engine, error)
        return True
