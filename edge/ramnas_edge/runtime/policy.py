"""The times of the calls so far -> which model of a front should run next, to keep a budget."""

from __future__ import annotations

import math
from collections import deque
from typing import Collection, Deque, Optional, Sequence

WINDOW = 20  # calls; a budget is about their p90, so it is broken by more than MISSES over it
MISSES = WINDOW // 10
LATEST = 5  # calls that say how busy it is once it is broken: those before may be from before
ROOM = 0.95  # of the budget: what a model must be expected to need before it is stepped to
HOLD_S = 1.0  # after a step, before the next one up
MAX_HOLD_S = 3.0  # after steps up that had to be taken back


class Policy:
    """Steps down the front when the budget is broken, and up again when there is room.

    The models of `idle_ms` (p90 of a whole call on an idle machine) go from the fastest to the most
    accurate. How busy the machine is shows in the current model: its own p90 over the idle one is
    taken for the slowdown of all, or its mean, if that is more: other processes interrupt few of
    the short calls, for long, and every long one. A step up that breaks the budget before a window
    has passed is taken back at once and doubles the wait for the next.
    """

    def __init__(self, idle_ms: Sequence[float], budget_ms: float, model: int) -> None:
        self.idle_ms, self.budget_ms, self.model = [*idle_ms], budget_ms, model
        self._calls: Deque[float] = deque(maxlen=WINDOW)
        self._since_s: Optional[float] = None  # of the last step
        self._hold_s = HOLD_S
        self._before: Optional[int] = None  # the model before a step up that is on trial

    @property
    def settled(self) -> bool:
        """The current model has kept the budget over a whole window."""
        return len(self._calls) == WINDOW and not self.broken

    @property
    def p90_ms(self) -> Optional[float]:
        """Of the last calls of the current model, at most WINDOW of them; None before the first."""
        return _p90(self._calls) if self._calls else None

    def add(self, call_ms: float, now_s: float) -> int:
        """Take the time of a call; the model that should run, mostly the current one."""
        if self._since_s is None:
            self._since_s = now_s
        self._calls.append(call_ms)
        if len(self.idle_ms) == 1:  # in the path of every frame: some models take 60 us
            return self.model
        if self.broken:
            latest = [*self._calls][-LATEST:]
            return self._fitting(latest) if self._before is None else self._before
        if self.settled:
            if self._before is not None:
                self._before, self._hold_s = None, HOLD_S
            if now_s - self._since_s >= self._hold_s:
                return max(self.model, self._fitting(self._calls))
        return self.model

    def step(self, model: int, now_s: float) -> None:
        """`model` runs from now on."""
        if model < self.model and self._before is not None:
            self._hold_s = min(2 * self._hold_s, MAX_HOLD_S)
        self._before = self.model if model > self.model else None
        self.model, self._since_s = model, now_s
        self._calls.clear()

    def refuse(self, model: int) -> None:
        """`model` cannot be opened: it is not asked for again."""
        self.idle_ms[model] = float("inf")

    @property
    def broken(self) -> bool:
        """More of the last calls than MISSES were over the budget."""
        return sum(ms > self.budget_ms for ms in self._calls) > MISSES

    def _fitting(self, calls: Collection[float]) -> int:
        """The most accurate model that should fit as busy as `calls` were; else the fastest."""
        slowdown = max(_p90(calls), sum(calls) / len(calls)) / self.idle_ms[self.model]
        fits = [i for i, ms in enumerate(self.idle_ms) if ms * slowdown <= ROOM * self.budget_ms]
        return max(fits, default=self.idle_ms.index(min(self.idle_ms)))


def _p90(calls: Collection[float]) -> float:
    """By nearest rank, of a handful: numpy's would take longer than some models."""
    return sorted(calls)[math.ceil(0.9 * len(calls)) - 1]
