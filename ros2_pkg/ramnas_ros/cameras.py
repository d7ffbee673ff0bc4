"""What the node sees of one camera: when images came, which were lost or refused, and why."""

from __future__ import annotations

import time
from typing import Any, Optional

from ramnas_ros.diagnosis import Camera
from ramnas_ros.stamps import Gaps

RECENT_S = 10.0  # how long a refused image is a warning


class Watched:
    """One camera's topic, from configure on; what one thread writes, another may read."""

    def __init__(self, name: str, topic: str) -> None:
        self.name, self.topic = name, topic
        self._gaps = Gaps()
        self._last_s: Optional[float] = None
        self._refused, self._refusal = 0, (-RECENT_S, "")
        self._incompatible = ""

    def expect(self) -> None:
        """From now on images should come."""
        self._last_s, self._incompatible = time.monotonic(), ""
        self._gaps.pause()

    def arrived(self, header: Any) -> None:
        self._last_s, self._incompatible = time.monotonic(), ""
        self._gaps.add(header.stamp.sec * 10**9 + header.stamp.nanosec)

    def refused(self, reason: str) -> None:
        self._refused += 1
        self._refusal = (time.monotonic(), reason)

    def incompatible(self, policy: str) -> None:
        """A publisher does not offer what is asked for of `policy`, and no image has come since."""
        self._incompatible = policy

    def facts(self, received: int, dropped: int) -> Camera:
        now = time.monotonic()
        at, reason = self._refusal
        return Camera(
            self.name, self.topic, received, dropped,
            lost=self._gaps.lost,
            lost_share=self._gaps.lost_share,
            silent_s=None if self._last_s is None else now - self._last_s,
            refused=self._refused,
            refusal=reason if now - at < RECENT_S else "",
            incompatible=self._incompatible,
        )  # fmt: skip
