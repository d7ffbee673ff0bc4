"""Frames -> results of one or several tasks, by the models that fit one latency budget."""

from __future__ import annotations

import logging
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
    """`perception(frames) -> for each frame one result a task`; a context manager, or `close` it.

    From any thread; a call waits for the one before. What is set while frames come holds from the
    next frame on, or where other models have to be opened for it, as soon as they are.

    `choice` is what the budget asks for and what is expected of it, `models` what runs now: others
    while those are being opened, or when policy `adaptive` had to step.
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
        """What `open` calls. `start` opens models on the engine that `figures` are of."""
        self.bundle, self.fronts, self.limits = bundle, tuple(fronts), limits
        self._figures, self._combinations = figures, combinations(fronts)
        self._calling, self._setting = threading.Lock(), threading.Lock()
        self._closed = False
        self._runs = Switching(start, self._plan(latency_budget_ms, policy), thread_bound)

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
        """Pick the best models, one for each of `tasks`, whose whole call fits the budget (p90).

        A whole call is `batch` frames through all tasks, decoding included. The best models are
        those with the highest mean of accuracy / best accuracy of the task's front. The figures are
        of this device class and of frames of `frame_hw` pixels: those of `ramnas-edge calibrate`,
        else of the manifest, else a few are timed now; several tasks are always timed together.
        Which ones is in `choice.source`. BudgetError if nothing fits; without a budget it is the
        most accurate.

        `bundle` None is the ready one that ships with ramnas. A task None is the only one of the
        bundle. `channels`: the order of the frames', "bgr" (OpenCV) or "rgb". Policy `adaptive`
        changes the models while frames come, so that the budget is kept on a busy board. Engine
        `auto` is the fastest that works here, but for `without_engines`.
        """
        opened = open_bundle(ready.path() if bundle is None else bundle)
        fronts = [opened.front(task) for task in tasks]
        if not fronts or len({front.task for front in fronts}) < len(fronts):
            raise DataError(f"tasks {list(tasks)}: name one or more, each once")
        if channels not in ORDERS or batch < 1:
            raise DataError(
                f"channels '{channels}', batch {batch}: channels are {' or '.join(ORDERS)}, a "
                "batch is 1 or more"
            )
        _check(policy, latency_budget_ms)
        _say_licence(opened)
        options = backends.Options(precision, threads)
        if engine == "auto":
            largest = [graph(opened, front.models[-1], batch=batch) for front in fronts]
            found = fastest(largest, options, without=without_engines)
            engine = found.engine
            log.info("engine %s: %s", engine, found.why.partition(";")[0])
        elif engine in without_engines:
            raise BackendError(f"engine {engine} is named and left out at once; take auto")
        backend = backends.load(engine)

        def start(models: Models) -> Pipelines:
            pipelines = open_pipelines(
                opened, fronts, models, backend, options, channels=channels, batch=batch
            )
            return warm(pipelines, frame_hw, batch)

        figures = ExpectedLatencies(
            this_device().class_key(engine, backend.version), options, frame_hw, start,
            batch=batch, handover_ms=handover_ms() if backend.thread_bound else 0.0,
        )  # fmt: skip
        return cls(
            opened, fronts, figures, start, thread_bound=backend.thread_bound,
            latency_budget_ms=latency_budget_ms, policy=policy, limits=limits,
        )  # fmt: skip

    def __call__(self, frames: Sequence[Frame]) -> List[Tuple[Result, ...]]:
        """As many uint8 frames [h, w, 3] as a batch has, sizes may differ, views too.

        -> for each frame one result a task, in the order of `tasks`. SourceError if one is no such
        frame; EngineError if the engine fails on them, `without_engines` is how to open another.
        """
        with self._calling:
            self._check_open()
            try:
                return self._runs(frames, self.limits)
            except BackendError as error:
                raise EngineError(f"{error}; another engine may go on") from error

    @property
    def models(self) -> Tuple[Model, ...]:
        """Those that run now, one a task."""
        return self._runs.plan.models

    @property
    def engine(self) -> str:
        return self._runs.running.engine

    @property
    def providers(self) -> Tuple[str, ...]:
        """What really runs, as the engine itself reports it."""
        return self._runs.running.providers

    @property
    def p90_ms(self) -> Optional[float]:
        """Of the last calls of the current models, 20 at most; None before the first."""
        return self._runs.plan.policy.p90_ms

    @property
    def switches(self) -> int:
        """How often other models have taken over."""
        return self._runs.switches

    def set_latency_budget(self, ms: Optional[float]) -> None:
        """BudgetError, and nothing changes, if nothing fits; else the models for it are opened.

        That happens in the background: frames go on. Where figures are missing a few models are
        timed in this very call, beside the frames, which takes seconds.
        """
        self._set(ms, self.policy)

    def set_policy(self, policy: str) -> None:
        """BudgetError if there is no budget that `adaptive` could keep."""
        self._set(self.latency_budget_ms, policy)

    def set_limits(self, limits: Limits) -> None:
        """Which boxes stand, from the next frame on."""
        self.limits = limits

    def close(self) -> None:
        """Once the call under way has been answered. A second time it does nothing."""
        with self._setting, self._calling:
            if not self._closed:
                self._closed = True
                self._runs.close()

    def __enter__(self) -> Perception:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def _set(self, latency_budget_ms: Optional[float], policy: str) -> None:
        with self._setting:
            self._check_open()
            self._runs.follow(self._plan(latency_budget_ms, policy))

    def _plan(self, latency_budget_ms: Optional[float], policy: str) -> SwitchPlan:
        """The models for the budget; with `adaptive` also those that may take over."""
        _check(policy, latency_budget_ms)
        found = eligible(self._combinations, self._figures)
        choice = choose(found, self._figures, latency_budget_ms)
        names = " + ".join(model.arch_id for model in choice.models)
        log.info("model %s: p90 %s", names, choice.expected)
        self.choice, self.latency_budget_ms, self.policy = choice, latency_budget_ms, policy
        if policy == "adaptive":
            steps = ladder(found, self._figures, choice.models)
        else:
            steps = [(choice.models, choice.p90_ms or float("inf"))]
        models = tuple(models for models, _ in steps)
        budget_ms = float("inf") if latency_budget_ms is None else latency_budget_ms
        keeping = Policy([ms for _, ms in steps], budget_ms, models.index(choice.models))
        return SwitchPlan(models, keeping)

    def _check_open(self) -> None:
        if self._closed:
            raise DataError("this perception is closed; open another")


def _check(policy: str, latency_budget_ms: Optional[float]) -> None:
    if policy not in POLICIES:
        raise DataError(f"policy '{policy}': a policy is {' or '.join(POLICIES)}")
    if policy == "adaptive" and latency_budget_ms is None:
        raise BudgetError("policy adaptive keeps a latency budget: name one")


def _say_licence(bundle: Bundle) -> None:
    manifest = bundle.manifest
    if "NC" in manifest.licence.upper().split("-"):
        log.warning(
            "the weights of %s are for non-commercial use only: %s (%s)",
            bundle.path, manifest.licence, manifest.source,
        )  # fmt: skip
