"""The p90 to expect of whole calls on this board: known from before, or timed when it is needed."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Callable, List, Optional, Tuple

import msgspec
import numpy as np

from ramnas_edge.board.short_names import short_names
from ramnas_edge.measuring.board_lock import BoardLock, holder
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
    """The p90 expected of a whole call, in ms, and in words where that figure came from.

    `calibrated` means that the profiler measured it; otherwise it comes from a quick timing.
    """

    p90_ms: float
    source: str
    calibrated: bool


class ExpectedLatencies:
    """The p90 of whole calls on this device class, for each combination of models."""

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
        """Read what is known of this device class.

        `start` opens models so that they can be timed, on batches of `batch` frames of `frame_hw`.
        `handover_ms` is added to every figure: it is the time to hand frames to another thread.
        """
        self.device_class, self._options, self._frame_hw = device_class, options, frame_hw
        self._board = short_names([device_class])[device_class]
        self._start, self._batch, self._handover_ms = start, batch, handover_ms
        self._stored = latency_file.known(device_class)

    def known(self, combination: Combination) -> Optional[ExpectedLatency]:
        """Return the latency of `combination` if it is known, without timing anything.

        One model: the calibration made here comes first, then the figure in the manifest, then a
        quick timing from this or an earlier start. Several models: a quick timing of all of them
        together, which counts as calibrated if each model is calibrated.
        """
        models = combination.models
        latency = self._of_several(models) if len(models) > 1 else self._of_one(models[0])
        if latency is None:
            return None
        return msgspec.structs.replace(latency, p90_ms=latency.p90_ms + self._handover_ms)

    def sum_of_parts(self, combination: Combination) -> Optional[float]:
        """Return the sum of the models' own p90s in ms, a first guess; None if one is unknown."""
        parts = [latency.p90_ms for latency in map(self._of_one, combination.models) if latency]
        if len(parts) < len(combination.models):
            return None
        return sum(parts) + self._handover_ms

    def get(self, combination: Combination) -> ExpectedLatency:
        """Return the known latency; if there is none, time it now and remember it."""
        known = self.known(combination)
        if known:
            return known
        height, width = self._frame_hw
        calibrate = f"ramnas-edge calibrate --bundle DIR --frame {height}x{width}"
        calibrate += f" --batch {self._batch}" if self._batch > 1 else ""
        log.warning(
            "timing model %s now, because its latency is unknown for %s and batches of %d frames "
            "of %dx%d%s",
            combination.name, self._board, self._batch, height, width,
            f"; {calibrate} measures it better, and only once"
            if len(combination.models) == 1 else "",
        )  # fmt: skip
        pipelines = self._start(combination.models)
        lock = BoardLock()
        if not lock.take():  # a robot that starts does not wait for it
            log.warning(
                "%s measures on this board meanwhile, so this timing may be too high",
                holder() or "another process",
            )
        try:
            p90_ms, runs = quick_p90(pipelines, self._frame_hw, self._batch)
        finally:
            lock.release()
        sha256, frame_hw, precision, threads, batch = self._key(combination.models)
        stored = latency_file.StoredLatency(
            sha256, frame_hw, precision, threads, p90_ms, runs, False, batch, latency_file.today()
        )
        self._stored = (*self._stored, stored)
        try:
            latency_file.keep(self.device_class, [stored])
        except FileError as error:
            log.warning("the next start has to time these models again: %s", error)
        latency = self.known(combination)
        assert latency is not None
        return latency

    def _of_one(self, model: Model) -> Optional[ExpectedLatency]:
        stored = latency_file.find(self._stored, self._key((model,)))
        if stored and stored.calibrated:
            source = f"calibrated on {stored.date}, {self._board}"
            return ExpectedLatency(stored.p90_ms, source, True)
        options = self._options
        wanted = (
            self.device_class, options.precision, options.threads, self._batch, self._frame_hw,
        )  # fmt: skip
        for entry in model.latency:
            conditions = (
                entry.device_class, entry.precision, entry.threads, entry.batch, entry.frame_hw,
            )  # fmt: skip
            if conditions == wanted:
                source = f"from the bundle, measured on this device class, {self._board}"
                return ExpectedLatency(entry.p90_ms, source, True)
        if stored:
            source = f"uncalibrated, timed at start-up on {stored.date}, {self._board}"
            return ExpectedLatency(stored.p90_ms, source, False)
        return None

    def _of_several(self, models: Models) -> Optional[ExpectedLatency]:
        stored = latency_file.find(self._stored, self._key(models))
        if stored is None:
            return None
        parts = [self._of_one(model) for model in models]
        calibrated = all(part is not None and part.calibrated for part in parts)
        how = "each calibrated, all" if calibrated else "uncalibrated,"
        source = f"{how} timed together at start-up on {stored.date}, {self._board}"
        return ExpectedLatency(stored.p90_ms, source, calibrated)

    def _key(self, models: Models) -> latency_file.Key:
        hashes = "+".join(model.sha256 for model in models)
        options = self._options
        return hashes, self._frame_hw, options.precision, options.threads, self._batch


def warm(pipelines: Pipelines, frame_hw: Tuple[int, int], batch: int) -> Pipelines:
    """Make a few calls, because an engine allocates or compiles in its first runs."""
    for _ in range(5):
        pipelines([np.zeros((*frame_hw, 3), np.uint8)] * batch)
    return pipelines


def quick_p90(pipelines: Pipelines, frame_hw: Tuple[int, int], batch: int) -> Tuple[float, int]:
    """Time whole calls on noise, close the pipelines, return the p90 in ms and the number of calls.

    There are at least MIN_RUNS calls, and more if they fit into 100 ms.
    """
    frames = noise_frames(frame_hw, batch)
    times: List[float] = []
    begin = time.perf_counter()
    while len(times) < MIN_RUNS or time.perf_counter() - begin < 0.1:
        start = time.perf_counter()
        pipelines(frames)
        times.append((time.perf_counter() - start) * 1e3)
    pipelines.close()
    return float(np.percentile(times, 90)), len(times)
