"""Predicting 5,120 archs from 500 records, against one `plan` per arch and scikit-learn's GP."""

from __future__ import annotations

import statistics
import time

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from ramnas_host.surrogates import surrogate
from ramnas_models.plan import PartCost, plan
from ramnas_models.space import load_space
from tests.benchmarks.timing import in_turn

RECORDS, ARCHS = 500, 5120
FEW = 256  # archs in the comparison, because the peer takes milliseconds for each


def run() -> dict[str, float]:
    """Time both on space `table1`: mean and standard deviation, encoding included.

    The peer uses the same kind of costs, by part and operator, which it takes from one `plan` per
    arch.
    """
    space = load_space("table1")
    rng = np.random.default_rng(0)
    rows, ask = space.sample_rows(RECORDS, rng), space.sample_rows(ARCHS, rng)
    table = surrogate.cost_table(space)
    ms = 0.5 + table.macs(rows) / 1e8 + table(rows)[:, :, 3:].sum((1, 2)) / 2e6
    ms *= np.exp(rng.normal(0, 0.01, RECORDS))
    ours = surrogate.fit(space, rows, ms, surrogate.COST, log=True)

    keys = sorted({*plan(space, space.max()).table(), *plan(space, space.min()).table()})

    def costs(some: np.ndarray) -> np.ndarray:
        plans = [plan(space, space.decode(row)).table() for row in some]
        none = PartCost()
        return np.array([
            [v for c in (p.get(key, none) for key in keys) for v in (c.macs, c.elements_out)]
            for p in plans
        ], dtype=float)  # fmt: skip

    seen = costs(rows)
    scale = np.maximum(seen.std(0), 1.0)
    kernel = ConstantKernel() * Matern(10.0, nu=2.5) + WhiteKernel(1e-3)
    peer = GaussianProcessRegressor(kernel, normalize_y=True, optimizer=None)
    peer.fit(seen / scale, np.log(ms))

    some = ask[:FEW]
    ours_s, peer_s, ratio = in_turn(
        lambda: ours.predict(some),
        lambda: peer.predict(costs(some) / scale, return_std=True),
        3,
    )
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        ours.predict(ask)
        seconds.append(time.perf_counter() - start)
    return {
        f"ours_{ARCHS}_s": statistics.median(seconds),
        f"ours_{FEW}_s": ours_s,
        f"plan_and_sklearn_gp_{FEW}_s": peer_s,
        "ours_over_peer": ratio,
    }
