"""A bundle -> its models measured on this board by the profiler: figures that Runtime prefers."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Callable, List, Sequence, Tuple, Union

import msgspec

from ramnas_edge.board.device import this_device
from ramnas_edge.engines import backends
from ramnas_edge.engines.auto import fastest
from ramnas_edge.measuring import messages
from ramnas_edge.measuring.drift import corrected_ms
from ramnas_edge.measuring.local import Progress, measured
from ramnas_edge.measuring.record import FAILED, MIN_VISITS, OK, Block, LatencyRecord, Target
from ramnas_edge.runtime import latency_file
from ramnas_edge.runtime.latency_file import StoredLatency
from ramnas_edge.vision.pipeline import graph
from ramnas_models.bundle import Bundle, TaskFront, add_latencies, open_bundle
from ramnas_models.errors import DataError


class ModelRecord(msgspec.Struct, frozen=True):
    """The record of one model; kept in the file unless it failed, calibrated only if it is ok."""

    task: str
    accuracy: str
    record: LatencyRecord


def calibrate_bundle(
    bundle: Union[str, Path],
    target: Target,
    *,
    rounds: int = MIN_VISITS,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Tuple[Path, List[ModelRecord]]:
    """Measure whole calls of the very graphs of `bundle`, all its tasks, as `target` says.

    `target.frame_hw` is needed; its task, classes and input size are those of the bundle. Engine
    `auto` is the fastest, by task. -> the file of the device class, and what was measured.
    """
    opened = open_bundle(Path(bundle).resolve())
    if target.frame_hw is None:
        raise DataError("a bundle is calibrated by whole calls: name the size of the frames")
    total = sum(len(front.models) for front in opened.manifest.tasks)
    found: List[ModelRecord] = []
    path = Path()
    for front in opened.manifest.tasks:
        done, inside = len(found), 0.0
        device_class, block = _block(opened, front, target, rounds)
        for _, news, source in measured([block], opened.manifest.space, device_class):
            if isinstance(news, messages.Measured):
                found.append(_calibrated(front, news.record))
            else:  # a second look at doubtful ones counts its visits anew
                inside = max(inside, len(front.models) * news.done / news.total)
                on_progress(Progress(done, total, inside, source))
        figures = [
            _figure(front, one.record) for one in found[done:] if one.record.validity != FAILED
        ]
        path = latency_file.keep(device_class, figures)
    return path, found


def into_manifest(bundle: Union[str, Path], found: Sequence[ModelRecord]) -> int:
    """Write the figures of `found` that are ok into the bundle's own manifest; how many they were.

    Other boards of this device class then start on them.
    """
    opened = open_bundle(bundle)
    told = {}
    for front in opened.manifest.tasks:
        records = [one.record for one in found if one.task == front.task]
        corrected = corrected_ms(records)
        hashes = {model.arch_id: model.sha256 for model in front.models}
        for record in records:
            if record.validity == OK and record.p90_ms is not None:
                told[hashes[record.arch_id]] = latency_file.in_manifest(
                    record.device_class, record.target, record.p90_ms, corrected[record.arch_id]
                )
    add_latencies(opened, told)
    return len(told)


def _block(bundle: Bundle, front: TaskFront, target: Target, rounds: int) -> Tuple[str, Block]:
    """All models of a front in one block: they are anchors enough for each other."""
    options = backends.Options(target.precision, target.threads)
    engine = target.engine
    if engine == "auto":
        engine = fastest([graph(bundle, front.models[-1], batch=target.batch)], options).engine
    device_class = this_device().class_key(engine, backends.load(engine).version)
    own = msgspec.structs.replace(
        target, task=front.task, num_classes=len(front.classes), engine=engine
    )
    return device_class, Block(
        id=uuid.uuid4().hex[:12],
        run="calibrate",
        target=own,
        archs=tuple(model.arch for model in front.models),
        anchors=(),
        rounds=rounds,
        most_rounds=rounds,  # a budget is compared with p90, whose bound the record says
        bundle=str(bundle.path),
    )


def _calibrated(front: TaskFront, record: LatencyRecord) -> ModelRecord:
    accuracy = next(m.accuracy for m in front.models if m.arch_id == record.arch_id)
    known = f"{accuracy.metric} {accuracy.value:.4g}" if accuracy else "unknown"
    return ModelRecord(front.task, known, record)


def _figure(front: TaskFront, record: LatencyRecord) -> StoredLatency:
    model = next(model for model in front.models if model.arch_id == record.arch_id)
    target = record.target
    assert record.p90_ms is not None
    assert target.frame_hw is not None
    return StoredLatency(
        sha256=model.sha256,
        frame_hw=target.frame_hw,
        precision=target.precision,
        threads=target.threads,
        batch=target.batch,
        p90_ms=record.p90_ms,
        runs=sum(len(visit.times_ms) for visit in record.visits),
        calibrated=record.validity == OK,
    )
