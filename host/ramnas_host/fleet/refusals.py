"""What a host did not take, counted by kind: a flood of nonsense leaves a few lines in the log."""

from __future__ import annotations

import logging
from collections import Counter

log = logging.getLogger(__name__)


class RefusedMessages:
    """`counts` by kind; the 1st, 10th, 100th, ... of a kind is logged."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, peer: bytes | str, detail: str) -> None:
        """One more of `kind`, a few words out of a small set; the peer's name is untrusted."""
        self.counts[kind] += 1
        count = self.counts[kind]
        if str(count) == "1" + "0" * (len(str(count)) - 1):
            name = shown(peer)
            log.warning("refused %s: %s: %s%s", name, kind, shown(detail, 300),
                        f" (number {count} of this kind)" if count > 1 else "")  # fmt: skip


class Diary:
    """What boards do, in the log: so many lines a minute at most, whatever peers send."""

    def __init__(self, log: logging.Logger, lines_per_minute: int = 300) -> None:
        self._log, self._most = log, lines_per_minute
        self._lines, self._minute, self._unsaid = 0, 0.0, 0

    def say(self, level: int, text: str, *values: object, now: float) -> None:
        """`values` go into `text` as in logging; `now` in seconds."""
        if now - self._minute >= 60.0:
            if self._unsaid:
                self._log.warning("%d more such lines in the last minute", self._unsaid)
            self._minute, self._lines, self._unsaid = now, 0, 0
        self._lines += 1
        if self._lines <= self._most:
            self._log.log(level, text, *values)
        else:
            self._unsaid += 1


def shown(text: bytes | str, length: int = 64) -> str:
    """A text of a peer for people: without control characters, not too long."""
    text = text[: 4 * length]
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return "".join(c if c.isprintable() else "?" for c in text[:length]) or "a peer"
