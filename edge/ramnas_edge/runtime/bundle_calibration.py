"""A bundle -> the latency of each of its models on this board, measured by the profiler."""

from __future__ import annotations

import uuid
from contextlib import closing
from pathlib import Path
from typing import Callable, List, Sequence, Tuple, Union

import msgspec

from ramnas_edge.board.device import this_device
from ramnas_edge.engines import backends
from ramnas_edge.engines.auto import fastest
from ramnas_edge.measuring import messages
from ramnas_edge.measuring.drift import corrected_ms
from ramnas_edge.measuring.local import Progress, measure_blocks
from ramnas_edge.measuring.record import FAILED, MIN_VISITS, OK, Block, LatencyRecord, Target
from ramnas_edge.runtime import latency_file
from ramnas_edge.runtime.latency_file import StoredLatency
from ramnas_edge.vision.pipeline import graph
from ramnas_models.bundle import Bundle, Model, TaskFront, add_latencies, open_bundle
from ramnas_models.errors import DataError


class ModelRecord(msgspec.Struct, frozen=True):
    """The record of one model of a bundle, with its accuracy, n and interval in words.

    Its latency is kept unless the measurement failed, and counts as calibrated only if it is valid.
    """

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
    """Measure whole calls of every model of `bundle`, under the conditions of `target`.

    It runs the bundle's own graphs. `target.frame_hw` is required; its task, number of classes and
    input size are ignored, because the bundle has its own. Engine `auto` takes the engine that is
    fastest for the largest model of each task.

    Returns the device class's file, to which the latencies were added, and a record per model.
    """
    backends.check_threads(target.threads)
    opened = open_bundle(Path(bundle).resolve())
    if target.frame_hw is None:
        raise DataError(
            "calibrating a bundle measures whole calls, which need a frame size: set frame_hw"
        )
    total = sum(len(front.models) for front in opened.manifest.tasks)
    measured: List[ModelRecord] = []
    path = Path()
    for front in opened.manifest.tasks:
        done, inside = len(measured), 0.0
        device_class, block = _block(opened, front, target, rounds)
        latency_file.keep(device_class, ())  # if it cannot be written, fail before the measuring
        space = opened.manifest.spaces[front.models[0].space]  # each record then gets its own
        with closing(measure_blocks([block], space, device_class)) as measuring:
            for _, news, source in measuring:
                if isinstance(news, messages.Measured):
                    measured.append(_model_record(opened, front, news.record))
                else:  # when doubtful models are measured again, their visits count from 0 again
                    inside = max(inside, len(front.models) * news.done / news.total)
                    on_progress(Progress(done, total, inside, source))
        latencies = [
            _stored_latency(front, entry.record)
            for entry in measured[done:]
            if entry.record.validity != FAILED
        ]
        path = latency_file.keep(device_class, latencies)
    return path, measured


def into_manifest(bundle: Union[str, Path], measured: Sequence[ModelRecord]) -> int:
    """Write the valid latencies of `measured` into the bundle's manifest; return their number.

    Other boards of this device class then choose by them.
    """
    opened = open_bundle(bundle)
    latencies = {}
    for front in opened.manifest.tasks:
        records = [entry.record for entry in measured if entry.task == front.task]
        corrected = corrected_ms(records)
        hashes = {model.name: model.sha256 for model in front.models}
        for record in records:
            if record.validity == OK and record.p90_ms is not None:
                latencies[hashes[record.model]] = latency_file.in_manifest(
                    record.device_class, record.target, record.p90_ms, corrected[record.name]
                )
    add_latencies(opened, latencies)
    return len(latencies)


def _block(bundle: Bundle, front: TaskFront, target: Target, rounds: int) -> Tuple[str, Block]:
    """Make one block of all models of a front, which need no anchors besides each other."""
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
        most_rounds=rounds,  # more would refine the levels, but a budget is about the p90
        bundle=str(bundle.path),
        models=tuple(model.name for model in front.models),
    )


def _model_record(bundle: Bundle, front: TaskFront, record: LatencyRecord) -> ModelRecord:
    model = _model(front, record)
    words = str(model.reported) if model.reported else "unknown"
    space = bundle.manifest.spaces[model.space]
    record = msgspec.structs.replace(record, space_hash=space.hash, input_hw=model.input_hw)
    return ModelRecord(front.task, words, record)


def _model(front: TaskFront, record: LatencyRecord) -> Model:
    return next(model for model in front.models if model.name == record.model)


def _stored_latency(front: TaskFront, record: LatencyRecord) -> StoredLatency:
    model, target = _model(front, record), record.target
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
