"""Two models of one arch, at two input sizes: nothing of one is taken for the other."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, Tuple

import msgspec
import numpy as np
import pytest

from ramnas_edge.board.device import this_device
from ramnas_edge.engines import backends
from ramnas_edge.measuring.record import OK, Block, Target
from ramnas_edge.measuring.runner import Runner
from ramnas_edge.runtime import latency_file
from ramnas_edge.runtime.bundle_calibration import calibrate_bundle, into_manifest
from ramnas_edge.runtime.perception import Perception
from ramnas_edge.runtime.runtime import Runtime
from ramnas_edge.vision.results import Detections
from ramnas_models.accuracy import Accuracy
from ramnas_models.bundle import Bundle, Model, open_bundle
from tests.models.bundles import figure, heads, joined, written

FRAME = (48, 64)
SIZES = ((64, 96), (96, 128))


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def two_sizes(path: Path, p90_ms: Dict[str, float]) -> Bundle:
    """A bundle of two archs at two sizes, each larger model better than the ones before.

    `p90_ms` holds the latencies in the manifest by the names of the models.
    """
    front, files = joined(*(heads("detection", hw, name=_named(hw)) for hw in SIZES))
    version = backends.load("onnxruntime-cpu").version
    device_class = this_device().class_key("onnxruntime-cpu", version)

    def changed(model: Model, value: float) -> Model:
        ms = p90_ms.get(model.name)
        return msgspec.structs.replace(
            model,
            accuracies=(Accuracy("mAP50-95", value, "test"),),
            latency=() if ms is None else figure(device_class, ms, FRAME),
        )

    models = tuple(changed(model, 0.1 + 0.1 * i) for i, model in enumerate(front.models))
    return written(path, (msgspec.structs.replace(front, models=models), files))


def _named(hw: Tuple[int, int]) -> Callable[[str], str]:
    return lambda arch_id: f"{arch_id}-{hw[0]}x{hw[1]}"


def test_each_is_calibrated_and_keeps_its_own_latency(tmp_path: Path) -> None:
    bundle = two_sizes(tmp_path / "b", {})
    path, measured = calibrate_bundle(bundle.path, Target(frame_hw=FRAME, engine="onnxruntime-cpu"))
    models = {model.name: model for model in bundle.front().models}
    records = {entry.record.model: entry.record for entry in measured}
    assert {*records} == {*models}
    assert len({record.arch_id for record in records.values()}) == 2
    assert len({record.key for record in records.values()}) == 4
    stored = {latency.sha256: latency.p90_ms for latency in latency_file.known(path.stem)}
    for name, record in records.items():
        assert record.input_hw == models[name].input_hw
        assert record.space_hash == bundle.manifest.spaces["micro"].hash
        assert {visit.arch_id for visit in record.visits} == {name}
        assert stored[models[name].sha256] == record.p90_ms
    sure = [
        msgspec.structs.replace(e, record=msgspec.structs.replace(e.record, validity=OK))
        for e in measured
    ]
    assert into_manifest(bundle.path, sure) == 4
    for model in open_bundle(bundle.path).front().models:
        assert [latency.p90_ms for latency in model.latency] == [records[model.name].p90_ms]


def test_the_profiler_opens_the_model_of_that_name(tmp_path: Path) -> None:
    bundle = two_sizes(tmp_path / "b", {})
    backend = backends.load("onnxruntime-cpu")
    target = Target("detection", 3, frame_hw=FRAME, engine="onnxruntime-cpu")
    space = bundle.manifest.spaces["micro"]
    for model in bundle.front().models:
        runner = Runner(backend, model.arch, space, target, str(bundle.path), model.name)
        assert runner._session.inputs[0].shape[1:3] == model.input_hw
        runner.close()


def test_a_budget_chooses_among_them_by_their_own_latencies(tmp_path: Path) -> None:
    names = [model.name for model in two_sizes(tmp_path / "b", {}).front().models]
    ms = dict(zip(names, (1.0, 2.0, 3.0, 4.0)))
    bundle = two_sizes(tmp_path / "b", ms)
    frame = np.zeros((*FRAME, 3), np.uint8)
    for name, own_ms in ms.items():
        with Runtime.open(bundle.path, latency_budget_ms=own_ms, frame_hw=FRAME) as runtime:
            assert (runtime.model.name, runtime.choice.p90_ms) == (name, own_ms)
            assert f"model {name} (the most accurate within {own_ms:g} ms)" in (
                runtime.choice.sentence
            )
            assert isinstance(runtime(frame), Detections)


def test_those_without_a_latency_are_timed_each_for_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = two_sizes(tmp_path / "b", {})
    with Perception.open(
        bundle.path, tasks=["detection"], latency_budget_ms=1e4, frame_hw=FRAME, policy="adaptive"
    ) as perception:
        timed = [m for m in bundle.front().models if f"timing model {m.name} now" in caplog.text]
        stored = {latency.sha256 for latency in latency_file.known(perception.device_class)}
    assert stored == {model.sha256 for model in timed}
    assert 1 <= len(timed) <= 3


def test_a_part_of_a_block_keeps_the_names_of_its_models(tmp_path: Path) -> None:
    models = two_sizes(tmp_path / "b", {}).front().models
    archs, names = tuple(m.arch for m in models), tuple(m.name for m in models)
    block = Block("b", "calibrate", Target(), archs, (), bundle="b", models=names)
    assert block.names == names
    part = block.only([names[2], names[0]], block_id="b-again")
    assert (part.id, part.names) == ("b-again", (names[2], names[0]))
    assert part.archs == (archs[2], archs[0])
    plain = msgspec.structs.replace(block, archs=archs[:2], bundle="", models=())
    assert plain.names == tuple(arch.id for arch in archs[:2])
    assert plain.only([archs[1].id], block_id="c").archs == archs[1:2]
