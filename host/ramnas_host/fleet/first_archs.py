"""A space -> the archs to measure first on a new board, chosen by costs alone, far apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ramnas_edge.measuring.request import Request, sampled
from ramnas_models.cost_table import CostTable
from ramnas_models.errors import SpaceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ramnas_edge.measuring.record import Target
    from ramnas_models.space import Arch, Rows, Space

    Floats = NDArray[np.float64]

CANDIDATES_PER_ARCH, MIN_CANDIDATES = 10, 2000


def first_request(
    run: str, space: Space, target: Target, samples: int, *, rounds: int, seed: int
) -> Request:
    """What `ramnas calibrate` has every class measure: shared archs far apart in cost, then others
    of its own, spread in log MACs. SpaceError if the space has not so many."""

    def apart(n: int) -> list[Arch]:
        table = CostTable(space, input_hw=target.input_hw)
        return first_archs(space, table, n, np.random.default_rng(seed))

    return sampled(run, space, target, samples, rounds=rounds, seed=seed, choose=apart)


def first_archs(space: Space, table: CostTable, n: int, rng: np.random.Generator) -> list[Arch]:
    """`n` different archs: min, max, then always the farthest in cost from all so far.

    SpaceError if the space has not so many.
    """
    if not 2 <= n <= space.size():
        raise SpaceError(
            f"cannot choose {n} different archs of space {space.name}: at least 2 (min and max), "
            f"at most its size, {space.size()}"
        )
    rows = _pool(space, n, rng)
    points = _points(table(rows))
    chosen, distance = [0, 1], np.full(len(rows), np.inf)
    for latest in chosen:
        distance = np.minimum(distance, ((points - points[latest]) ** 2).sum(1))
    while len(chosen) < n:
        distance[chosen] = -1  # others may cost the same
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
    return [space.decode(rows[i]) for i in chosen]


def _pool(space: Space, n: int, rng: np.random.Generator) -> Rows:
    """More than `n` different encodings at all costs; min and max are the first two.

    Uniform archs hardly ever are cheap, so each is min or max with a part of its choices drawn
    anew, from few of them to all.
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
    """[n, columns, figures] -> [n, d]: the logarithms of the totals, and how each is shared out.

    Totals together vary as much as shares together, so that either counts.
    """
    totals = costs.sum(1)
    shares = (costs / totals[:, None, :]).reshape(len(costs), -1)
    together = []
    for points in (np.log(totals), shares):
        away = points - points.mean(0)
        together.append(away / np.sqrt(max((away**2).sum(1).mean(), 1e-30)))
    return np.concatenate(together, axis=1)
