"""The images, losses and refusals of one camera -> its state, as the diagnosis reports it."""

from __future__ import annotations

import time
from typing import Any, Optional

from ramnas_ros.diagnosis import CameraState
from ramnas_ros.stamps import Gaps

RECENT_S = 10.0  # a refused image is a warning for this long


class CameraWatch:
    """Watches one camera's topic from configure to cleanup.

    One thread may write while another reads.
    """

    def __init__(self, name: str, topic: str) -> None:
        self.name, self.topic = name, topic
        self._gaps = Gaps()
        self._last_s: Optional[float] = None
        self._refused, self._refusal = 0, (-RECENT_S, "")
        self._incompatible = ""

    def expect(self) -> None:
        """Start waiting for images: from now on silence counts."""
        self._last_s, self._incompatible = time.monotonic(), ""
        self._gaps.pause()

    def arrived(self, header: Any) -> None:
        self._last_s, self._incompatible = time.monotonic(), ""
        self._gaps.add(header.stamp.sec * 10**9 + header.stamp.nanosec)

    def refused(self, reason: str) -> None:
        self._refused += 1
        self._refusal = (time.monotonic(), reason)

    def incompatible(self, policy: str) -> None:
        """A publisher does not offer the QoS `policy` that the node requests.

        The warning stays until an image arrives.
        """
        self._incompatible = policy

    def state(self, received: int, dropped: int) -> CameraState:
        now = time.monotonic()
        at, reason = self._refusal
        return CameraState(
            self.name, self.topic, received, dropped,
            lost=self._gaps.lost,
            lost_share=self._gaps.lost_share,
            silent_s=None if self._last_s is None else now - self._last_s,
            refused=self._refused,
            refusal=reason if now - at < RECENT_S else "",
            incompatible=self._incompatible,
        )  # fmt: skip
