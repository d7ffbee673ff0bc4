"""Frames -> results of one or several tasks, by models that together fit one latency budget."""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Collection, List, Optional, Sequence, Tuple, Union

from ramnas_edge.board.device import this_device
from ramnas_edge.engines import backends
from ramnas_edge.engines.auto import fastest
from ramnas_edge.runtime.choosing import choose, eligible, ladder
from ramnas_edge.runtime.combinations import combinations
from ramnas_edge.runtime.expected_latency import ExpectedLatencies, warm
from ramnas_edge.runtime.owned import handover_ms
from ramnas_edge.runtime.policy import Policy
from ramnas_edge.runtime.switching import Switching, SwitchPlan
from ramnas_edge.vision.channels import ORDERS
from ramnas_edge.vision.detection import Limits
from ramnas_edge.vision.pipeline import Pipelines, graph, open_pipelines
from ramnas_models import ready
from ramnas_models.bundle import Bundle, Model, TaskFront, open_bundle
from ramnas_models.errors import BackendError, BudgetError, DataError, EngineError

if TYPE_CHECKING:
    from ramnas_edge.runtime.combinations import Models
    from ramnas_edge.vision.pipeline import Frame
    from ramnas_edge.vision.results import Result

log = logging.getLogger(__name__)
POLICIES = ("fixed", "adaptive")


