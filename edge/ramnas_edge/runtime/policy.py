"""The times of the calls so far -> the model of a ladder that should run next to keep a budget."""

from __future__ import annotations

import math
from collections import deque
from typing import Collection, Deque, Optional, Sequence

WINDOW = 20  # the last calls of the current model, by which it is judged
MISSES = WINDOW // 10  # how many of them may exceed the budget, which is about the p90
LATEST = 5  # the calls that show the load once the budget is broken; older ones may precede it
ROOM = 0.95  # share of the budget that a model may be expected to need when it is switched to
HOLD_S = 1.0  # how long a step up has to wait after any step
MAX_HOLD_S = 3.0  # the longest such wait, after steps up that had to be taken back


class Policy:
    """Steps to a faster model when the budget is broken, and up again when there is room.

    `idle_ms` holds the p90 of a whole call on an idle machine for each model, from the fastest to
    the most accurate one. `model` is the index of the current one.

    All models are assumed to be slowed down as much as the current one: by the p90 or the mean of
    its calls, whichever is larger, over its idle p90. The mean is needed because other processes
    interrupt every long call, but only a few of the short ones, and those for long. A step up that
    breaks the budget before a window is full is taken back at once, and the wait before the next
    step up doubles.
    """

    def __init__(self, idle_ms: Sequence[float], budget_ms: float, model: int) -> None:
        self.idle_ms, self.budget_ms, self.model = [*idle_ms], budget_ms, model
        self._calls: Deque[float] = deque(maxlen=WINDOW)
        self._since_s: Optional[float] = None  # the time of the last step, or of the first call
        self._hold_s = HOLD_S
        self._fallback: Optional[int] = None  # the model before a step up that is on trial

    @property
    def settled(self) -> bool:
        """Whether the current model has kept the budget over a whole window."""
        return len(self._calls) == WINDOW and not self.broken

    @property
    def p90_ms(self) -> Optional[float]:
        """The p90 of the current model's last WINDOW calls; None before the first one."""
        return _p90(self._calls) if self._calls else None

    def add(self, call_ms: float, now_s: float) -> int:
        """Take the time of a call; return the model that should run, mostly the current one."""
        if self._since_s is None:
            self._since_s = now_s
        self._calls.append(call_ms)
        if len(self.idle_ms) == 1:  # saves time in every frame: some models take only 60 us
            return self.model
        if self.broken:
            latest = [*self._calls][-LATEST:]
            return self._fitting(latest) if self._fallback is None else self._fallback
        if self.settled:
            if self._fallback is not None:
                self._fallback, self._hold_s = None, HOLD_S
            if now_s - self._since_s >= self._hold_s:
                return max(self.model, self._fitting(self._calls))
        return self.model

    def step(self, model: int, now_s: float) -> None:
        """Take note that `model` runs from now on."""
        if model < self.model and self._fallback is not None:
            self._hold_s = min(2 * self._hold_s, MAX_HOLD_S)
        self._fallback = self.model if model > self.model else None
        self.model, self._since_s = model, now_s
        self._calls.clear()

    def refuse(self, model: int) -> None:
        """Never ask for `model` again, because it cannot be opened."""
        self.idle_ms[model] = float("inf")

    @property
    def broken(self) -> bool:
        """Whether more than MISSES of the last calls took longer than the budget."""
        return sum(ms > self.budget_ms for ms in self._calls) > MISSES

    def _fitting(self, calls: Collection[float]) -> int:
        """Return the most accurate model that should fit under the load of `calls`.

        If none should fit, return the fastest one.
        """
        slowdown = max(_p90(calls), sum(calls) / len(calls)) / self.idle_ms[self.model]
        fits = [i for i, ms in enumerate(self.idle_ms) if ms * slowdown <= ROOM * self.budget_ms]
        return max(fits, default=self.idle_ms.index(min(self.idle_ms)))


def _p90(calls: Collection[float]) -> float:
    """Return the p90 by nearest rank; numpy would take longer for it than some models run."""
    return sorted(calls)[math.ceil(0.9 * len(calls)) - 1]
