from __future__ import annotations

import logging
from pathlib import Path
from typing import List, Optional, Tuple

import cv2
import msgspec
import numpy as np
import pytest

from ramnas_edge.board.device import this_device
from ramnas_edge.board.short_names import short_names
from ramnas_edge.engines import backends
from ramnas_edge.runtime import latency_file
from ramnas_edge.runtime.choosing import ladder
from ramnas_edge.runtime.combinations import combinations
from ramnas_edge.runtime.expected_latency import ExpectedLatencies
from ramnas_edge.runtime.latency_file import StoredLatency
from ramnas_edge.runtime.runtime import Runtime
from ramnas_edge.vision.detection import Limits, detect
from ramnas_edge.vision.pipeline import Pipelines
from ramnas_edge.vision.results import Detections, Labels, Mask
from ramnas_models.bundle import Bundle, Model, TaskFront
from ramnas_models.errors import BudgetError, BundleError, DataError, SourceError
from tests.models.bundles import CLASSES, classifiers, figure, heads, written

FRAME = (8, 8)
P90_MS = (1.0, 2.0, 4.0)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def this_class() -> str:
    version = backends.load("onnxruntime-cpu").version
    return this_device().class_key("onnxruntime-cpu", version)


def a_bundle(path: Path, device_class: Optional[str] = None) -> Tuple[str, ...]:
    """Write a bundle of three models with the latencies above; return their arch ids."""
    device_class = device_class or this_class()
    bundle = written(path, classifiers([figure(device_class, ms, FRAME) for ms in P90_MS]))
    return tuple(model.arch_id for model in bundle.front().models)


@pytest.mark.parametrize(
    ("budget", "expected"), [(1.0, 0), (1.99, 0), (2.0, 1), (3.9, 1), (4.0, 2), (None, 2)]
)
def test_the_most_accurate_model_within_the_budget_is_chosen(
    tmp_path: Path, budget: Optional[float], expected: int
) -> None:
    ids = a_bundle(tmp_path / "b")
    with Runtime.open(tmp_path / "b", latency_budget_ms=budget, frame_hw=FRAME) as runtime:
        assert runtime.choice.model.arch_id == ids[expected]
        assert runtime.choice.p90_ms == P90_MS[expected]
        assert runtime.choice.calibrated
        board = short_names([this_class()])[this_class()]
        assert runtime.choice.source == f"from the bundle, measured on this device class, {board}"
        assert runtime.perception.device_class == this_class()


def test_if_no_model_fits_the_error_names_the_fastest_and_by_how_much_it_misses(
    tmp_path: Path,
) -> None:
    ids = a_bundle(tmp_path / "b")
    message = f"no model fits 0.25 ms: the fastest, {ids[0]}, has a p90 of 1 ms .* by 0.75 ms"
    with pytest.raises(BudgetError, match=message):
        Runtime.open(tmp_path / "b", latency_budget_ms=0.25, frame_hw=FRAME)


def test_on_an_unknown_device_class_models_are_timed_by_bisection_and_remembered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = a_bundle(tmp_path / "b", device_class="another-board")
    timed: List[str] = []
    for _ in range(2):
        caplog.clear()
        with Runtime.open(tmp_path / "b", latency_budget_ms=1000.0, frame_hw=FRAME) as runtime:
            assert runtime.choice.model.arch_id == ids[2]
            assert runtime.choice.source.startswith("uncalibrated, timed at")
            assert not runtime.choice.calibrated
            assert 0 < (runtime.choice.p90_ms or 0) < 1000
        timed.append(",".join(i for i in ids if f"timing model {i} now" in caplog.text))
        advice = f"calibrate --bundle DIR --frame {FRAME[0]}x{FRAME[1]} measures it better"
        assert caplog.text.count(advice) == caplog.text.count("timing model")
    assert timed == [f"{ids[1]},{ids[2]}", ""]  # the fastest one was never timed
    caplog.clear()
    with pytest.raises(BudgetError, match=f"the fastest, {ids[0]}, has a p90 of"):
        Runtime.open(tmp_path / "b", latency_budget_ms=1e-6, frame_hw=FRAME)
    assert caplog.text.count("timing model") == 1


def test_a_calibration_made_here_is_preferred_to_the_manifest(tmp_path: Path) -> None:
    ids = a_bundle(tmp_path / "b")
    bundle = written(tmp_path / "b", classifiers([figure(this_class(), 1.0, FRAME)] * 3))
    latencies = [
        StoredLatency(model.sha256, FRAME, "fp32", 1, p90_ms=ms, runs=44, calibrated=True)
        for model, ms in zip(bundle.front().models, (3.0, 6.0, 9.0))
    ]
    latency_file.keep(this_class(), latencies[:2])
    with Runtime.open(tmp_path / "b", latency_budget_ms=5.0, frame_hw=FRAME) as runtime:
        assert runtime.choice.model.arch_id == ids[2]  # the manifest says 1 ms
    latency_file.keep(this_class(), latencies)
    with Runtime.open(tmp_path / "b", latency_budget_ms=5.0, frame_hw=FRAME) as runtime:
        assert (runtime.choice.model.arch_id, runtime.choice.p90_ms) == (ids[0], 3.0)
        assert runtime.choice.source.startswith("calibrated on 20")
        assert runtime.choice.calibrated


