"""What both command lines share: errors become one line and exit code 2."""

from __future__ import annotations

import logging
import sys
import time
from typing import Callable

from ramnas_models.errors import RamnasError


def guarded(call: Callable[[], None]) -> int:
    """Run a verb: 0, 2 after a RamnasError (printed as one line), 130 after Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        call()
    except RamnasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


class ProgressLine:
    """One line on stderr that says how far a long verb is: rewritten on a terminal, else rarely."""

    def __init__(self, name: str) -> None:
        self._name, self._start, self._last = name, time.monotonic(), float("-inf")
        self._terminal = sys.stderr.isatty()

    def show(self, done: float, total: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self._last < (0.2 if self._terminal else 30.0):
            return
        self._last = now
        spent_s = now - self._start
        line = f"{self._name}: {done:.0f} of {total} after {spent_s:.0f} s {note}".rstrip()
        print(f"\r{line:79}" if self._terminal else line, end="" if self._terminal else "\n",
              file=sys.stderr, flush=True)  # fmt: skip

    def end(self) -> None:
        if self._terminal:
            print(file=sys.stderr)
