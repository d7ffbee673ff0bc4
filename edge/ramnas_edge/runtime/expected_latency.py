"""What a whole call takes on this board: known from before, or timed because asked for."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Callable, List, Optional, Tuple

import msgspec
import numpy as np

from ramnas_edge.measuring.record import MIN_RUNS
from ramnas_edge.runtime import latency_file
from ramnas_edge.vision.pipeline import noise_frames
from ramnas_models.bundle import Model
from ramnas_models.errors import FileError

if TYPE_CHECKING:
    from ramnas_edge.engines.backends import Options
    from ramnas_edge.runtime.combinations import Combination, Models
    from ramnas_edge.vision.pipeline import Pipelines

log = logging.getLogger(__name__)


class ExpectedLatency(msgspec.Struct, frozen=True):
    """p90 (ms) of whole calls, and whence; `calibrated`: by the profiler."""

    p90_ms: float
    source: str
    calibrated: bool


class ExpectedLatencies:
    """p90 (ms) of whole calls on this device class, by combination of models."""

    def __init__(
        self,
        device_class: str,
        options: Options,
        frame_hw: Tuple[int, int],
        start: Callable[[Models], Pipelines],
        *,
        batch: int = 1,
        handover_ms: float = 0.0,
    ) -> None:
        """`start` opens models, to be timed on batches of frames of `frame_hw`.

        `handover_ms` comes on top of every figure: frames are handed to another thread.
        """
        self._device_class, self._options, self._frame_hw = device_class, options, frame_hw
        self._start, self._batch, self._handover_ms = start, batch, handover_ms
        self._known = latency_file.known(device_class)

    def known(self, one: Combination) -> Optional[ExpectedLatency]:
        """Calibrated here, else of the manifest, else timed at this or an earlier start.

        Of several models it is of all together, timed at a start, and calibrated if each is.
        """
        raw = self._of_several(one.models) if len(one.models) > 1 else self._of_one(one.models[0])
        return raw and msgspec.structs.replace(raw, p90_ms=raw.p90_ms + self._handover_ms)

    def sum_of_parts(self, one: Combination) -> Optional[float]:
        """p90 (ms) of each model by itself, added: a first guess. None if one is not known."""
        parts = [figure.p90_ms for figure in map(self._of_one, one.models) if figure]
        return sum(parts) + self._handover_ms if len(parts) == len(one.models) else None

    def get(self, one: Combination) -> ExpectedLatency:
        """The known figure, or one timed now and remembered for the next start."""
        known = self.known(one)
        if known:
            return known
        log.warning(
            "model %s is timed now: nothing is known of it on %s and %d frames of %dx%d%s",
            one.name, self._device_class, self._batch, *self._frame_hw,
            "; ramnas-edge calibrate --bundle DIR does it once and better"
            if len(one.models) == 1 else "",
        )  # fmt: skip
        p90_ms, runs = quick_p90(self._start(one.models), self._frame_hw, self._batch)
        sha256, frame_hw, precision, threads, batch = self._key(one.models)
        found = latency_file.StoredLatency(
            sha256, frame_hw, precision, threads, p90_ms, runs, False, batch, latency_file.today()
        )
        self._known = (*self._known, found)
        try:
            latency_file.keep(self._device_class, [found])
        except FileError as error:
            log.warning("not remembered for the next start: %s", error)
        now = self.known(one)
        assert now is not None
        return now

    def _of_one(self, model: Model) -> Optional[ExpectedLatency]:
        found = latency_file.find(self._known, self._key((model,)))
        if found and found.calibrated:
            return ExpectedLatency(
                found.p90_ms, f"calibrated on {found.date}, {self._device_class}", True
            )
        options = self._options
        wanted = (
            self._device_class, options.precision, options.threads, self._batch, self._frame_hw,
        )  # fmt: skip
        for f in model.latency:
            if (f.device_class, f.precision, f.threads, f.batch, f.frame_hw) == wanted:
                source = f"of the bundle, measured on this device class, {self._device_class}"
                return ExpectedLatency(f.p90_ms, source, True)
        if found:
            source = f"uncalibrated, timed at a start on {found.date}, {self._device_class}"
            return ExpectedLatency(found.p90_ms, source, False)
        return None

    def _of_several(self, models: Models) -> Optional[ExpectedLatency]:
        found = latency_file.find(self._known, self._key(models))
        if found is None:
            return None
        parts = [self._of_one(model) for model in models]
        calibrated = all(part is not None and part.calibrated for part in parts)
        source = (
            f"{'each calibrated' if calibrated else 'uncalibrated'}, timed together at a start on "
            f"{found.date}, {self._device_class}"
        )
        return ExpectedLatency(found.p90_ms, source, calibrated)

    def _key(self, models: Models) -> latency_file.Key:
        hashes = "+".join(model.sha256 for model in models)
        options = self._options
        return hashes, self._frame_hw, options.precision, options.threads, self._batch


def warm(pipelines: Pipelines, frame_hw: Tuple[int, int], batch: int) -> Pipelines:
    """The first runs allocate, or compile: do not let a robot wait for them."""
    for _ in range(5):
        pipelines([np.zeros((*frame_hw, 3), np.uint8)] * batch)
    return pipelines


def quick_p90(pipelines: Pipelines, frame_hw: Tuple[int, int], batch: int) -> Tuple[float, int]:
    """p90 (ms) of whole calls on noise and how many: MIN_RUNS, and more within 100 ms; closes."""
    frames = noise_frames(frame_hw, batch)
    times: List[float] = []
    begin = time.perf_counter()
    while len(times) < MIN_RUNS or time.perf_counter() - begin < 0.1:
        start = time.perf_counter()
        pipelines(frames)
        times.append((time.perf_counter() - start) * 1e3)
    pipelines.close()
    return float(np.percentile(times, 90)), len(times)
