"""Open a bundle, pick the model that fits the latency budget, turn frames into results."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple, Union

import msgspec
import numpy as np

from ramnas_edge import backends
from ramnas_edge.auto import fastest
from ramnas_edge.device import this_device
from ramnas_edge.pipeline import Pipeline, Result
from ramnas_models.bundle import Bundle, Model, open_bundle
from ramnas_models.errors import BudgetError

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


class Choice(msgspec.Struct, frozen=True):
    """The model picked for a budget, the p90 (ms) expected of a whole call, and whence."""

    model: Model
    p90_ms: float
    source: str


class Runtime:
    """`runtime(frame) -> Result` with one model of a bundle; a context manager, or `close` it."""

    def __init__(self, bundle: Bundle, choice: Choice, pipeline: Pipeline) -> None:
        self.bundle, self.choice = bundle, choice
        self._pipeline = pipeline

    @classmethod
    def open(
        cls,
        bundle: Union[str, Path],
        *,
        latency_budget_ms: Optional[float] = None,
        engine: str = "onnxruntime-cpu",
        threads: int = 1,
        frame_hw: Tuple[int, int] = (480, 640),
    ) -> Runtime:
        """Pick the most accurate model whose whole call fits the budget on this machine (p90).

        The p90 comes from the manifest if it holds figures for this device class and frames of
        `frame_hw` pixels; else every model is timed here first. BudgetError if none fits; without
        a budget the most accurate is taken. Engine `auto` is the fastest that works here.
        """
        opened = open_bundle(bundle)
        if "NC" in opened.manifest.licence.upper().split("-"):
            log.warning(
                "the weights of %s are for non-commercial use only: %s (%s)",
                bundle, opened.manifest.licence, opened.manifest.source,
            )  # fmt: skip
        options = backends.Options(threads=threads)
        if engine == "auto":
            found = fastest(opened.read_model(opened.manifest.models[-1]), options)
            engine = found.engine
            log.info("engine %s: %s", engine, found.why)
        backend = backends.load(engine)
        device_class = this_device().class_key(engine, backend.version)

        def start(model: Model) -> Pipeline:
            session = backend.open(opened.read_model(model), options)
            manifest = opened.manifest
            pipeline = Pipeline(session, model.input_hw, manifest.preprocessing, manifest.classes)
            for _ in range(10):  # the first runs allocate; do not let a robot wait for them
                pipeline(np.zeros((*frame_hw, 3), np.uint8))
            return pipeline

        models = opened.manifest.models
        known = {m.arch_id: _known_p90(m, device_class, options, frame_hw) for m in models}
        p90_ms = {arch_id: p90 for arch_id, p90 in known.items() if p90 is not None}
        source = f"measured on this device class, {device_class}"
        if len(p90_ms) < len(models):
            source = f"timed at start: the bundle has no figures for {device_class}"
            log.warning("%s", source)
            p90_ms = {m.arch_id: _time(start(m), frame_hw) for m in models}
        model = pick(models, p90_ms, latency_budget_ms)
        return cls(opened, Choice(model, p90_ms[model.arch_id], source), start(model))

    def __call__(self, frame: NDArray[np.uint8]) -> Result:
        """uint8 BGR [h, w, 3] of any size -> Result; SourceError if it is no such frame."""
        return self._pipeline(frame)

    def close(self) -> None:
        self._pipeline.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def pick(models: Tuple[Model, ...], p90_ms: Dict[str, float], budget_ms: Optional[float]) -> Model:
    """The most accurate of `models` within the budget; the faster one of equals.

    Models of unknown accuracy come last.
    """
    fits = [m for m in models if budget_ms is None or p90_ms[m.arch_id] <= budget_ms]
    if not fits:
        fastest = min(models, key=lambda m: p90_ms[m.arch_id])
        best = p90_ms[fastest.arch_id]
        raise BudgetError(
            f"no model fits {budget_ms:g} ms: the fastest, {fastest.arch_id}, has a p90 of "
            f"{best:.3g} ms here and misses by {best - (budget_ms or 0):.3g} ms; raise the budget "
            "or search for smaller models"
        )
    return max(fits, key=lambda m: (m.accuracy.value if m.accuracy else -1, -p90_ms[m.arch_id]))


def _known_p90(
    model: Model, device_class: str, options: backends.Options, frame_hw: Tuple[int, int]
) -> Optional[float]:
    wanted = (device_class, options.precision, options.threads, 1, frame_hw)
    for f in model.latency:
        if (f.device_class, f.precision, f.threads, f.batch, f.frame_hw) == wanted:
            return f.p90_ms
    return None


def _time(pipeline: Pipeline, frame_hw: Tuple[int, int], runs: int = 100) -> float:
    """p90 (ms) of whole calls on noise, from a warm start."""
    frame = np.random.default_rng(0).integers(0, 256, (*frame_hw, 3), np.uint8)
    times = [pipeline(frame).timing.total_ms for _ in range(runs)]
    pipeline.close()
    return float(np.percentile(times, 90))
