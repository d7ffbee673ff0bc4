"""One runtime(frame) call, against the same model called through onnxruntime by hand."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

from ramnas_edge.runtime import Runtime
from ramnas_models import onnx_graph
from ramnas_models.bundle import (
    FORMAT,
    Accuracy,
    Cost,
    Manifest,
    Model,
    Preprocessing,
    write_bundle,
)  # fmt: skip
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.plan import plan
from ramnas_models.space import load_space
from tests.benchmarks.timing import in_turn


def run() -> dict[str, float]:
    """table1's smallest arch, 640x480 frames, one thread.

    The peer is what a node does without ramnas: resize, colour order and normalisation in numpy,
    then a float graph.
    """
    space = load_space("table1")
    arch, norm = space.min(), Normalisation()
    layout = plan(space, arch)
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    by_hand = ort.InferenceSession(
        onnx_graph.build(layout).SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )

    def peer() -> int:
        image = cv2.cvtColor(cv2.resize(frame, layout.input_hw[::-1]), cv2.COLOR_BGR2RGB)
        scaled = ((image / 255 - norm.mean) / norm.std).astype(np.float32)
        tensor = np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])
        return int(by_hand.run(None, {"image": tensor})[0].argmax())

    with tempfile.TemporaryDirectory() as folder:
        file = f"models/{arch.id}.onnx"
        cost = Cost(layout.macs, layout.macs_bn, layout.params)
        accuracy = Accuracy("top1", 0.0, "none")
        model = Model(arch.id, arch, file, "", layout.input_hw, accuracy, cost, ())
        manifest = Manifest(
            FORMAT, "classification", tuple(map(str, range(1000))), space.name, space.hash,
            Preprocessing(norm), "CC0-1.0", "random weights", (model,),
        )  # fmt: skip
        data = onnx_graph.build(layout, image_input=True).SerializeToString()
        write_bundle(Path(folder) / "bundle", manifest, {file: data})
        with Runtime.open(Path(folder) / "bundle") as runtime:
            ours_s, peer_s, ratio = in_turn(lambda: runtime(frame), peer, pairs=50)
            timing = runtime(frame).timing
    around = timing.resize_ms + timing.decode_ms
    return {
        "ours_ms": 1e3 * ours_s,
        "by_hand_ms": 1e3 * peer_s,
        "ratio": ratio,
        "around_engine_share": around / timing.total_ms,
    }
