"""What is measured (Target, Block) and what comes of it (Visit, LatencyRecord, statistics).

A record holds the raw times of one arch and never changes. The corrected latency (`drift.py`) is
not part of it: it is computed from all records of a run, because drift shows only across networks.
"""

from __future__ import annotations

from typing import Dict, Optional, Sequence, Tuple

import msgspec
import numpy as np

from ramnas_edge.board.device import Device
from ramnas_edge.board.telemetry import Conditions
from ramnas_edge.measuring.energy import Energy
from ramnas_models.space import Arch

MIN_RUNS, MIN_VISITS = 44, 8  # 44 independent runs bound p90 with 99 % confidence
# Timed runs of a visit. 6 would be enough for MIN_RUNS, but then only 37 % of the time went into
# timed runs on machines where opening a session is slow.
RUNS = 8
MOST_ROUNDS = 24  # a block ends here, however much its levels still scatter
BOOTSTRAP = 500  # resamples of the visits for p90_bound_ms
OK, INCONCLUSIVE, FAILED = "ok", "inconclusive", "failed"


class Target(msgspec.Struct, frozen=True):
    """Everything but the arch that shapes what is timed.

    With `input_hw` None each arch has its own resolution. With `frame_hw` None the engine alone is
    timed, from the input in host memory to the outputs in host memory. Otherwise whole
    `runtime(frame)` calls on frames of that size are timed, resizing and decoding included: a
    latency budget is compared with those.
    """

    task: str = "classification"
    num_classes: int = 1000
    input_hw: Optional[Tuple[int, int]] = None
    frame_hw: Optional[Tuple[int, int]] = None
    image_input: bool = True  # True: uint8 NHWC, as from a camera; False: float32 NCHW
    batch: int = 1
    engine: str = "onnxruntime-cpu"
    precision: str = "fp32"
    threads: int = 1

    def hw(self, arch: Arch) -> Tuple[int, int]:
        return self.input_hw or (arch.resolution, arch.resolution)


class Visit(msgspec.Struct, frozen=True):
    """The timed runs (ms) of one network at one position in one round of a block.

    `arch_id` is what tells the network apart in its block: the arch's id, or the name of the model
    of a bundle. `start_s` and `end_s` are on the board's monotonic clock and include the warm-up.
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
    """About a dozen archs that are measured together, with the anchors that every round visits too.

    A visit warms up for at least `warm_up_ms` and until the runs get no faster. It then times at
    least `runs` runs, and goes on until `timed_ms` have passed, so that a small network is not
    judged by a few microseconds.

    After `rounds` rounds more follow until the levels of the networks are known well enough
    (`profiler.REPEATABLE`), at most `most_rounds` in all. A quiet machine needs no more than
    `rounds`; on a noisy one only more visits average the noise out, longer visits do not.

    Where power is read, each arch then runs for `sustained_s` without a pause. If `bundle` is the
    path of a bundle, its models for the target's task are measured, not archs with random weights:
    `models` holds the name of each, in the order of `archs`. Two of them may have the same arch.
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
    models: Tuple[str, ...] = ()

    @property
    def names(self) -> Tuple[str, ...]:
        """What tells each of `archs` apart: the names of a bundle's models, or else arch ids."""
        return self.models or tuple(arch.id for arch in self.archs)

    def only(self, names: Sequence[str], *, block_id: str) -> Block:
        """The part of this block that measures `names`, as a block of its own."""
        kept = [self.names.index(name) for name in names]
        return msgspec.structs.replace(
            self,
            id=block_id,
            archs=tuple(self.archs[i] for i in kept),
            models=tuple(self.models[i] for i in kept) if self.models else (),
        )


class Sustained(msgspec.Struct, frozen=True):
    """Runs without a pause, whose power was read: they began at `start_s` and took `seconds`."""

    start_s: float
    seconds: float
    runs: int


class LatencyRecord(msgspec.Struct, frozen=True):
    """One measurement of one arch: on which device, with which engine, and every raw time (ms).

    `model` is the name of the model if one of a bundle was measured, and else empty.
    `p50_ms` to `cv` are computed over the raw times of all visits and are None if the arch failed.
    p95 needs 90 runs and p99 459 runs, or else it is None: so many bound it with 99 % confidence
    (0.95^90 and 0.99^459 are below 1 %). `p90_bound_ms` is the upper end of the 95 % confidence
    interval of p90. It is bootstrapped over visits, because the runs of one visit are not
    independent. `stages_ms` holds the median of each stage.

    `anchors` are the visits of the anchor networks in the same block, which link the blocks of a
    run. `outputs` are the names of the graph's outputs: `class_map` or `class_logits` tells which
    form of a segmenter ran. `conditions` and `energy` are None if no sensor was read.
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
    model: str = ""

    @property
    def name(self) -> str:
        """What tells the network apart in its block, as in its visits: see `Block.names`."""
        return self.model or self.arch_id

    @property
    def key(self) -> Tuple[str, ...]:
        """Identifies the measurement: a store keeps a record that is sent twice only once."""
        return record_key(self.run, self.target, self.arch, self.device_class, self.model)


def record_key(
    run: str, target: Target, arch: Arch, device_class: str, model: str = ""
) -> Tuple[str, ...]:
    """(run, task, arch id, input size, device class, engine, precision, threads, batch).

    The name of a bundle's `model` takes the place of the arch id.
    """
    height, width = target.hw(arch)
    return (
        run,
        target.task,
        model or arch.id,
        f"{height}x{width}",
        device_class,
        target.engine,
        target.precision,
        str(target.threads),
        str(target.batch),
    )


def statistics(visits: Sequence[Visit]) -> Dict[str, Optional[float]]:
    """The fields `p50_ms` to `cv` of a LatencyRecord, from the raw times of its visits."""
    times = [np.array(v.times_ms) for v in visits]
    together = np.concatenate(times)
    p50, p90, p95, p99 = np.percentile(together, [50, 90, 95, 99]).tolist()
    rng = np.random.default_rng(0)
    resampled = [
        np.percentile(np.concatenate([times[i] for i in sample]), 90)
        for sample in rng.integers(0, len(times), (BOOTSTRAP, len(times)))
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
