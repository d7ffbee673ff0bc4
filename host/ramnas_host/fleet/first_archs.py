"""A space -> the archs that every board measures first, as different in cost as possible."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ramnas_edge.measuring.record import Target
from ramnas_edge.measuring.request import Request, sampled
from ramnas_models.cost_table import CostTable
from ramnas_models.space import Arch, Space

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]  # encodings [n, slots]
CANDIDATES_PER_ARCH, MIN_CANDIDATES = 10, 2000


def first_request(
    run: str, space: Space, target: Target, samples: int, *, rounds: int, seed: int
) -> Request:
    """What each device class measures for `ramnas calibrate`: archs that all classes share, far
    apart in cost, then archs of its own, spread in log MACs. SpaceError if the space is too small.
    """

    def apart(n: int) -> list[Arch]:
        table = CostTable(space, input_hw=target.input_hw)
        return first_archs(space, table, n, np.random.default_rng(seed))

    return sampled(run, space, target, samples, rounds=rounds, seed=seed, choose=apart)


def first_archs(space: Space, table: CostTable, n: int, rng: np.random.Generator) -> list[Arch]:
    """`n` different archs, at least 2 and at most `space.size()`: min, max, then always the one
    whose costs are farthest from all chosen so far."""
    rows = _pool(space, n, rng)
    points = _points(table(rows))
    chosen, distance = [0, 1], ((points - points[0]) ** 2).sum(1)
    while len(chosen) < n:
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
        distance[chosen] = -1  # never again, even if all others cost the same
        chosen.append(int(distance.argmax()))
    return [space.decode(rows[i]) for i in chosen]


def _pool(space: Space, n: int, rng: np.random.Generator) -> Rows:
    """At least `n` different encodings, cheap ones and costly ones; min and max are the first two.

    Archs drawn uniformly are hardly ever cheap. So each of these is min or max with some of its
    choices drawn again: from a tenth of them to all.
    """
    ends = space.encode_all([space.min(), space.max()])
    many = max(MIN_CANDIDATES, CANDIDATES_PER_ARCH * n)
    rows = ends
    while True:
        drawn = [
            space.mutate_rows(np.repeat(ends, many // 20 + 1, axis=0), p, rng)
            for p in np.linspace(0.1, 1.0, 10)
        ]
        rows = np.concatenate([rows, *drawn])
        _, first = np.unique(rows, axis=0, return_index=True)
        rows = rows[np.sort(first)]
        if len(rows) >= min(many, space.size() // 2, 2 * n) and len(rows) >= n:
            return rows


def _points(costs: Floats) -> Floats:
    """Costs [n, columns, figures] -> points [n, d] whose distances say how different archs are.

    The coordinates are the logarithms of an arch's total costs, and the share of each column in
    them. Both groups are scaled to the same variance, so that both count.
    """
    totals = costs.sum(1)
    shares = (costs / totals[:, None, :]).reshape(len(costs), -1)
    together = []
    for points in (np.log(totals), shares):
        away = points - points.mean(0)
        together.append(away / np.sqrt(max((away**2).sum(1).mean(), 1e-30)))
    return np.concatenate(together, axis=1)
