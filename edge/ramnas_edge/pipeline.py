"""One frame through one model: resize, engine, decode, each stage timed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Sequence, Tuple

import msgspec

from ramnas_edge import vision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ramnas_edge.backends import Session
    from ramnas_models.bundle import Preprocessing


class Timing(msgspec.Struct, frozen=True):
    """Milliseconds of one call, stage by stage."""

    resize_ms: float
    engine_ms: float
    decode_ms: float

    @property
    def total_ms(self) -> float:
        return self.resize_ms + self.engine_ms + self.decode_ms


class Result(msgspec.Struct, frozen=True):
    labels: vision.Labels
    timing: Timing


class Pipeline:
    """What a robot calls for every frame, and what is timed when a whole call is measured."""

    def __init__(
        self, session: Session, hw: Tuple[int, int], how: Preprocessing, classes: Sequence[str]
    ) -> None:
        self._session, self._hw, self._how, self._classes = session, hw, how, classes
        self._input = session.inputs[0].name

    def __call__(self, frame: NDArray[np.uint8]) -> Result:
        """uint8 BGR [h, w, 3] of any size -> Result; SourceError if it is no such frame."""
        vision.check_frame(frame)
        start = time.perf_counter()
        image = vision.prepare(frame, self._how, self._hw)[None]
        resized = time.perf_counter()
        logits = self._session.infer({self._input: image})[0]
        ran = time.perf_counter()
        labels = vision.label(logits[0], self._classes)
        end = time.perf_counter()
        timing = Timing((resized - start) * 1e3, (ran - resized) * 1e3, (end - ran) * 1e3)
        return Result(labels, timing)

    def close(self) -> None:
        self._session.close()
