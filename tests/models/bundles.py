"""Small bundles for tests, of every task, with `micro` backbones and random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, Optional, Sequence, Tuple

import msgspec
import numpy as np

from ramnas_models import onnx_graph
from ramnas_models.accuracy import Accuracy
from ramnas_models.bundle import (
    FORMAT,
    Bundle,
    Cost,
    Latency,
    Manifest,
    Model,
    Preprocessing,
    TaskFront,
    write_bundle,
)  # fmt: skip
from ramnas_models.head_plan import SSDLitePlan, for_task
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.plan import plan
from ramnas_models.space import load_space

WHOLE = Preprocessing(Normalisation())
CLASSES = ("a", "b", "c")
ACCURACIES = (0.90, 0.95, 0.99)


def classifiers(latencies: Sequence[Tuple[Latency, ...]] = ((), (), ())) -> Tuple[
    TaskFront, Dict[str, bytes]
]:  # fmt: skip
    """A front of three classifiers, from fast to slow, and its files."""
    space = load_space("micro")
    archs = [space.min(), space.sample(np.random.default_rng(0)), space.max()]
    models, files = [], {}
    for arch, value, latency in zip(archs, ACCURACIES, latencies):
        layout = plan(space, arch, num_classes=len(CLASSES))
        file = f"models/{arch.id}.onnx"
        files[file] = onnx_graph.build(layout, image_input=True, batch=None).SerializeToString()
        models.append(
            Model(
                arch.id, arch.id, "micro", arch, file, "", layout.input_hw, WHOLE,
                (Accuracy("top1", value, "test"),),
                Cost(layout.macs, layout.macs_bn, layout.params), latency,
            )
        )  # fmt: skip
    return TaskFront("classification", CLASSES, tuple(models)), files


def heads(
    task: str, input_hw: Tuple[int, int] = (64, 96), space: str = "micro",
    name: Callable[[str], str] = lambda arch_id: arch_id,
) -> Tuple[TaskFront, Dict[str, bytes]]:  # fmt: skip
    """A front of two models, on the smallest and the largest backbone, and its files.

    `name` makes the name of a model from the id of its arch.
    """
    found = load_space(space)
    models, files = [], {}
    for arch, value in ((found.min(), 0.3), (found.max(), 0.4)):
        backbone = plan(found, arch, num_classes=len(CLASSES), input_hw=input_hw)
        layout = for_task(task, backbone)
        file = f"models/{task}-{name(arch.id)}.onnx"
        files[file] = onnx_graph.build(layout, image_input=True, batch=None).SerializeToString()
        metric = "mAP50-95" if task == "detection" else "mIoU"
        models.append(
            Model(
                name(arch.id), arch.id, space, arch, file, "", input_hw, WHOLE,
                (Accuracy(metric, value, "test"),),
                Cost(layout.macs, layout.macs_bn, layout.params), (),
                layout.anchors if isinstance(layout, SSDLitePlan) else None,
            )
        )  # fmt: skip
    return TaskFront(task, CLASSES, tuple(models)), files


def written(
    path: Path, *fronts: Tuple[TaskFront, Dict[str, bytes]], licence: str = "CC0-1.0"
) -> Bundle:
    """Write the fronts, whose models come from spaces that ship, as a bundle."""
    files: Dict[str, bytes] = {}
    for _, own in fronts:
        files.update(own)
    tasks = tuple(front for front, _ in fronts)
    names = dict.fromkeys(model.space for front in tasks for model in front.models)
    spaces = {name: load_space(name) for name in names}
    return write_bundle(path, Manifest(FORMAT, spaces, licence, "test", tasks), files)


def joined(*fronts: Tuple[TaskFront, Dict[str, bytes]]) -> Tuple[TaskFront, Dict[str, bytes]]:
    """One front of all models of fronts of the same task, from few MACs to many."""
    models = sorted((m for front, _ in fronts for m in front.models), key=lambda m: m.cost.macs)
    files = {name: data for _, own in fronts for name, data in own.items()}
    return msgspec.structs.replace(fronts[0][0], models=tuple(models)), files


def figure(
    device_class: str, p90_ms: float, frame_hw: Optional[Tuple[int, int]]
) -> Tuple[Latency, ...]:
    """The latencies of a model in a manifest, measured on one device class."""
    return (Latency(device_class, "onnxruntime-cpu", "fp32", 1, 1, frame_hw, p90_ms, p90_ms),)
