"""Visits of many networks -> one latency level for each network, without the machine's drift.

The model is log(lower quartile of a visit) = level of the arch + drift(time) + noise.

The drift (clocks, heat, other work on the machine) slows all networks of a block alike, so that
visits close in time reveal it. In each block it is an Ornstein-Uhlenbeck process: a Gaussian
process of time that may jump, but not often.

A disturbance only ever makes a run slower. The lower quartile of a visit's runs therefore repeats
better than their median, and the noise has a heavy tail (Student t) above the level but not below
it: a visit far above the level counts little.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Dict, Iterable, List, NamedTuple, Sequence

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ramnas_edge.measuring.record import LatencyRecord, Visit

    Floats = NDArray[np.float64]

MEMORY_S = 10.0  # time constant of the drift; with 5 s, recorded passes agreed no better
TAIL = 3.0  # degrees of freedom of the noise's Student t
MIN_DRIFT, MIN_NOISE = 0.01, 0.005  # lower bounds of their standard deviations, log units


class Fit(NamedTuple):
    """For each arch id: its level (log ms), and the residuals of its visits (log)."""

    level: Dict[str, float]
    residuals: Dict[str, Floats]


def fit(visits: Sequence[Visit]) -> Fit:
    """Fit the levels by generalised least squares over all blocks, reweighted for the noise's tail.

    Two things link the blocks: the networks that they share (the anchors), and the assumption that
    the drift has the same mean in each. The levels are those of median runs: the distance of the
    lower quartiles from the medians, which is taken to be the same for all, is added back.
    """
    if not visits:
        return Fit({}, {})
    archs, arch_of = np.unique([v.arch_id for v in visits], return_inverse=True)
    low = np.log([np.percentile(v.times_ms, 25) for v in visits])
    to_median = float(np.median(np.log([v.median_ms for v in visits]) - low))
    y = low + to_median
    by_arch = [y[arch_of == i] for i in range(len(archs))]
    medians, quartiles = (
        np.array([np.percentile(own, q) for own in by_arch])[arch_of] for q in (50, 25)
    )
    drift_sigma = max(MIN_DRIFT, robust_sigma(y - medians))
    blocks = [_BlockVisits(rows, visits, arch_of, drift_sigma) for rows in _by_block(visits)]

    # Start from below: a network that was disturbed half of the time is then not taken for a slow
    # one.
    weight, noise_sigma = _weight(y - quartiles, drift_sigma), MIN_NOISE
    for _ in range(10):
        normal, right = np.zeros((len(archs), len(archs))), np.zeros(len(archs))
        for block in blocks:
            block.invert(noise_sigma**2 / weight[block.rows])
            weighted = block.design.T @ block.inverse
            normal[np.ix_(block.archs, block.archs)] += weighted @ block.design
            right[block.archs] += weighted @ y[block.rows]
        level = np.linalg.solve(normal, right)
        residual = y - level[arch_of]
        for block in blocks:
            residual[block.rows] -= block.drift(residual[block.rows])
        noise_sigma = max(MIN_NOISE, robust_sigma(residual))
        weight = _weight(residual, noise_sigma)
    residuals = {str(a): residual[arch_of == i] for i, a in enumerate(archs)}
    return Fit(dict(zip(residuals, level.tolist())), residuals)


def standard_error(visits: Sequence[Visit]) -> float:
    """Standard error of the log levels, estimated from the two halves of the rounds.

    It is half the standard deviation, over the networks, of the difference between the levels of
    the early and the late rounds. That makes it an error of one network against another: a factor
    common to all does not count. It comes out slightly too large, because half as many visits cope
    worse with the tail of the noise. inf if the halves share fewer than two networks.
    """
    middle = np.median([v.round for v in visits]) if visits else 0
    early, late = (
        fit([v for v in visits if (v.round < middle) == first]).level for first in (True, False)
    )
    differences = [early[name] - late[name] for name in early if name in late]
    return float(np.std(differences, ddof=1)) / 2 if len(differences) > 1 else float("inf")


def visits_of(records: Iterable[LatencyRecord]) -> List[Visit]:
    """All visits of `records`, each once: every record of a block repeats its anchors' visits."""
    visits = {
        (v.block, v.round, v.position): v
        for record in records
        for v in (*record.visits, *record.anchors)
    }
    return [*visits.values()]


def corrected_ms(records: Iterable[LatencyRecord]) -> Dict[str, float]:
    """All records of one run -> arch id: median latency (ms) with the machine's drift taken out."""
    return {arch: math.exp(level) for arch, level in fit(visits_of(records)).level.items()}


def spread(visits: Sequence[Visit]) -> Dict[str, float]:
    """Arch id -> robust standard deviation (1.48 MAD) of its log visits around level and drift."""
    return {arch: robust_sigma(residual) for arch, residual in fit(visits).residuals.items()}


class _BlockVisits:
    """The visits of one block, and the covariance between them that the drift causes."""

    def __init__(
        self,
        rows: List[int],
        visits: Sequence[Visit],
        arch_of: NDArray[np.intp],
        drift_sigma: float,
    ) -> None:
        self.rows = np.array(rows)
        self.archs, own = np.unique(arch_of[self.rows], return_inverse=True)
        self.design = np.eye(len(self.archs))[own]  # visits x archs of this block, 0 or 1
        at_s = np.array([visits[i].start_s for i in rows])
        self._covariance = drift_sigma**2 * np.exp(-np.abs(at_s[:, None] - at_s) / MEMORY_S)
        self.inverse = np.eye(len(rows))

    def invert(self, noise_variance: Floats) -> None:
        self.inverse = np.linalg.inv(self._covariance + np.diag(noise_variance))

    def drift(self, residual: Floats) -> Floats:
        """The expected drift at each visit, given the visits minus their archs' levels."""
        mean: Floats = self._covariance @ self.inverse @ residual
        return mean


def _by_block(visits: Sequence[Visit]) -> List[List[int]]:
    rows: Dict[str, List[int]] = {}
    for i, visit in enumerate(visits):
        rows.setdefault(visit.block, []).append(i)
    return list(rows.values())


def robust_sigma(values: Floats) -> float:
    """Standard deviation around 0 of the bulk of `values`: 1.48 times the median magnitude."""
    return 1.4826 * float(np.median(np.abs(values)))


def _weight(residual: Floats, sigma: float) -> Floats:
    """Weights of visits: from a Student t above the level, from a normal distribution below it."""
    above = np.maximum(residual, 0) / sigma
    weight: Floats = (TAIL + 1) / (TAIL + above**2)
    return weight
