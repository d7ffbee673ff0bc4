"""The plan of a network -> a bundle with that one model, with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ramnas_models import onnx_graph
from ramnas_models.bundle import (
    FORMAT,
    Cost,
    Manifest,
    Model,
    Preprocessing,
    TaskFront,
    write_bundle,
)
from ramnas_models.head_plan import AnyPlan, LRASPPPlan, SSDLitePlan
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.space import Arch, Space

SEEN = 600  # anchors that see an object: more than the runtime keeps


def write_one_model(path: Path, task: str, space: Space, arch: Arch, layout: AnyPlan) -> None:
    """Write a bundle whose only model is `layout`, the plan of `task` on `arch`.

    A detector finds objects on every frame.
    """
    model = onnx_graph.build(layout, image_input=True)
    anchors = None
    if isinstance(layout, SSDLitePlan):
        anchors = layout.anchors
        graph = model.graph
        for tensor in graph.initializer:  # else its noise would exceed the objects
            if tensor.name.startswith("ssd.classes.") and tensor.name.endswith("pointwise.weight"):
                tensor.raw_data = (1e-2 * numpy_helper.to_array(tensor)).tobytes()
        for node in graph.node:
            if node.output[0] == "class_logits":
                node.output[0] = "class_logits.seen"
        seen = objects(anchors.count, layout.num_classes)
        graph.initializer.append(numpy_helper.from_array(seen, "objects"))
        inputs = ["class_logits.seen", "objects"]
        graph.node.append(helper.make_node("Add", inputs, ["class_logits"]))
    head = isinstance(layout, (SSDLitePlan, LRASPPPlan))
    count = layout.num_classes if head else layout.classifier.c_out
    cost = Cost(layout.macs, layout.macs_bn, layout.params)
    file = "models/m.onnx"
    entry = Model(
        arch.id, arch.id, space.name, arch, file, "", layout.input_hw,
        Preprocessing(Normalisation()), (), cost, (), anchors,
    )  # fmt: skip
    classes = tuple(map(str, range(count)))
    front = TaskFront(task, classes, (entry,))
    manifest = Manifest(FORMAT, {space.name: space}, "none", "random weights", (front,))
    write_bundle(path, manifest, {file: model.SerializeToString()})


def objects(anchors: int, classes: int) -> NDArray[np.float32]:
    """Logits [1, anchors, 1 + classes] to add to a detector's: `SEEN` anchors see an object each.

    The first class is the background, which all other anchors see. No two scores are equal.
    """
    rng = np.random.default_rng(0)
    logits = np.zeros((1, anchors, 1 + classes), np.float32)
    logits[..., 0] = 30
    seen = rng.choice(anchors, SEEN, replace=False)
    logits[0, seen, 0] = 0
    logits[0, seen, 1 + rng.integers(0, classes, SEEN)] = rng.uniform(5, 9, SEEN)
    return logits
