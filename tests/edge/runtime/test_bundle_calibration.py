"""Real bundles are calibrated on this machine, from the child process to the runtime's choice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ramnas_edge.engines import backends
from ramnas_edge.measuring.record import FAILED, MIN_RUNS, OK, LatencyRecord, Target
from ramnas_edge.measuring.runner import Runner
from ramnas_edge.runtime import bundle_calibration, latency_file
from ramnas_edge.runtime.bundle_calibration import calibrate_bundle, into_manifest
from ramnas_edge.runtime.perception import Perception
from ramnas_edge.runtime.runtime import Runtime
from ramnas_edge.vision.results import Mask
from ramnas_models.bundle import open_bundle
from ramnas_models.errors import DataError, FileError
from tests.models.bundles import classifiers, heads, written

FRAME = (48, 64)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_every_model_of_every_task_is_measured_and_the_runtime_uses_the_latencies(
    tmp_path: Path,
) -> None:
    bundle = written(tmp_path / "b", classifiers(), heads("detection"), heads("segmentation"))
    steps = []
    target = Target(frame_hw=FRAME, engine="onnxruntime-cpu")
    path, measured = calibrate_bundle(
        bundle.path, target, on_progress=lambda p: steps.append(p.done + p.inside)
    )
    assert [entry.task for entry in measured] == ["classification"] * 3 + ["detection"] * 2 + [
        "segmentation"
    ] * 2
    assert steps == sorted(steps)
    assert steps[-1] == 7
    known = latency_file.known(path.stem)
    for entry in measured:
        record = entry.record
        assert record.validity != FAILED
        assert record.p50_ms is not None
        assert record.p90_ms is not None
        assert record.p90_ms >= record.p50_ms > 0
        assert set(record.stages_ms) == {"resize", "engine", "decode"}
        assert sum(len(visit.times_ms) for visit in record.visits) >= MIN_RUNS
        (model,) = (m for m in bundle.front(entry.task).models if m.arch_id == record.arch_id)
        (kept,) = (latency for latency in known if latency.sha256 == model.sha256)
        assert (kept.p90_ms, kept.calibrated) == (record.p90_ms, record.validity == OK)
    assert measured[0].accuracy == "top1 90.0 % (test split)"
    with Runtime.open(
        bundle.path, task="detection", latency_budget_ms=1e3, frame_hw=FRAME,
        engine="onnxruntime-cpu",
    ) as runtime:  # fmt: skip
        kept_ms = {f.sha256: f.p90_ms for f in known}[runtime.model.sha256]
        assert runtime.choice.p90_ms == kept_ms
        assert runtime(np.zeros((*FRAME, 3), np.uint8)).timing.total_ms > 0


def test_valid_latencies_in_the_manifest_belong_to_their_models_and_serve_another_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = written(tmp_path / "b", heads("detection"), heads("segmentation"))
    target = Target(frame_hw=FRAME, engine="onnxruntime-cpu")
    _, measured = calibrate_bundle(bundle.path, target)
    measured = [msgspec.structs.replace(entry, record=ok(entry.record)) for entry in measured]
    doubtful = msgspec.structs.replace(measured[0].record, validity="inconclusive")
    measured[0] = msgspec.structs.replace(measured[0], record=doubtful)
    assert into_manifest(bundle.path, measured) == 3
    assert into_manifest(bundle.path, measured) == 3  # replaces the ones before
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another board"))
    for entry in measured:
        record = entry.record
        (model,) = (
            m for m in open_bundle(bundle.path).front(entry.task).models
            if m.arch_id == record.arch_id
        )  # fmt: skip
        written_ms = [(f.p90_ms, f.frame_hw, f.device_class) for f in model.latency]
        assert written_ms == (
            [(record.p90_ms, FRAME, record.device_class)] if record.validity == OK else []
        )
    with Runtime.open(
        bundle.path, task="segmentation", latency_budget_ms=1e3, frame_hw=FRAME,
        engine="onnxruntime-cpu",
    ) as runtime:  # fmt: skip
        assert runtime.choice.source.startswith("from the bundle, measured on this device class")


def ok(record: LatencyRecord) -> LatencyRecord:
    """Return the record as if the machine had been quiet."""
    return msgspec.structs.replace(record, validity=OK)


def test_batches_are_measured_and_their_latencies_kept_for_that_batch_size(
    tmp_path: Path,
) -> None:
    bundle = written(tmp_path / "b", heads("segmentation"))
    target = Target(frame_hw=FRAME, engine="onnxruntime-cpu")
    for batch in (1, 3):
        path, measured = calibrate_bundle(bundle.path, msgspec.structs.replace(target, batch=batch))
        assert {entry.record.target.batch for entry in measured} == {batch}
    p90_ms = {(f.sha256, f.batch): f.p90_ms for f in latency_file.known(path.stem)}
    assert len(p90_ms) == 4
    model, backend = bundle.front().models[0], backends.load("onnxruntime-cpu")
    target = msgspec.structs.replace(target, task="segmentation", batch=3)
    runner = Runner(
        backend, model.arch, bundle.manifest.spaces["micro"], target, str(bundle.path), model.name
    )
    assert [type(result) for result in runner.call()] == [Mask] * 3  # type: ignore[attr-defined]
    runner.close()
    with Perception.open(
        bundle.path, tasks=["segmentation"], latency_budget_ms=1e4, frame_hw=FRAME, batch=3,
        engine="onnxruntime-cpu",
    ) as perception:  # fmt: skip
        assert perception.choice.p90_ms == p90_ms[perception.models[0].sha256, 3]


def test_without_a_frame_size_a_bundle_cannot_be_calibrated(tmp_path: Path) -> None:
    written(tmp_path / "b", classifiers())
    with pytest.raises(DataError, match="whole calls, which need a frame size"):
        calibrate_bundle(tmp_path / "b", Target())


def edge(*argv: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ramnas_edge", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_verb_prints_each_latency_and_the_file_that_holds_them(tmp_path: Path) -> None:
    bundle = written(tmp_path / "b", classifiers())
    ran = edge("calibrate", "--bundle", bundle.path, "--frame", "24x24", "--batch", 2)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    (where,) = (line for line in lines if line.startswith("calibrated for "))
    models = lines[: lines.index(where)]  # a doubtful one is measured again, after the others
    assert {line.split()[1] for line in models} == {m.arch_id for m in bundle.front().models}
    assert all("top1" in line and " p90 " in line for line in models)
    path = Path(where.rpartition(": ")[2])
    assert {latency.batch for latency in latency_file.known(path.stem)} == {2}


def test_a_model_that_cannot_be_opened_is_reported_and_the_others_are_kept(tmp_path: Path) -> None:
    front, files = classifiers()
    files[front.models[1].file] = b"no model"
    bundle = written(tmp_path / "b", (front, files))
    ran = edge("calibrate", "--bundle", bundle.path, "--frame", "24x24")
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1] == (
        f"error: not measured: {front.models[1].arch_id}; the reasons are above"
    )
    assert f"/{front.models[1].file}: the model is not ONNX" in ran.stdout
    (file,) = (tmp_path / "cache/ramnas/latencies").iterdir()
    assert len(latency_file.known(file.stem)) == 2


def test_latencies_that_cannot_be_kept_are_an_error_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "b", classifiers())
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(bundle_calibration, "measure_blocks", None)
    with pytest.raises(FileError, match=r"cannot write .*file.*latencies"):
        calibrate_bundle(tmp_path / "b", Target(frame_hw=FRAME))


def test_bad_options_give_one_line_and_exit_code_2(tmp_path: Path) -> None:
    written(tmp_path / "b", classifiers())
    for argv, message in (
        (["--bundle", tmp_path], "is not a bundle"),
        (["--bundle", tmp_path / "b", "--rounds", "3"], "a latency needs 8 rounds or more"),
        (["--bundle", tmp_path / "b", "--engine", "tvm"], "unknown engine 'tvm'"),
    ):
        ran = edge("calibrate", *argv)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert message in ran.stderr
        assert len(ran.stderr.splitlines()) == 1
