"""Building ONNX graphs without torch, against torch.onnx.export of the same networks."""

from __future__ import annotations

import io
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from ramnas_models import onnx_graph
from ramnas_models.plan import plan
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet

NETWORKS = 7
CPU = ["CPUExecutionProvider"]


def run() -> dict[str, float]:
    """Take random table1 archs; build each ourselves, then export it with torch.

    There are two peers: torch.onnx.export with its defaults, and its older TorchScript exporter.
    """
    logging.disable(logging.WARNING)
    space, rng = load_space("table1"), np.random.default_rng(0)
    net = Supernet(space)
    onnx_graph.build(
        plan(space, space.max())
    )  # fills the shared buffers, which happens once per process
    seconds: dict[str, list[float]] = {}
    for _ in range(NETWORKS):
        arch = space.sample(rng)
        subnet = net.extract(arch)
        image = torch.zeros(1, 3, arch.resolution, arch.resolution)
        built = _time(seconds, "build", lambda a=arch: onnx_graph.build(plan(space, a)))
        data = built.SerializeToString()
        _time(
            seconds,
            "session",
            lambda d=data: ort.InferenceSession(d, providers=["CPUExecutionProvider"]),
        )
        _time(seconds, "extract", lambda a=arch: net.extract(a))
        for name, dynamo in (("export", True), ("script", False)):
            _time(seconds, name, lambda s=subnet, i=image, d=dynamo: _export(s, i, d))
    logging.disable(logging.NOTSET)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    pairs = zip(seconds["build"], seconds["export"], seconds["script"], strict=True)
    ratios = [(export / build, script / build) for build, export, script in pairs]
    return {
        "build_ms": 1e3 * median["build"],
        "torch_onnx_export_ms": 1e3 * median["export"],
        "torchscript_export_ms": 1e3 * median["script"],
        "times_faster_than_torch_onnx_export": statistics.median(r[0] for r in ratios),
        "times_faster_than_torchscript": statistics.median(r[1] for r in ratios),
        "session_creation_ms": 1e3 * median["session"],
        "extract_ms": 1e3 * median["extract"],
    }


def _export(subnet: torch.nn.Module, image: torch.Tensor, dynamo: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            torch.onnx.export(subnet, (image,), verbose=False)
        else:
            torch.onnx.export(subnet, (image,), io.BytesIO(), dynamo=False)


def _time(seconds: dict[str, list[float]], name: str, call: Callable[[], object]) -> Any:
    start = time.perf_counter()
    result = call()
    seconds.setdefault(name, []).append(time.perf_counter() - start)
    return result