def test_a_latency_for_another_frame_size_does_not_count(tmp_path: Path) -> None:
    a_bundle(tmp_path / "b")
    with Runtime.open(tmp_path / "b", latency_budget_ms=1e3, frame_hw=(480, 640)) as runtime:
        assert "timed at start-up" in runtime.choice.source


def test_without_a_budget_nothing_is_timed(tmp_path: Path) -> None:
    ids = a_bundle(tmp_path / "b", device_class="another-board")
    with Runtime.open(tmp_path / "b", frame_hw=FRAME) as runtime:
        assert (runtime.model.arch_id, runtime.choice.p90_ms) == (ids[2], None)
        assert runtime.choice.expected == (
            "expected p90 unknown, because nothing is timed without a latency budget"
        )
    assert not latency_file.path_of(this_class()).exists()


def engine_outputs(bundle: Bundle, task: str, image: np.ndarray) -> List[np.ndarray]:
    """The most accurate model's outputs for an image that already has the input's size."""
    data = bundle.read_model(bundle.front(task).models[-1])
    session = backends.load("onnxruntime-cpu").open(data, backends.Options())
    return [np.asarray(output) for output in session.infer({"image": image[None]})]


def test_labels_are_those_of_the_engine_on_the_resized_frame(tmp_path: Path) -> None:
    bundle = written(tmp_path / "b", classifiers())
    frame = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    with Runtime.open(tmp_path / "b") as runtime:
        result = runtime(frame)
    image = cv2.resize(frame, runtime.model.input_hw[::-1], interpolation=cv2.INTER_LINEAR)
    logits = engine_outputs(bundle, "classification", image)[0][0]
    assert isinstance(result, Labels)
    assert result.index == logits.argmax()
    assert result.name == CLASSES[result.index]
    timing = result.timing
    assert timing.total_ms == timing.resize_ms + timing.engine_ms + timing.decode_ms > 0


def test_boxes_are_those_of_the_engine_in_pixels_of_the_frame(tmp_path: Path) -> None:
    bundle = written(tmp_path / "b", heads("detection"))
    frame = np.random.default_rng(0).integers(0, 256, (200, 150, 3), np.uint8)
    limits = Limits(0.28, 0.5, 50)
    with Runtime.open(tmp_path / "b", limits=limits) as runtime:
        result = runtime(frame)
    image = cv2.resize(frame, (96, 64), interpolation=cv2.INTER_LINEAR)
    logits, deltas = engine_outputs(bundle, "detection", image)
    anchors = runtime.model.anchors
    assert anchors is not None
    expected = detect(logits[0], deltas[0], anchors.boxes(), (64, 96), (200, 150), limits)
    assert isinstance(result, Detections)
    assert len(result.scores) > 5
    for found, wanted in zip((result.boxes, result.scores, result.classes), expected):
        np.testing.assert_array_equal(found, wanted)
    assert result.names == CLASSES


def test_a_mask_has_the_size_of_the_frame(tmp_path: Path) -> None:
    bundle = written(tmp_path / "b", heads("segmentation"))
    frame = np.random.default_rng(0).integers(0, 256, (128, 192, 3), np.uint8)
    with Runtime.open(tmp_path / "b") as runtime:
        result = runtime(frame)
    image = cv2.resize(frame, (96, 64), interpolation=cv2.INTER_LINEAR)
    cells = engine_outputs(bundle, "segmentation", image)[0][0]
    assert isinstance(result, Mask)
    assert result.classes.shape == (128, 192)
    factor = 128 // cells.shape[0]
    np.testing.assert_array_equal(result.classes, np.kron(cells, np.ones((factor, factor), int)))
    assert result.names == CLASSES


def test_in_a_bundle_of_several_tasks_the_named_one_runs(tmp_path: Path) -> None:
    written(tmp_path / "b", classifiers(), heads("detection"), heads("segmentation"))
    frame = np.zeros((40, 60, 3), np.uint8)
    for task, kind in (
        ("classification", Labels),
        ("detection", Detections),
        ("segmentation", Mask),
    ):
        with Runtime.open(tmp_path / "b", task=task) as runtime:
            assert isinstance(runtime(frame), kind)
    with pytest.raises(BundleError, match="name one of"):
        Runtime.open(tmp_path / "b")


