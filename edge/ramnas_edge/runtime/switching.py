"""Frames through the models that a policy wishes for; models change between two frames."""

from __future__ import annotations

import functools
import logging
import threading
import time
from typing import TYPE_CHECKING, Callable, List, NamedTuple, Optional, Sequence, Tuple

from ramnas_edge.runtime.owned import Owned
from ramnas_models.errors import RamnasError

if TYPE_CHECKING:
    from ramnas_edge.engines.backends import Running
    from ramnas_edge.runtime.combinations import Models
    from ramnas_edge.runtime.owned import Freed
    from ramnas_edge.runtime.policy import Policy
    from ramnas_edge.vision.detection import Limits
    from ramnas_edge.vision.pipeline import Frame, Pipelines
    from ramnas_edge.vision.results import Result

log = logging.getLogger(__name__)


class SwitchPlan(NamedTuple):
    """The models that may run, fast to slow, and the policy whose `model` is an index of them."""

    ladder: Sequence[Models]
    policy: Policy

    @property
    def models(self) -> Models:
        return self.ladder[self.policy.model]


class _Next(NamedTuple):
    plan: SwitchPlan
    model: int  # of its ladder
    owned: Owned


class Switching:
    """`switching(frames, limits)`; every call is answered at once and in order, one at a time.

    The next models are opened and warmed in a thread of their own while the current ones go on.
    After a step up those before stay open until the new ones have proved themselves: at most two
    are open. `follow` may be called from another thread meanwhile.
    """

    def __init__(self, start: Callable[[Models], Pipelines], plan: SwitchPlan, bound: bool) -> None:
        """`start` opens models, their first runs behind them; `bound` is the backend's."""
        self._start, self._bound, self.plan = start, bound, plan
        self.switches = 0
        self._lock = threading.Lock()  # of what follows, and never held while frames run
        self._next: Optional[_Next] = None  # being opened
        self._spare: Optional[Tuple[int, Owned]] = None  # those before a step up
        self._closing: List[Freed] = []
        self._now = self._opening(plan.models)
        _ = self._now.running  # waits

    @property
    def running(self) -> Running:
        """The engine that really runs."""
        return self._now.running

    def __call__(self, frames: Sequence[Frame], limits: Limits) -> List[Tuple[Result, ...]]:
        start = time.perf_counter()
        results = self._now(frames, limits)
        end = time.perf_counter()
        with self._lock:
            self._towards(self.plan.policy.add((end - start) * 1e3, end))
        return results

    def follow(self, plan: SwitchPlan) -> None:
        """Open the models of `plan`, and keep to it from then on; those of now go on until then."""
        with self._lock:
            self._drop_next()
            self._drop_spare()
            if plan.models == self.plan.models:
                self.plan = plan
            else:
                self._next = _Next(plan, plan.policy.model, self._opening(plan.models))

    def close(self) -> None:
        with self._lock:
            self._drop_next()
            self._drop_spare()
            self._closing.append(self._now.close())
        for freed in self._closing:
            freed.result()

    def _towards(self, wish: int) -> None:
        """Step to the models that are open and were wished for, or begin to open them."""
        policy = self.plan.policy
        if self._next:
            plan, model, owned = self._next
            try:
                if owned.opened():
                    self._next = None
                    if plan is not self.plan:
                        self._change(plan, owned)
                    elif model > policy.model and policy.broken:  # no room any more
                        self._closing.append(owned.close())
                    else:
                        self._step(model, owned)
            except RamnasError as error:
                names = " + ".join(model.arch_id for model in plan.ladder[model])
                log.warning("%s cannot be opened and is left out: %s", names, error)
                self._drop_next()
                plan.policy.refuse(model)
        elif wish == policy.model:
            if self._spare and policy.settled:
                self._drop_spare()
        elif self._spare and self._spare[0] == wish:
            spare, self._spare = self._spare, None
            self._step(*spare)
        else:
            self._drop_spare()
            self._next = _Next(self.plan, wish, self._opening(self.plan.ladder[wish]))

    def _change(self, plan: SwitchPlan, owned: Owned) -> None:
        self._closing.append(self._now.close())
        self._now, self.plan = owned, plan
        self.switches += 1

    def _step(self, model: int, owned: Owned) -> None:
        policy, old = self.plan.policy, self._now
        before, p90_ms = policy.model, policy.p90_ms or 0.0
        log.info(
            "model %d of the front for %d: p90 %.3g ms, budget %.3g ms",
            model + 1, before + 1, p90_ms, policy.budget_ms,
        )  # fmt: skip
        self._now = owned
        policy.step(model, time.perf_counter())
        self.switches += 1
        if model > before:
            self._spare = (before, old)
        else:
            self._closing.append(old.close())

    def _opening(self, models: Models) -> Owned:
        """Once the memory of those before it is free: never more than two are open."""
        closing, self._closing = self._closing, []
        return Owned(functools.partial(self._start, models), self._bound, closing)

    def _drop_next(self) -> None:
        if self._next:
            self._closing.append(self._next.owned.close())
            self._next = None

    def _drop_spare(self) -> None:
        if self._spare:
            self._closing.append(self._spare[1].close())
            self._spare = None
