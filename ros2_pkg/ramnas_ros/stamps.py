"""The stamps of a stream of images -> how many images never arrived."""

from __future__ import annotations

from collections import deque
from typing import Deque, Optional

WINDOW = 100  # intervals
ENOUGH = 20  # intervals needed to know the usual one
PAUSE = 30  # a gap of more usual intervals than this means that the camera stood still


class Gaps:
    """Counts the frames that are missing from an even stream.

    A gap of one and a half usual intervals or more means missing frames. When the camera stops,
    starts again or jumps back in time (a recording that starts over), the usual interval is learnt
    anew. A camera that sends at irregular times looks like one that loses frames. One thread may
    add stamps while others read the counts.
    """

    def __init__(self) -> None:
        self.lost = 0  # since the first stamp
        # among the latest frames; None while too few have come
        self.lost_share: Optional[float] = None
        self._last_ns: Optional[int] = None
        self._intervals: Deque[int] = deque(maxlen=WINDOW)
        self._missing: Deque[int] = deque(maxlen=WINDOW)

    def add(self, stamp_ns: int) -> None:
        """Take the stamp of the next image that arrived."""
        before, self._last_ns = self._last_ns, stamp_ns
        if before is None:
            return
        interval = stamp_ns - before
        usual = self._usual_ns()
        if interval <= 0 or (usual and interval > PAUSE * usual):
            self._forget()
            return
        missing = max(0, int(interval / usual + 0.5) - 1) if usual else 0
        self._intervals.append(interval)
        self._missing.append(missing)
        self.lost += missing
        if len(self._intervals) >= 2 * ENOUGH:
            missing = sum(self._missing)
            self.lost_share = missing / (missing + len(self._missing))

    def pause(self) -> None:
        """Start over after a time without a subscription, whose images do not count as lost."""
        self._last_ns = None
        self._forget()

    def _forget(self) -> None:
        self._intervals.clear()
        self._missing.clear()
        self.lost_share = None

    def _usual_ns(self) -> Optional[float]:
        """The median of the intervals without a loss, also when many frames were lost."""
        ordered = sorted(self._intervals)
        if len(ordered) < ENOUGH:
            return None
        whole = [ns for ns in ordered if ns < 1.5 * ordered[len(ordered) // 4]]
        return whole[len(whole) // 2]