@pytest.mark.parametrize("hw", [(64, 96), (80, 120)])
def test_views_and_rgb_frames_give_the_same_result_as_bgr_frames(
    tmp_path: Path, hw: Tuple[int, int]
) -> None:
    written(tmp_path / "b", heads("detection"))
    big = np.random.default_rng(0).integers(0, 256, (2 * hw[0], hw[1] + 5, 3), np.uint8)
    limits = Limits(0.28)
    with Runtime.open(tmp_path / "b", limits=limits) as runtime:
        view = big[::2, 5:]
        assert not view.flags.c_contiguous
        expected = runtime(view.copy())
        seen = [runtime(view), runtime(view[:, ::-1][:, ::-1])]
    with Runtime.open(tmp_path / "b", limits=limits, channels="rgb") as runtime:
        seen += [runtime(view[..., ::-1]), runtime(view[..., ::-1].copy())]
    assert isinstance(expected, Detections)
    assert len(expected.scores) > 5
    for result in seen:
        assert isinstance(result, Detections)
        np.testing.assert_allclose(result.boxes, expected.boxes, atol=0.05)
        np.testing.assert_allclose(result.scores, expected.scores, atol=1e-4)


def test_one_bad_frame_does_not_stop_a_stream(tmp_path: Path) -> None:
    a_bundle(tmp_path / "b")
    good = np.zeros((*FRAME, 3), np.uint8)
    for policy in ("fixed", "adaptive"):
        with Runtime.open(
            tmp_path / "b", latency_budget_ms=1e3, frame_hw=FRAME, policy=policy
        ) as runtime:
            before = runtime(good)
            with pytest.raises(SourceError):
                runtime(good[..., 0])
            after = runtime(good)
            assert msgspec.structs.replace(after, timing=before.timing) == before


def test_a_graph_that_takes_another_image_than_the_manifest_says_is_refused(tmp_path: Path) -> None:
    front, files = classifiers()
    wrong = [msgspec.structs.replace(m, input_hw=(40, 41)) for m in front.models]
    written(tmp_path / "b", (msgspec.structs.replace(front, models=tuple(wrong)), files))
    with pytest.raises(BundleError, match=r"must take a uint8 image \[N, 40, 41, 3\]"):
        Runtime.open(tmp_path / "b")


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_a_graph_with_other_outputs_than_the_classes_need_is_refused(
    tmp_path: Path, task: str
) -> None:
    front, files = classifiers() if task == "classification" else heads(task)
    for classes in (("a", "b"), ("a", "b", "c", "d")):
        written(tmp_path / "b", (msgspec.structs.replace(front, classes=classes), files))
        with pytest.raises(BundleError, match=rf"the {len(classes)} classes of the manifest need"):
            Runtime.open(tmp_path / "b")


def test_invalid_options_are_named(tmp_path: Path) -> None:
    a_bundle(tmp_path / "b")
    with pytest.raises(DataError, match="channels must be bgr or rgb, not 'gray'"):
        Runtime.open(tmp_path / "b", channels="gray")
    with pytest.raises(DataError, match="policy must be fixed or adaptive, not 'bold'"):
        Runtime.open(tmp_path / "b", policy="bold")
    with pytest.raises(BudgetError, match="policy adaptive needs a latency budget to keep"):
        Runtime.open(tmp_path / "b", policy="adaptive")


def test_a_non_commercial_licence_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path / "b", classifiers(), licence="CC-BY-NC-4.0")
    with caplog.at_level(logging.WARNING), Runtime.open(tmp_path / "b"):
        assert "for non-commercial use only: CC-BY-NC-4.0" in caplog.text


def test_the_ladder_holds_models_worth_running_and_estimates_unknown_latencies(
    tmp_path: Path,
) -> None:
    def steps(front: TaskFront, chosen: Model) -> List[Tuple[Model, float]]:
        rungs = ladder(combinations([front]), latencies, (chosen,))
        return [(model, ms) for (model,), ms in rungs]

    def never(models: object) -> Pipelines:
        raise AssertionError("nothing is timed for a ladder")

    latencies = ExpectedLatencies("board", backends.Options(), FRAME, never)
    front, files = classifiers([figure("board", 1.0, FRAME), (), ()])
    front = written(tmp_path / "b", (front, files)).front()
    small, middle, large = front.models
    assert [(m, round(ms * small.cost.macs)) for m, ms in steps(front, small)] == [
        (m, m.cost.macs) for m in (small, middle, large)
    ]
    slow = msgspec.structs.replace(middle, latency=figure("board", 9.0, FRAME))
    best = msgspec.structs.replace(large, latency=figure("board", 3.0, FRAME))
    front = msgspec.structs.replace(front, models=(small, slow, best))
    assert steps(front, small) == [(small, 1.0), (best, 3.0)]
    assert steps(front, slow) == [(small, 1.0), (slow, 9.0), (best, 3.0)]
