"""ONNX Runtime on every form of graph that a bundle has: its outputs against the CPU's, and times.

On a GPU this is the CUDA provider, on a CPU the CPU provider.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Dict, Iterator, List, Tuple

import numpy as np
import torch
from onnx import ModelProto

from ramnas_edge.engines import backends
from ramnas_edge.engines.backends import Options
from ramnas_models import onnx_graph
from ramnas_models.errors import BackendError
from ramnas_models.head_plan import AnyPlan, for_task
from ramnas_models.plan import plan
from ramnas_models.space import load_space
from tests.gpu.sizes import Sizes
from tests.gpu.table import Rows, Skipped

if TYPE_CHECKING:
    from ramnas_edge.engines.backends import Array

CPU = "onnxruntime-cpu"
# precision -> the largest allowed error, relative to the largest output
TOLERANCES = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 2e-2}
OTHER_PIXELS = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 2e-2}  # the share of a class map
CLASSES = {"classification": 1000, "detection": 80, "segmentation": 19}


def run(rows: Rows, sizes: Sizes, device: torch.device) -> None:
    """Each form in each precision that the engine has here, and one row for each other one."""
    engine = "onnxruntime-cuda" if device.type == "cuda" else CPU
    for precision, tolerance in TOLERANCES.items():
        try:
            backends.probe(engine, Options(precision))
        except BackendError as error:
            with rows.row(f"{engine}, {precision}"):
                if "needs another engine" in str(error):
                    raise Skipped(str(error)) from error
                raise
            continue
        for name, model, feeds in _forms(sizes):
            with rows.row(f"{name}, {engine}, {precision}") as figures:
                expected, cpu_ms = _outputs(CPU, "fp32", model, feeds, sizes.calls)
                try:
                    found, ms = _outputs(engine, precision, model, feeds, sizes.calls)
                except BackendError as error:
                    if "class map" not in name:
                        raise
                    raise Skipped(f"a segmenter must end in logits for it: {error}") from error
                figures["median ms"] = ms
                figures["CPU fp32 median ms"] = cpu_ms
                if expected[0].dtype == np.uint8:
                    other = float(np.mean(found[0] != expected[0]))
                    figures["share of other pixels"], most = other, OTHER_PIXELS[precision]
                    assert other <= most, f"more than {most} of the pixels have another class"
                    continue
                largest = max(_largest_error(a, b) for a, b in zip(found, expected))
                figures["largest error / largest output"] = largest
                assert largest <= tolerance, f"more than {tolerance} away from the CPU's outputs"


def _largest_error(found: Array, expected: Array) -> float:
    """Relative to the largest value of `expected`."""
    reference = expected.astype(np.float64)
    return float(np.abs(found.astype(np.float64) - reference).max() / np.abs(reference).max())


def _forms(sizes: Sizes) -> Iterator[Tuple[str, ModelProto, Dict[str, Array]]]:
    """(name, graph, inputs) of each task, with a uint8 image as bundles have it and with floats.

    Segmenters end in the class map, as in a bundle, or in logits for an engine that refuses it.
    The batch is symbolic, as in bundles.
    """
    space, rng = load_space(sizes.graph_space), np.random.default_rng(0)
    arch = space.sample(rng)
    input_hw = {"detection": sizes.detection_hw, "segmentation": sizes.segmentation_hw}
    for task, classes in CLASSES.items():
        backbone = plan(space, arch, num_classes=classes, input_hw=input_hw.get(task))
        layout: AnyPlan = for_task(task, backbone)
        height, width = layout.input_hw
        for logits in [False, True] if task == "segmentation" else [False]:
            ending = {True: " to logits", False: " to a class map"}[logits]
            name = f"{task}{ending if task == 'segmentation' else ''} {height}x{width}"
            for image_input in (True, False):
                model = onnx_graph.build(layout, image_input=image_input, batch=None, logits=logits)
                image: Array = (
                    rng.integers(0, 256, (1, height, width, 3), np.uint8)
                    if image_input
                    else rng.standard_normal((1, 3, height, width), np.float32)
                )
                yield f"{name}, {'uint8' if image_input else 'float'}", model, {"image": image}


def _outputs(
    engine: str, precision: str, model: ModelProto, feeds: Dict[str, Array], calls: int
) -> Tuple[List[Array], float]:
    """The outputs, and the median milliseconds of a call from the host's memory back to it."""
    ready = backends.in_precision(model, engine, precision)
    session = backends.load(engine).open(ready.SerializeToString(), Options(precision))
    try:
        outputs = session.infer(feeds)
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            session.infer(feeds)
            times.append(1e3 * (time.perf_counter() - start))
        return outputs, statistics.median(times)
    finally:
        session.close()
