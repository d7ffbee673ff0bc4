"""Images of one or more cameras -> the newest of each, for one worker; counts replaced images."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, List, Optional, Tuple

LIVE_S = 1.0  # a batch does not wait for a camera that has been silent for this long


class Inbox:
    """One slot per camera: `put` replaces an item that nobody has taken, `take` waits for an item.

    Normally `take` returns one item, and the cameras take turns. With `together` it returns one
    item of every camera that is alive, to be run as a batch; a camera that falls silent delays the
    others once, by LIVE_S. Any thread may call any method.
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
        """Accept items."""
        with self._changed:
            self._open = True

    def close(self) -> None:
        """Discard the waiting items and end every `take`."""
        with self._changed:
            self._open = False
            self._items = [None] * len(self._items)
            self._changed.notify_all()

    def put(self, camera: int, item: Any) -> None:
        """Store the newest item of camera number `camera`; ignored while the inbox is closed."""
        with self._changed:
            if not self._open:
                return
            self.received[camera] += 1
            self.replaced[camera] += self._items[camera] is not None
            self._items[camera], self._put_s[camera] = item, self._clock()
            self._changed.notify_all()

    def take(self) -> List[Tuple[int, Any]]:
        """Wait for items and return (camera, item) pairs in camera order; empty once closed."""
        with self._changed:
            while self._open:
                waiting = [i for i, item in enumerate(self._items) if item is not None]
                wait_s = self._wait_s(waiting)
                if wait_s == 0:
                    return self._remove(waiting)
                self._changed.wait(wait_s)
            return []

    def _wait_s(self, waiting: List[int]) -> Optional[float]:
        """How long to wait for more cameras: 0 to go ahead, None until something is put."""
        if not waiting or not self._together:
            return 0 if waiting else None
        now = self._clock()
        missing = [put for i, put in enumerate(self._put_s) if i not in waiting]
        return max((LIVE_S - (now - put) for put in missing if now - put < LIVE_S), default=0)

    def _remove(self, waiting: List[int]) -> List[Tuple[int, Any]]:
        if not self._together:
            cameras = len(self._items)
            self._last = min(waiting, key=lambda i: (i - self._last - 1) % cameras)
            waiting = [self._last]
        taken = [(i, self._items[i]) for i in waiting]
        for i in waiting:
            self._items[i] = None
        return taken
