"""A training pass of a subnet inside the supernet, against the same network extracted from it."""

from __future__ import annotations

import numpy as np
import torch

from ramnas_models.space import load_space
from ramnas_models.supernet import Supernet
from tests.benchmarks.timing import in_turn


def run() -> dict[str, float]:
    """Forward and backward of the median arch, by MACs, of 101 from table1: batch 8, 192 px."""
    space, rng = load_space("table1"), np.random.default_rng(0)
    net = Supernet(space).train()
    archs = sorted((space.sample(rng) for _ in range(101)), key=lambda a: net.plan(a).macs)
    arch = archs[50]
    static = net.extract(arch).train()
    images = torch.randn(8, 3, 192, 192).to(memory_format=torch.channels_last)

    def elastic_pass() -> None:
        net.zero_grad(set_to_none=True)
        net(images, arch).sum().backward()

    def static_pass() -> None:
        static.zero_grad(set_to_none=True)
        static(images).sum().backward()

    elastic_s, static_s, ratio = in_turn(elastic_pass, static_pass, pairs=9)
    return {"elastic_ms": 1e3 * elastic_s, "static_ms": 1e3 * static_s, "ratio": ratio}
