"""One runtime(frame) call, against a classifier by hand; and its time around a detector's run."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

from ramnas_edge.engines import backends
from ramnas_edge.runtime.runtime import Runtime
from ramnas_edge.vision.results import Detections
from ramnas_models import onnx_graph
from ramnas_models.head_plan import for_task
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.plan import plan
from ramnas_models.space import load_space
from tests.benchmarks.one_model import write_one_model
from tests.benchmarks.timing import in_turn

FRAME = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
BOXES = 100


def run() -> dict[str, float]:
    """Use table1's smallest arch and 640x480 frames, on one thread."""
    return {**_classifier(), **_detector()}


def _classifier() -> dict[str, float]:
    """The peer does what a node does without ramnas.

    It resizes, swaps the colour channels and normalises in numpy, then runs a float graph.
    """
    space = load_space("table1")
    layout, norm = plan(space, space.min()), Normalisation()
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    by_hand = ort.InferenceSession(
        onnx_graph.build(layout).SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )

    def peer() -> int:
        image = cv2.cvtColor(cv2.resize(FRAME, layout.input_hw[::-1]), cv2.COLOR_BGR2RGB)
        scaled = ((image / 255 - norm.mean) / norm.std).astype(np.float32)
        tensor = np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])
        return int(by_hand.run(None, {"image": tensor})[0].argmax())

    with tempfile.TemporaryDirectory() as folder:
        write_one_model(Path(folder) / "bundle", "classification", space, space.min(), layout)
        with Runtime.open(Path(folder) / "bundle", engine="onnxruntime-cpu") as runtime:
            ours_s, peer_s, ratio = in_turn(lambda: runtime(FRAME), peer, pairs=50)
            timing = runtime(FRAME).timing
    around = timing.resize_ms + timing.decode_ms
    return {
        "ours_ms": 1e3 * ours_s,
        "by_hand_ms": 1e3 * peer_s,
        "ratio": ratio,
        "around_engine_share": around / timing.total_ms,
    }


def _detector() -> dict[str, float]:
    """At 320 px and 90 classes: the time of everything around the engine's run, over the run."""
    space = load_space("table1")
    layout = for_task("detection", plan(space, space.min(), num_classes=90, input_hw=(320, 320)))
    results, stages = [], []
    with tempfile.TemporaryDirectory() as folder:
        write_one_model(Path(folder) / "bundle", "detection", space, space.min(), layout)
        with Runtime.open(Path(folder) / "bundle", engine="onnxruntime-cpu") as runtime:
            data = runtime.bundle.read_model(runtime.model)
            session = backends.load("onnxruntime-cpu").open(data, backends.Options())
            image = cv2.resize(FRAME, (320, 320))[None]
            for _ in range(60):  # in turn, so that a machine whose speed drifts treats both alike
                results.append(runtime(FRAME))
                staged = session.infer_staged({"image": image}, time.perf_counter_ns)[1]
                stages.append(staged.by_stage())
            session.close()
    assert all(isinstance(r, Detections) and len(r.boxes) == BOXES for r in results)
    found = {
        "resize": [r.timing.resize_ms for r in results],
        "decode": [r.timing.decode_ms for r in results],
        **{stage: [s[stage] for s in stages] for stage in stages[0]},
    }
    median = {f"detector_{stage}_ms": float(np.median(ms[10:])) for stage, ms in found.items()}
    run_ms = median["detector_run_ms"]
    return {**median, "detector_around_over_run": sum(median.values()) / run_ms - 1}
