"""Times two calls in turn, so that a machine whose speed drifts treats both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def in_turn(
    ours: Callable[[], object], peer: Callable[[], object], pairs: int
) -> tuple[float, float, float]:
    """Return the median seconds of both calls and the median of the pairwise ratios ours / peer."""
    ours(), peer()  # warm up
    seconds: list[tuple[float, float]] = []
    for _ in range(pairs):
        marks = [time.perf_counter()]
        for call in (ours, peer):
            call()
            marks.append(time.perf_counter())
        seconds.append((marks[1] - marks[0], marks[2] - marks[1]))
    return (
        statistics.median(a for a, _ in seconds),
        statistics.median(b for _, b in seconds),
        statistics.median(a / b for a, b in seconds),
    )
