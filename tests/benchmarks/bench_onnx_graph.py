"""Arch -> ONNX without torch, against torch.onnx.export of the same network."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch

from ramnas_models import onnx_graph
from ramnas_models.plan import plan
from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet
from tests.benchmarks.timing import in_turn


def run() -> dict[str, float]:
    """table1, random archs; the peer is torch's TorchScript exporter."""
    space = load_space("table1")
    rng = np.random.default_rng(0)
    net = Supernet(space)
    archs = iter([space.sample(rng) for _ in range(50)])
    subnets = [net.extract(space.sample(rng)) for _ in range(3)]
    turn = iter(subnets * 10)
    image = torch.zeros(1, 3, 224, 224)

    def ours() -> bytes:
        data: bytes = onnx_graph.build(plan(space, next(archs))).SerializeToString()
        return data

    def peer() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(next(turn), (image,), io.BytesIO(), dynamo=False)

    ours_s, peer_s, ratio = in_turn(ours, peer, pairs=7)
    return {"ours_ms": 1e3 * ours_s, "torch_export_ms": 1e3 * peer_s, "times_faster": 1 / ratio}
