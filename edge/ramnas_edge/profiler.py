"""Measure a block of archs on this machine: shuffled rounds of visits -> LatencyRecords."""

from __future__ import annotations

import contextlib
import gc
import time
from typing import TYPE_CHECKING, Callable, Dict, Iterator, List, Tuple

import msgspec
import numpy as np

from ramnas_edge import backends
from ramnas_edge.pipeline import Pipeline
from ramnas_edge.record import (
    FAILED,
    INCONCLUSIVE,
    MIN_RUNS,
    MIN_VISITS,
    OK,
    LatencyRecord,
    Target,
    Visit,
    spread,
)
from ramnas_models import onnx_graph
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import BackendError
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.plan import plan
from ramnas_models.space import Arch, Space

if TYPE_CHECKING:
    from ramnas_edge.backends import Array

Clock = Callable[[], int]  # nanoseconds, monotonic
_RESIZE = Preprocessing(Normalisation())  # of whole calls: the frame resized, nothing cropped
MAX_SPREAD = 0.10  # robust sigma of log visits; above it a measurement is inconclusive


class Block(msgspec.Struct, frozen=True):
    """About a dozen archs measured together, and the anchor networks that every round visits.

    A visit warms up for `warm_up_ms` and at least 2 runs, then times at least `runs` runs and
    until `timed_ms` have passed, so that small networks are not timed by a handful of microseconds.
    """

    id: str
    run: str
    target: Target
    archs: Tuple[Arch, ...]
    anchors: Tuple[Arch, ...]
    rounds: int = MIN_VISITS
    runs: int = -(-MIN_RUNS // MIN_VISITS)
    warm_up_ms: float = 2.0
    timed_ms: float = 5.0
    seed: int = 0


def measure(
    block: Block,
    space: Space,
    device_class: str,
    *,
    on_visit: Callable[[Visit], None] = lambda visit: None,
    clock: Clock = time.perf_counter_ns,
) -> List[LatencyRecord]:
    """Measure every arch of `block`, by whole calls or the engine alone as its target says.

    An arch whose session cannot be opened or fails becomes a `failed` record with the reason; one
    whose visits scatter by more than MAX_SPREAD around the block's drift is `inconclusive`.
    """
    target = block.target
    backend = backends.load(target.engine)
    runners: Dict[str, _Runner] = {}
    failures: Dict[str, str] = {}
    running = backends.Running(target.engine, backend.version, (), target.precision)
    for arch in {a.id: a for a in (*block.archs, *block.anchors)}.values():
        try:
            runners[arch.id] = _Runner(backend, arch, space, target)
            running = runners[arch.id].session.running
        except BackendError as error:
            failures[arch.id] = str(error)
    visits: List[Visit] = []
    rng = np.random.default_rng(block.seed)
    anchors = [a.id for a in block.anchors]
    with _undisturbed():
        for number in range(block.rounds):
            shuffled = rng.permutation([a.id for a in block.archs]).tolist()
            # the anchors at both ends of a round see its drift
            for position, arch_id in enumerate([*anchors, *shuffled, *anchors[::-1]]):
                if arch_id in failures:
                    continue
                try:
                    times = runners[arch_id].visit(block, clock)
                except BackendError as error:
                    failures[arch_id] = str(error)
                    continue
                visits.append(Visit(arch_id, block.id, number, position, times))
                on_visit(visits[-1])
    for runner in runners.values():
        runner.session.close()

    scatter = spread(visits)
    inner = range(len(anchors), len(anchors) + len(block.archs))
    anchor_visits = tuple(v for v in visits if v.position not in inner)
    records = []
    for arch in block.archs:
        if arch.id in failures:
            records.append(failed(block, arch, space, device_class, failures[arch.id]))
            continue
        own = tuple(v for v in visits if v.arch_id == arch.id and v.position in inner)
        times_ms = np.array([t for v in own for t in v.times_ms])
        p50, p90 = np.percentile(times_ms, [50, 90])
        steady = scatter[arch.id] <= MAX_SPREAD
        records.append(
            msgspec.structs.replace(
                _void(block, arch, space, device_class),
                engine_version=running.version,
                providers=running.providers,
                validity=OK if steady else INCONCLUSIVE,
                reason="" if steady else f"visits scatter by {scatter[arch.id]:.0%}",
                visits=own,
                anchors=anchor_visits,
                p50_ms=float(p50),
                p90_ms=float(p90),
                mean_ms=float(times_ms.mean()),
                cv=float(times_ms.std() / times_ms.mean()),
            )
        )
    return records


def failed(block: Block, arch: Arch, space: Space, device_class: str, reason: str) -> LatencyRecord:
    """The record of an arch that could not be measured: no figure is invented for it."""
    void = _void(block, arch, space, device_class)
    return msgspec.structs.replace(void, validity=FAILED, reason=reason)


def _void(block: Block, arch: Arch, space: Space, device_class: str) -> LatencyRecord:
    return LatencyRecord(
        run=block.run,
        target=block.target,
        arch=arch,
        arch_id=arch.id,
        space_hash=space.hash,
        input_hw=block.target.hw(arch),
        device_class=device_class,
        engine_version="",
        providers=(),
        validity=FAILED,
    )


class _Runner:
    """One open session with its input, ready to be called."""

    def __init__(self, backend: backends.Backend, arch: Arch, space: Space, target: Target) -> None:
        layout = plan(space, arch, num_classes=target.num_classes, input_hw=target.hw(arch))
        model = onnx_graph.build(layout, image_input=target.image_input, batch=target.batch)
        options = backends.Options(target.precision, target.threads)
        self.session = session = backend.open(model.SerializeToString(), options)
        noise = np.random.default_rng(0)
        height, width = layout.input_hw
        self.call: Callable[[], object]
        if target.frame_hw:
            pipeline = Pipeline(session, layout.input_hw, _RESIZE, [""] * target.num_classes)
            frame = noise.integers(0, 256, (*target.frame_hw, 3), np.uint8)
            self.call = lambda: pipeline(frame)
        else:
            shape = (target.batch, height, width, 3)
            image: Array = noise.integers(0, 256, shape, np.uint8)
            if not target.image_input:
                image = image.astype(np.float32).transpose(0, 3, 1, 2).copy() / 255
            feeds = {session.inputs[0].name: image}
            self.call = lambda: session.infer(feeds)

    def visit(self, block: Block, clock: Clock) -> Tuple[float, ...]:
        call = self.call
        start, count = clock(), 0
        while count < 2 or clock() - start < block.warm_up_ms * 1e6:
            call()
            count += 1
        times: List[float] = []
        begin = clock()
        while len(times) < block.runs or clock() - begin < block.timed_ms * 1e6:
            start = clock()
            call()
            times.append((clock() - start) / 1e6)
        return tuple(times)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """No garbage collection while timing."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
