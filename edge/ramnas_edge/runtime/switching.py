"""Runs frames through the models that a policy asks for, and changes models between two frames."""

from __future__ import annotations

import functools
import logging
import threading
import time
from typing import TYPE_CHECKING, Callable, List, NamedTuple, Optional, Sequence, Tuple

from ramnas_edge.runtime.owned import OwnedPipelines
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
    """The models that may run, fast to slow, and the policy whose `model` is an index into them."""

    ladder: Sequence[Models]
    policy: Policy

    @property
    def models(self) -> Models:
        return self.ladder[self.policy.model]


class _Next(NamedTuple):
    plan: SwitchPlan
    model: int  # an index into its ladder
    pipelines: OwnedPipelines


class Switching:
    """`switching(frames, limits)` answers calls in order, one at a time, and never waits to switch.

    The next models are opened and warmed in a thread of their own, while the current ones keep
    running. After a step up, the models before it stay open until the new ones have kept the budget
    over a whole window. So at most two models of a task are open at once. `follow` may be called
    from another thread at any time.
    """

    def __init__(
        self, start: Callable[[Models], Pipelines], plan: SwitchPlan, thread_bound: bool
    ) -> None:
        """Open the models of `plan` and wait for them.

        `start` opens and warms models; `thread_bound` is the backend's attribute.
        """
        self._start, self._thread_bound, self.plan = start, thread_bound, plan
        self.switches = 0
        # guards the plan and the pipelines below; never held while frames run
        self._lock = threading.Lock()
        self._next: Optional[_Next] = None  # being opened
        self._spare: Optional[Tuple[int, OwnedPipelines]] = None  # those before a step up
        self._closing: List[Freed] = []
        self._current = self._opening(plan.models)
        _ = self._current.running  # waits until they are open

    @property
    def running(self) -> Running:
        """The engine that really runs."""
        return self._current.running

    def __call__(self, frames: Sequence[Frame], limits: Limits) -> List[Tuple[Result, ...]]:
        start = time.perf_counter()
        results = self._current(frames, limits)
        end = time.perf_counter()
        with self._lock:
            self._step_towards(self.plan.policy.add((end - start) * 1e3, end))
        return results

    def follow(self, plan: SwitchPlan) -> None:
        """Open the models of `plan`, then change to it; the current models run until then."""
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
            self._closing.append(self._current.close())
        for freed in self._closing:
            freed.result()

    def _step_towards(self, wanted: int) -> None:
        """Step to the models that were being opened, or to `wanted`, or begin to open `wanted`."""
        policy = self.plan.policy
        if self._next:
            plan, model, pipelines = self._next
            try:
                if pipelines.opened():
                    self._next = None
                    if plan is not self.plan:
                        self._change(plan, pipelines)
                    elif model > policy.model and policy.broken:  # there is no room any more
                        self._closing.append(pipelines.close())
                    else:
                        self._step(model, pipelines)
            except RamnasError as error:
                names = " + ".join(one.name for one in plan.ladder[model])
                log.warning("%s cannot be opened and is left out: %s", names, error)
                self._drop_next()
                plan.policy.refuse(model)
        elif wanted == policy.model:
            if self._spare and policy.settled:
                self._drop_spare()
        elif self._spare and self._spare[0] == wanted:
            spare, self._spare = self._spare, None
            self._step(*spare)
        else:
            self._drop_spare()
            self._next = _Next(self.plan, wanted, self._opening(self.plan.ladder[wanted]))

    def _change(self, plan: SwitchPlan, pipelines: OwnedPipelines) -> None:
        self._closing.append(self._current.close())
        self._current, self.plan = pipelines, plan
        self.switches += 1

    def _step(self, model: int, pipelines: OwnedPipelines) -> None:
        policy, old = self.plan.policy, self._current
        before, p90_ms = policy.model, policy.p90_ms or 0.0
        log.info(
            "switching from model %d to model %d of %d (fast to slow): p90 %.3g ms, budget %.3g ms",
            before + 1, model + 1, len(self.plan.ladder), p90_ms, policy.budget_ms,
        )  # fmt: skip
        self._current = pipelines
        policy.step(model, time.perf_counter())
        self.switches += 1
        if model > before:
            self._spare = (before, old)
        else:
            self._closing.append(old.close())

    def _opening(self, models: Models) -> OwnedPipelines:
        """Begin to open `models`, once the memory of those being closed is free."""
        closing, self._closing = self._closing, []
        start = functools.partial(self._start, models)
        return OwnedPipelines(start, self._thread_bound, closing)

    def _drop_next(self) -> None:
        if self._next:
            self._closing.append(self._next.pipelines.close())
            self._next = None

    def _drop_spare(self) -> None:
        if self._spare:
            self._closing.append(self._spare[1].close())
            self._spare = None
