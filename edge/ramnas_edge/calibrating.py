"""A bundle -> its models measured on this board by the profiler: figures that Runtime prefers."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Callable, List, Sequence, Tuple, Union

import msgspec

from ramnas_edge import backends, latencies, wire
from ramnas_edge.auto import fastest
from ramnas_edge.device import this_device
from ramnas_edge.latencies import Figure
from ramnas_edge.local import Progress, measured
from ramnas_edge.pipeline import graph
from ramnas_edge.profiler import Block
from ramnas_edge.record import FAILED, MIN_VISITS, OK, LatencyRecord, Target, corrected_ms
from ramnas_models.bundle import Bundle, Front, add_latencies, open_bundle
from ramnas_models.errors import DataError


class Calibrated(msgspec.Struct, frozen=True):
    """The record of one model; kept in the file unless it failed, calibrated only if it is ok."""

    task: str
    accuracy: str
    record: LatencyRecord


def calibrate(
    bundle: Union[str, Path],
    target: Target,
    *,
    rounds: int = MIN_VISITS,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Tuple[Path, List[Calibrated]]:
    """Measure whole calls of the very graphs of `bundle`, all its tasks, as `target` says.

    `target.frame_hw` is needed; its task, classes and input size are those of the bundle. Engine
    `auto` is the fastest, by task. -> the file of the device class, and what was measured.
    """
    opened = open_bundle(Path(bundle).resolve())
    if target.frame_hw is None:
        raise DataError("a bundle is calibrated by whole calls: name the size of the frames")
    total = sum(len(front.models) for front in opened.manifest.tasks)
    found: List[Calibrated] = []
    path = Path()
    for front in opened.manifest.tasks:
        done, inside = len(found), 0.0
        device_class, block = _block(opened, front, target, rounds)
        for _, news, source in measured([block], opened.manifest.space, device_class):
            if isinstance(news, wire.Measured):
                found.append(_calibrated(front, news.record))
            else:  # a second look at doubtful ones counts its visits anew
                inside = max(inside, len(front.models) * news.done / news.total)
                on_progress(Progress(done, total, inside, source))
        figures = [
            _figure(front, one.record) for one in found[done:] if one.record.validity != FAILED
        ]
        path = latencies.keep(device_class, figures)
    return path, found


def into_manifest(bundle: Union[str, Path], found: Sequence[Calibrated]) -> int:
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
                told[hashes[record.arch_id]] = latencies.in_manifest(
                    record.device_class, record.target, record.p90_ms, corrected[record.arch_id]
                )
    add_latencies(opened, told)
    return len(told)


def _block(bundle: Bundle, front: Front, target: Target, rounds: int) -> Tuple[str, Block]:
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


def _calibrated(front: Front, record: LatencyRecord) -> Calibrated:
    accuracy = next(m.accuracy for m in front.models if m.arch_id == record.arch_id)
    known = f"{accuracy.metric} {accuracy.value:.4g}" if accuracy else "unknown"
    return Calibrated(front.task, known, record)


def _figure(front: Front, record: LatencyRecord) -> Figure:
    model = next(model for model in front.models if model.arch_id == record.arch_id)
    target = record.target
    assert record.p90_ms is not None
    assert target.frame_hw is not None
    return Figure(
        sha256=model.sha256,
        frame_hw=target.frame_hw,
        precision=target.precision,
        threads=target.threads,
        batch=target.batch,
        p90_ms=record.p90_ms,
        runs=sum(len(visit.times_ms) for visit in record.visits),
        calibrated=record.validity == OK,
    )
