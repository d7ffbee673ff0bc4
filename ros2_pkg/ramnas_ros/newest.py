"""Items of one or more cameras -> the newest of each, for one worker; older ones are counted."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, List, Optional, Tuple

LIVE_S = 1.0  # a camera that sent nothing for so long is not waited for


class Newest:
    """A slot for each camera; `put` replaces what nobody took, `take` waits for something.

    In turn: `take` gives one item, the cameras after one another. `together`: one of every camera
    that is alive, so that they make a batch; a camera that falls silent holds the others up once,
    for LIVE_S. Any thread may call any method.
    """

    def __init__(
        self, cameras: int, *, together: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.received, self.replaced = [0] * cameras, [0] * cameras
        self._items: List[Optional[Any]] = [None] * cameras
        self._put_s = [-LIVE_S] * cameras
        self._together, self._clock = together, clock
        self._last, self._open = cameras - 1, False
        self._changed = threading.Condition()

    def open(self) -> None:
        with self._changed:
            self._open = True

    def close(self) -> None:
        """Let go of what waits, and end every `take`."""
        with self._changed:
            self._open = False
            self._items = [None] * len(self._items)
            self._changed.notify_all()

    def put(self, camera: int, item: Any) -> None:
        """`item` is what camera number `camera` shows now; ignored while closed."""
        with self._changed:
            if not self._open:
                return
            self.received[camera] += 1
            self.replaced[camera] += self._items[camera] is not None
            self._items[camera], self._put_s[camera] = item, self._clock()
            self._changed.notify_all()

    def take(self) -> List[Tuple[int, Any]]:
        """(camera, item), in the order of the cameras; empty once closed."""
        with self._changed:
            while self._open:
                waiting = [i for i, item in enumerate(self._items) if item is not None]
                wait_s = self._wait_s(waiting)
                if wait_s == 0:
                    return self._out(waiting)
                self._changed.wait(wait_s)
            return []

    def _wait_s(self, waiting: List[int]) -> Optional[float]:
        """0: go; None: until something comes; else at most so long, for the missing cameras."""
        if not waiting or not self._together:
            return 0 if waiting else None
        now = self._clock()
        missing = [put for i, put in enumerate(self._put_s) if i not in waiting]
        return max((LIVE_S - (now - put) for put in missing if now - put < LIVE_S), default=0)

    def _out(self, waiting: List[int]) -> List[Tuple[int, Any]]:
        if not self._together:
            cameras = len(self._items)
            self._last = min(waiting, key=lambda i: (i - self._last - 1) % cameras)
            waiting = [self._last]
        taken = [(i, self._items[i]) for i in waiting]
        for i in waiting:
            self._items[i] = None
        return taken
