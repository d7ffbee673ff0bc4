"""Visits of many networks -> one level for each, with the machine's drift taken out.

log(lower quartile of a visit) = arch + drift(time) + noise. The drift (clocks, heat, other work on
the machine) is common to the networks of a block, so a network's neighbours in time show it: it is
a Gaussian process of time in each block, an Ornstein-Uhlenbeck one, which may jump but not often.
What disturbs a run makes it slower: so the lower quartile of a visit's runs repeats better than its
median, and the noise has a heavy tail (Student t) upwards alone: a visit far above counts little.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Dict, Iterable, List, NamedTuple, Sequence

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ramnas_edge.measuring.record import LatencyRecord, Visit

    Floats = NDArray[np.float64]

MEMORY_S = 10.0  # how long the drift remembers; with 5 recorded passes agree no better
TAIL = 3.0  # degrees of freedom of the noise
FLOORS = (0.01, 0.005)  # of the drift's and of the noise's standard deviation, log units


class Fit(NamedTuple):
    """By arch id: the level (log ms), and what the fit leaves of its visits (log)."""

    level: Dict[str, float]
    residuals: Dict[str, Floats]


def fit(visits: Sequence[Visit]) -> Fit:
    """Generalised least squares over all blocks, reweighted for the tail of the noise.

    Blocks are linked by the networks that they share (the anchors), and by their drift having the
    same mean. The levels are those of median runs: the lower quartiles' common distance from the
    medians is added back.
    """
    if not visits:
        return Fit({}, {})
    archs, arch_of = np.unique([v.arch_id for v in visits], return_inverse=True)
    low = np.log([np.percentile(v.times_ms, 25) for v in visits])
    to_median = float(np.median(np.log([v.median_ms for v in visits]) - low))
    y = low + to_median
    of_arch = [y[arch_of == i] for i in range(len(archs))]
    middle, lowest = (
        np.array([np.percentile(own, q) for own in of_arch])[arch_of] for q in (50, 25)
    )
    of_drift = max(FLOORS[0], sigma(y - middle))
    blocks = [_Block(rows, visits, arch_of, of_drift) for rows in _by_block(visits)]

    # from below, so that a network disturbed half of the time is not taken for a slow one
    weight, of_noise = _weight(y - lowest, of_drift), FLOORS[1]
    for _ in range(10):
        normal, right = np.zeros((len(archs), len(archs))), np.zeros(len(archs))
        for block in blocks:
            block.invert(of_noise**2 / weight[block.rows])
            weighted = block.seen.T @ block.inverse
            normal[np.ix_(block.archs, block.archs)] += weighted @ block.seen
            right[block.archs] += weighted @ y[block.rows]
        level = np.linalg.solve(normal, right)
        residual = y - level[arch_of]
        for block in blocks:
            residual[block.rows] -= block.drift(residual[block.rows])
        of_noise = max(FLOORS[1], sigma(residual))
        weight = _weight(residual, of_noise)
    by_arch = {str(a): residual[arch_of == i] for i, a in enumerate(archs)}
    return Fit(dict(zip(by_arch, level.tolist())), by_arch)


def standard_error(visits: Sequence[Visit]) -> float:
    """Of the levels (log), one network against another: the two halves of the rounds say it.

    Half the standard deviation of the difference between the halves' levels. It is a little more
    than that of all rounds, since half as many visits cope worse with the tail of noise. inf where
    the halves share less than two networks.
    """
    middle = np.median([v.round for v in visits]) if visits else 0
    early, late = (
        fit([v for v in visits if (v.round < middle) == first]).level for first in (True, False)
    )
    both = [early[name] - late[name] for name in early if name in late]
    return float(np.std(both, ddof=1)) / 2 if len(both) > 1 else float("inf")


def visits_of(records: Iterable[LatencyRecord]) -> List[Visit]:
    """All visits of `records`, those of an anchor once: every record of its block has them."""
    visits = {
        (v.block, v.round, v.position): v
        for record in records
        for v in (*record.visits, *record.anchors)
    }
    return [*visits.values()]


def corrected_ms(records: Iterable[LatencyRecord]) -> Dict[str, float]:
    """Arch id -> median latency with the machine's drift taken out, from all records of one run."""
    return {arch: math.exp(level) for arch, level in fit(visits_of(records)).level.items()}


def spread(visits: Sequence[Visit]) -> Dict[str, float]:
    """Arch id -> robust standard deviation (1.48 MAD) of its log visits around the drift."""
    return {arch: sigma(residual) for arch, residual in fit(visits).residuals.items()}


class _Block:
    """The visits of one block, and the covariance that their drift gives them."""

    def __init__(
        self, rows: List[int], visits: Sequence[Visit], arch_of: NDArray[np.intp], sigma: float
    ) -> None:
        self.rows = np.array(rows)
        self.archs, own = np.unique(arch_of[self.rows], return_inverse=True)
        self.seen = np.eye(len(self.archs))[own]  # visits x archs of this block
        at_s = np.array([visits[i].start_s for i in rows])
        self._covariance = sigma**2 * np.exp(-np.abs(at_s[:, None] - at_s) / MEMORY_S)
        self.inverse = np.eye(len(rows))

    def invert(self, noise: Floats) -> None:
        self.inverse = np.linalg.inv(self._covariance + np.diag(noise))

    def drift(self, residual: Floats) -> Floats:
        """The mean of the drift, given what the levels leave of the visits."""
        mean: Floats = self._covariance @ self.inverse @ residual
        return mean


def _by_block(visits: Sequence[Visit]) -> List[List[int]]:
    rows: Dict[str, List[int]] = {}
    for i, visit in enumerate(visits):
        rows.setdefault(visit.block, []).append(i)
    return list(rows.values())


def sigma(values: Floats) -> float:
    """Robust standard deviation (1.48 MAD) around 0: that of the bulk."""
    return 1.4826 * float(np.median(np.abs(values)))


def _weight(residual: Floats, sigma: float) -> Floats:
    """Of a Student t above the level, of a normal distribution below it."""
    above = np.maximum(residual, 0) / sigma
    weight: Floats = (TAIL + 1) / (TAIL + above**2)
    return weight
