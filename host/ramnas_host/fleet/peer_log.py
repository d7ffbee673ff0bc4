"""What boards and strangers do -> a log that no flood can fill, and counts of refusals."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

log = logging.getLogger(__name__)
LINES_PER_MINUTE = 300


class PeerLog:
    """Logs what peers do, at most LINES_PER_MINUTE. Any thread may call it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._refused: Counter[str] = Counter()
        self._minute_s, self._lines, self._left_out = clock(), 0, 0
        self._once: set[object] = set()  # logged in this minute

    def say(self, level: int, text: str, *values: object, once: object = None) -> None:
        """Log `text` with `values`; of lines with the same `once` only one a minute is logged."""
        with self._lock:
            if self._clock() - self._minute_s >= 60.0:
                if self._left_out:
                    log.warning("%d more lines about peers were left out", self._left_out)
                self._minute_s, self._lines, self._left_out = self._clock(), 0, 0
                self._once.clear()
            if once in self._once or self._lines >= LINES_PER_MINUTE:
                self._left_out += 1
                return
            self._lines += 1
            if once is not None:
                self._once.add(once)
            log.log(level, text, *values)

    def refuse(self, reason: str, peer: bytes | str, detail: str = "") -> None:
        """Count a refusal by its reason, and log it once a minute for each peer.

        A reason is one of a few. `peer` and `detail` may contain anything.
        """
        with self._lock:
            self._refused[reason] += 1
        who, more = printable(peer), f": {printable(detail, 300)}" if detail else ""
        self.say(logging.WARNING, "refused %s: %s%s", who, reason, more, once=(who, reason))

    def refused(self) -> dict[str, int]:
        """The number of refusals so far, by reason."""
        with self._lock:
            return dict(self._refused)


def printable(text: bytes | str, length: int = 64) -> str:
    """A text that a peer sent, cut to `length` and without control characters."""
    text = text[: 4 * length]
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return "".join(c if c.isprintable() else "?" for c in text[:length])
