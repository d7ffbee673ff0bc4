"""Sampling archs spread over ten bins of log MACs, against uniform sampling."""

from __future__ import annotations

import time

import numpy as np

from ramnas_models.plan import plan
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import load_space


def run() -> dict[str, float]:
    """Sample 100 archs of table1; the peer draws 1,000 uniformly, and the same bins count both."""
    space = load_space("table1")
    start = time.perf_counter()
    archs = sample_by_macs(space, np.random.default_rng(0), 100)
    ours_s = time.perf_counter() - start
    start = time.perf_counter()
    rng = np.random.default_rng(0)
    uniform = [space.sample(rng) for _ in range(1000)]
    ends = [np.log(plan(space, arch).macs) for arch in (space.min(), space.max())]
    filled = [
        int((np.histogram([np.log(plan(space, a).macs) for a in found], 10, ends)[0] > 0).sum())
        for found in (archs, uniform)
    ]
    return {
        "ours_s": ours_s,
        "bins_filled_by_100_of_ours": filled[0],
        "bins_filled_by_1000_uniform": filled[1],
        "uniform_s": time.perf_counter() - start,
    }
