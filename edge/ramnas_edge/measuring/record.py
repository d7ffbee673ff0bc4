"""What was measured: raw visits in a LatencyRecord, its statistics, and the corrected latency.

A record never changes. The corrected latency is computed from all records of a run, by board and
host alike, because the drift can only be seen across networks.
"""

from __future__ import annotations

from typing import Dict, Optional, Sequence, Tuple

import msgspec
import numpy as np

from ramnas_edge.board.device import Device
from ramnas_edge.board.telemetry import Conditions
from ramnas_edge.measuring.energy import Energy
from ramnas_models.space import Arch

MIN_RUNS, MIN_VISITS = 44, 8  # 44 independent runs bound p90 at 99 %
RUNS = 8  # of a visit; 6 make MIN_RUNS, but left 37 % of the time for them where opening is slow
MOST_ROUNDS = 24  # however much the levels of a block still scatter
BOOTSTRAP = 500  # resamples of the visits
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
    """The timed runs of one network at one place of a block's round, milliseconds.

    It lasted from `start_s` to `end_s` of the board's monotonic clock, warm-up included.
    """

    arch_id: str
    block: str
    round: int
    position: int
    times_ms: Tuple[float, ...]
    start_s: float = 0.0
    end_s: float = 0.0

    @property
    def median_ms(self) -> float:
        return float(np.median(self.times_ms))


class Block(msgspec.Struct, frozen=True):
    """About a dozen archs measured together, and the anchor networks that every round visits.

    A visit warms up for at least `warm_up_ms` and until the runs get no faster, then times at least
    `runs` runs and until `timed_ms` have passed, so that small networks are not timed by a handful
    of microseconds. There are at least `rounds` rounds, then more until the levels of the networks
    are known to REPEATABLE, at most `most_rounds`: a quiet machine needs no more than the least, on
    a noisy one only more visits average the noise out, which longer visits do not.
    `sustained_s` of runs without a pause follow the rounds where power is read.
    `bundle`: measure the models that the bundle at this path has for the target's task, and not
    archs with random weights.
    """

    id: str
    run: str
    target: Target
    archs: Tuple[Arch, ...]
    anchors: Tuple[Arch, ...]
    rounds: int = MIN_VISITS
    most_rounds: int = MOST_ROUNDS
    runs: int = RUNS
    warm_up_ms: float = 2.0
    timed_ms: float = 5.0
    sustained_s: float = 0.0
    seed: int = 0
    bundle: str = ""


class Sustained(msgspec.Struct, frozen=True):
    """Runs without a pause, for the power that they draw: from `start_s` on, for `seconds`."""

    start_s: float
    seconds: float
    runs: int


class LatencyRecord(msgspec.Struct, frozen=True):
    """One arch measured once: where, with what, and every raw time (ms).

    `p50_ms` to `cv` are over the raw times of all visits, None if it failed. p95 and p99 are None
    below 90 and 459 runs, which bound them at 99 % (0.95^90 and 0.99^459 are below 1 %).
    `p90_bound_ms` is the upper end of p90's 95 % confidence interval, bootstrapped over visits,
    because runs of one visit are not independent. `stages_ms` are medians, a stage a key. `anchors`
    are the visits of the anchor networks in the same block: they link the blocks of a run.
    `outputs` are the names of the graph's: `class_map` or `class_logits` tell a segmenter's form.
    `conditions` and `energy` are None where no sensor was read.
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
    outputs: Tuple[str, ...] = ()
    visits: Tuple[Visit, ...] = ()
    anchors: Tuple[Visit, ...] = ()
    p50_ms: Optional[float] = None
    p90_ms: Optional[float] = None
    p95_ms: Optional[float] = None
    p99_ms: Optional[float] = None
    p90_bound_ms: Optional[float] = None
    mean_ms: Optional[float] = None
    cv: Optional[float] = None
    stages_ms: Dict[str, float] = {}
    device: Optional[Device] = None
    conditions: Optional[Conditions] = None
    sustained: Optional[Sustained] = None
    energy: Optional[Energy] = None

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


def statistics(visits: Sequence[Visit]) -> Dict[str, Optional[float]]:
    """The statistics of a LatencyRecord over the raw times of its visits, by field."""
    times = [np.array(v.times_ms) for v in visits]
    together = np.concatenate(times)
    p50, p90, p95, p99 = np.percentile(together, [50, 90, 95, 99]).tolist()
    rng = np.random.default_rng(0)
    resampled = [
        np.percentile(np.concatenate([times[i] for i in drawn]), 90)
        for drawn in rng.integers(0, len(times), (BOOTSTRAP, len(times)))
    ]
    return {
        "p50_ms": p50,
        "p90_ms": p90,
        "p95_ms": p95 if len(together) >= 90 else None,
        "p99_ms": p99 if len(together) >= 459 else None,
        "p90_bound_ms": float(np.percentile(resampled, 97.5)),
        "mean_ms": float(together.mean()),
        "cv": float(together.std() / together.mean()),
    }
