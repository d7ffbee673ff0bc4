"""What was measured: raw visits in a LatencyRecord, and the one function that corrects for drift.

A record never changes. The corrected latency is computed from all records of a run, by board and
host alike, because the drift can only be seen across networks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Dict, Iterable, List, Optional, Tuple

import msgspec
import numpy as np

from ramnas_models.space import Arch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MIN_RUNS, MIN_VISITS = 44, 8  # 44 independent runs bound p90 at 99 %
OK, INCONCLUSIVE, FAILED = "ok", "inconclusive", "failed"


class Target(msgspec.Struct, frozen=True):
    """What is measured besides the arch.

    `input_hw` None: each arch's own resolution. `frame_hw` None: the engine alone, host buffer in
    to outputs on the host; else whole `runtime(frame)` calls on frames of that size, resize and
    decode included, which is what a latency budget is about.
    """

    task: str = "classification"
    num_classes: int = 1000
    input_hw: Optional[Tuple[int, int]] = None
    frame_hw: Optional[Tuple[int, int]] = None
    image_input: bool = True  # uint8 NHWC as a camera gives it; False: float32 NCHW
    batch: int = 1
    engine: str = "onnxruntime-cpu"
    precision: str = "fp32"
    threads: int = 1

    def hw(self, arch: Arch) -> Tuple[int, int]:
        return self.input_hw or (arch.resolution, arch.resolution)


class Visit(msgspec.Struct, frozen=True):
    """The timed runs of one network at one place of a block's round, milliseconds."""

    arch_id: str
    block: str
    round: int
    position: int
    times_ms: Tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return float(np.median(self.times_ms))


class LatencyRecord(msgspec.Struct, frozen=True):
    """One arch measured once: where, with what, and every raw time (ms).

    `p50_ms` to `cv` are over the raw times of all visits, None if it failed. `anchors` are the
    visits of the anchor networks in the same block: they link the blocks of a run. `temperature_c`,
    `power_w` and `energy_mj` are None where no sensor was read.
    """

    run: str
    target: Target
    arch: Arch
    arch_id: str
    space_hash: str
    input_hw: Tuple[int, int]
    device_class: str
    engine_version: str
    providers: Tuple[str, ...]
    validity: str
    reason: str = ""
    visits: Tuple[Visit, ...] = ()
    anchors: Tuple[Visit, ...] = ()
    p50_ms: Optional[float] = None
    p90_ms: Optional[float] = None
    mean_ms: Optional[float] = None
    cv: Optional[float] = None
    temperature_c: Optional[Tuple[float, ...]] = None
    power_w: Optional[float] = None
    energy_mj: Optional[float] = None

    @property
    def key(self) -> Tuple[str, ...]:
        """Unique in a store: the same measurement sent twice is kept once."""
        return record_key(self.run, self.target, self.arch, self.device_class)


def record_key(run: str, target: Target, arch: Arch, device_class: str) -> Tuple[str, ...]:
    """(run, task, arch, input size, device class, engine, precision, threads, batch)."""
    height, width = target.hw(arch)
    return (
        run,
        target.task,
        arch.id,
        f"{height}x{width}",
        device_class,
        target.engine,
        target.precision,
        str(target.threads),
        str(target.batch),
    )


def corrected_ms(records: Iterable[LatencyRecord]) -> Dict[str, float]:
    """Arch id -> latency with the machine's drift taken out, from all records of one run.

    Fits log(median of a visit) = arch + round robustly over all blocks; the drift is common to the
    networks of a round, and the anchors tie the rounds of different blocks together.
    """
    visits = {
        (v.block, v.round, v.position): v
        for record in records
        for v in (*record.visits, *record.anchors)
    }
    return {arch: math.exp(effect) for arch, effect in _two_way(list(visits.values()))[0].items()}


def spread(visits: List[Visit]) -> Dict[str, float]:
    """Arch id -> robust standard deviation (1.48 MAD) of its log visits around the two-way fit."""
    residuals = _two_way(visits)[1]
    return {arch: 1.4826 * float(np.median(np.abs(r))) for arch, r in residuals.items()}


def _two_way(visits: List[Visit]) -> Tuple[Dict[str, float], Dict[str, Floats]]:
    """Arch effects of log time = arch + round, and each arch's residuals.

    Least absolute deviations by iteratively reweighted least squares; alternating medians would
    stop at a point where each block has its own level, whatever the anchors say.
    """
    if not visits:
        return {}, {}
    archs, arch_of = np.unique([v.arch_id for v in visits], return_inverse=True)
    rounds, round_of = np.unique([f"{v.block} {v.round}" for v in visits], return_inverse=True)
    y = np.log([v.median_ms for v in visits])
    weight, residual = np.ones(len(y)), np.zeros(len(y))
    for _ in range(30):
        shared = np.zeros((len(archs), len(rounds)))
        np.add.at(shared, (arch_of, round_of), weight)
        of_arch, of_round = shared.sum(1), shared.sum(0)
        y_arch = np.bincount(arch_of, weight * y)
        # the arch effects eliminated; the ridge settles the level, which belongs to the archs
        normal = np.diag(of_round + 1e-6 * of_round.mean()) - shared.T @ (shared / of_arch[:, None])
        drift = np.linalg.solve(
            normal, np.bincount(round_of, weight * y) - shared.T @ (y_arch / of_arch)
        )
        drift -= drift.mean()
        arch = (y_arch - shared @ drift) / of_arch
        before, residual = residual, y - arch[arch_of] - drift[round_of]
        if np.abs(residual - before).max() < 1e-6:
            break
        weight = 1 / np.maximum(np.abs(residual), 1e-3)  # 0.1 %: below it all count alike
    by_arch = {str(a): residual[arch_of == i] for i, a in enumerate(archs)}
    return dict(zip(by_arch, arch.tolist())), by_arch
