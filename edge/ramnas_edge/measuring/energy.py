"""Power samples of a board at rest and under load -> the energy of one inference.

The energy is what the inference draws above idle.
"""

from __future__ import annotations

import statistics
from typing import Optional, Sequence

import msgspec

from ramnas_edge.board.telemetry import Sample

# Needed at rest and again under load. Fewer samples may show something else than our load.
MIN_SAMPLES = 3
# the rail that already sums up the board: jtop's total, or the input rail of Orin, Nano or Thor
_TOTAL = ("total", "VDD_IN", "POM_5V_IN", "VIN")


class Energy(msgspec.Struct, frozen=True):
    """The energy of one inference in mJ: (loaded_mw - idle_mw) * seconds / runs.

    The power that the board draws at rest is left out, so that boards which do other work at the
    same time can be compared. loaded_mw * seconds / runs is the energy including that power.
    `rail` is the sensor that was read, as the board names it.
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
    """The energy of one of `runs` runs that followed each other without a pause for `seconds`.

    `sustained` are samples from during the runs, `idle` from the board at rest just before. None if
    there is no power sensor, if there are fewer than MIN_SAMPLES of either, or if the board did not
    draw more under load than at rest: such a difference is noise, not energy.
    """
    rails_shown = [set(sample.power_mw) for sample in (*sustained, *idle) if sample.power_mw]
    always = set.intersection(*rails_shown) if rails_shown else set()
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
