"""Power while a network runs without a pause, and before -> energy of one inference above idle."""

from __future__ import annotations

import statistics
from typing import Optional, Sequence

import msgspec

from ramnas_edge.board.telemetry import Sample

MIN_SAMPLES = 3  # of each: fewer may be the board's answer to something else
# the board's own total: jtop's, then the input rails of Orin, Nano and Thor
_TOTAL = ("total", "VDD_IN", "POM_5V_IN", "VIN")


class Energy(msgspec.Struct, frozen=True):
    """(loaded - idle) times seconds over runs. `rail` is what was read, as the board names it.

    What the board draws anyway is left out, so boards that do other work meanwhile can be compared;
    `loaded_mw` times seconds over runs is the whole.
    """

    per_inference_mj: float
    idle_mw: float
    loaded_mw: float
    rail: str
    runs: int
    seconds: float


def energy(
    sustained: Sequence[Sample], idle: Sequence[Sample], *, seconds: float, runs: int
) -> Optional[Energy]:
    """From samples of `runs` runs without a pause in `seconds`, and of the idle board just before.

    None without a power sensor, with fewer than MIN_SAMPLES of either, or where the load does not
    show above idle: such a difference is noise, not energy.
    """
    shown = [set(sample.power_mw) for sample in (*sustained, *idle) if sample.power_mw]
    always = set.intersection(*shown) if shown else set()
    if not always or runs < 1 or seconds <= 0:
        return None
    rails = next(([name] for name in _TOTAL if name in always), sorted(always))
    loaded_mw, idle_mw = (_mean_mw(samples, rails) for samples in (sustained, idle))
    if loaded_mw is None or idle_mw is None or loaded_mw <= idle_mw:
        return None
    return Energy(
        per_inference_mj=(loaded_mw - idle_mw) * seconds / runs,
        idle_mw=idle_mw,
        loaded_mw=loaded_mw,
        rail=rails[0] if len(rails) == 1 else f"sum of {', '.join(rails)}",
        runs=runs,
        seconds=seconds,
    )


def _mean_mw(samples: Sequence[Sample], rails: Sequence[str]) -> Optional[float]:
    sums = [sum(s.power_mw[rail] for rail in rails) for s in samples if s.power_mw]
    return statistics.mean(sums) if len(sums) >= MIN_SAMPLES else None