class Perception:
    """`perception(frames)` returns a tuple for each frame, with one result per task.

    Use it as a context manager, or call `close`. It may be called from any thread; a call waits for
    the one before. Budget, policy and limits can be changed while frames come. A change takes
    effect with the next frame, or once the models that it needs are open.

    `choice` holds the models chosen for the budget and the latency expected of them. `models` holds
    the ones that run now. They differ while the chosen ones are being opened, or if policy
    `adaptive` stepped to others.
    """

    def __init__(
        self,
        bundle: Bundle,
        fronts: Sequence[TaskFront],
        figures: ExpectedLatencies,
        start: Callable[[Models], Pipelines],
        *,
        thread_bound: bool,
        latency_budget_ms: Optional[float],
        policy: str,
        limits: Limits,
    ) -> None:
        """Use `open` instead. `start` opens models on the engine whose latencies are `figures`."""
        self.bundle, self.fronts, self.limits = bundle, tuple(fronts), limits
        self._latencies, self._combinations = figures, combinations(fronts)
        self._calling, self._setting = threading.Lock(), threading.Lock()
        self._closed = False
        self._switching = Switching(start, self._plan(latency_budget_ms, policy), thread_bound)

    @classmethod
    def open(
        cls,
        bundle: Union[str, Path, None] = None,
        *,
        tasks: Sequence[Optional[str]],
        latency_budget_ms: Optional[float] = None,
        policy: str = "fixed",
        engine: str = "auto",
        precision: str = "fp32",
        threads: int = 1,
        frame_hw: Tuple[int, int] = (480, 640),
        channels: str = "bgr",
        limits: Limits = Limits(),
        batch: int = 1,
        without_engines: Collection[str] = (),
    ) -> Perception:
        """Open the best models, one for each of `tasks`, whose whole call fits the latency budget.

        A whole call takes `batch` frames through all tasks, decoding included, and its p90 has to
        fit. The best models have the highest mean of accuracy / best accuracy of the task's front.
        Without a budget the most accurate models are opened. BudgetError if nothing fits.

        The latencies are for this device class and frames of `frame_hw` pixels. They come from
        `ramnas-edge calibrate`, or else from the manifest, or else a few models are timed now.
        Several tasks are always timed together. `choice.source` says where the latency came from.

        A `bundle` of None is the one that ships with ramnas; a task of None is the bundle's only
        one. `channels` is the channel order of the frames, "bgr" (as in OpenCV) or "rgb". Policy
        `adaptive` changes the models while frames come, to keep the budget on a busy board. Engine
        `auto` is the fastest engine that works here, not counting `without_engines`.
        """
        backends.check_threads(threads)
        opened = open_bundle(ready.path() if bundle is None else bundle)
        fronts = [opened.front(task) for task in tasks]
        if not fronts or len({front.task for front in fronts}) < len(fronts):
            raise DataError(f"tasks {list(tasks)}: name at least one task, and none of them twice")
        if channels not in ORDERS:
            raise DataError(f"channels must be {' or '.join(ORDERS)}, not '{channels}'")
        if batch < 1:
            raise DataError(f"batch must be 1 or more, not {batch}")
        _check(policy, latency_budget_ms)
        _warn_of_licence(opened)
        options = backends.Options(precision, threads)
        if engine == "auto":
            largest = [graph(opened, front.models[-1], batch=batch) for front in fronts]
            tried = fastest(largest, options, without=without_engines)
            engine = tried.engine
            log.info("engine %s: %s", engine, tried.why.partition(";")[0])
        elif engine in without_engines:
            raise BackendError(
                f"engine {engine} is asked for, but without_engines excludes it; use engine auto"
            )
        backend = backends.load(engine)

        def start(models: Models) -> Pipelines:
            pipelines = open_pipelines(
                opened, fronts, models, backend, options, channels=channels, batch=batch
            )
            return warm(pipelines, frame_hw, batch)

        latencies = ExpectedLatencies(
            this_device().class_key(engine, backend.version), options, frame_hw, start,
            batch=batch, handover_ms=handover_ms() if backend.thread_bound else 0.0,
        )  # fmt: skip
        return cls(
            opened, fronts, latencies, start, thread_bound=backend.thread_bound,
            latency_budget_ms=latency_budget_ms, policy=policy, limits=limits,
        )  # fmt: skip

    def __call__(self, frames: Sequence[Frame]) -> List[Tuple[Result, ...]]:
        """Run one batch of frames, uint8 arrays [h, w, 3]; sizes may differ, views are allowed.

        Returns a tuple for each frame, with one result per task in the order of `tasks`.
        SourceError if one is not such an array, or if there are more or fewer than the batch.
        EngineError if the engine fails; `open` with `without_engines` then takes another engine.
        """
        with self._calling:
            self._check_open()
            try:
                return self._switching(frames, self.limits)
            except BackendError as error:
                raise EngineError(f"{error}; another engine may still work") from error

    @property
    def models(self) -> Tuple[Model, ...]:
        """The models that run now, one per task."""
        return self._switching.plan.models

    @property
    def device_class(self) -> str:
        """The device class whose latencies are compared with the budget."""
        return self._latencies.device_class

    @property
    def engine(self) -> str:
        return self._switching.running.engine

    @property
    def providers(self) -> Tuple[str, ...]:
        """The execution providers that really run, as the engine itself reports them."""
        return self._switching.running.providers

    @property
    def p90_ms(self) -> Optional[float]:
        """The p90 of the current models' last calls, at most 20; None before the first one."""
        return self._switching.plan.policy.p90_ms

    @property
    def switches(self) -> int:
        """How often other models have taken over."""
        return self._switching.switches

    def set_latency_budget(self, ms: Optional[float]) -> None:
        """Open the models for another budget in the background, while the current ones go on.

        If no models fit, raise BudgetError and change nothing. If latencies are unknown, a few
        models are timed within this call, beside the frames, which takes seconds.
        """
        self._set(ms, self.policy)

    def set_policy(self, policy: str) -> None:
        """Change to `fixed` or `adaptive`; BudgetError if `adaptive` has no budget to keep."""
        self._set(self.latency_budget_ms, policy)

    def set_limits(self, limits: Limits) -> None:
        """Change which boxes are kept, from the next frame on."""
        self.limits = limits

    def close(self) -> None:
        """Close all models, after the running call has ended. Closing twice does no harm."""
        with self._setting, self._calling:
            if not self._closed:
                self._closed = True
                self._switching.close()

    def __enter__(self) -> Perception:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def _set(self, latency_budget_ms: Optional[float], policy: str) -> None:
        with self._setting:
            self._check_open()
            self._switching.follow(self._plan(latency_budget_ms, policy))

    def _plan(self, latency_budget_ms: Optional[float], policy: str) -> SwitchPlan:
        """Choose the models for the budget; with `adaptive` also those that may take over."""
        _check(policy, latency_budget_ms)
        candidates = eligible(self._combinations, self._latencies)
        choice = choose(candidates, self._latencies, latency_budget_ms)
        self.choice, self.latency_budget_ms, self.policy = choice, latency_budget_ms, policy
        if policy == "adaptive":
            steps = ladder(candidates, self._latencies, choice.models)
            others = len(steps) - 1
            log.info(
                "%s; policy adaptive may change to %s other%s",
                choice.sentence, others or "no", "" if others == 1 else "s",
            )  # fmt: skip
        else:
            log.info("%s", choice.sentence)
            steps = [(choice.models, choice.p90_ms or float("inf"))]
        models = tuple(models for models, _ in steps)
        budget_ms = float("inf") if latency_budget_ms is None else latency_budget_ms
        keeper = Policy([ms for _, ms in steps], budget_ms, models.index(choice.models))
        return SwitchPlan(models, keeper)

    def _check_open(self) -> None:
        if self._closed:
            raise DataError("this Perception is closed; open a new one")


def _check(policy: str, latency_budget_ms: Optional[float]) -> None:
    if policy not in POLICIES:
        raise DataError(f"policy must be {' or '.join(POLICIES)}, not '{policy}'")
    if latency_budget_ms is not None and not latency_budget_ms > 0:  # nan is not either
        raise BudgetError(f"the latency budget must be above 0 ms, not {latency_budget_ms:g}")
    if policy == "adaptive" and latency_budget_ms is None:
        raise BudgetError("policy adaptive needs a latency budget to keep; set one, or use fixed")


def _warn_of_licence(bundle: Bundle) -> None:
    manifest = bundle.manifest
    if "NC" in re.findall(r"\w+", manifest.licence.upper()):
        log.warning(
            "the weights of %s are for non-commercial use only: %s (%s)",
            bundle.path, manifest.licence, manifest.source,
        )  # fmt: skip
