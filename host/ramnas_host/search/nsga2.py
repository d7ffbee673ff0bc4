"""NSGA-II as in Algorithm 1: objectives -> every arch that was tried, the front among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting, find_non_dominated

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ramnas_models.space import Space

    Rows = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]

Objective = Callable[["Rows"], "Floats"]  # encodings [n, slots] -> values [n] to minimise

TRIES = 20  # of a generation for new children: near its end a small space has few left


def search(
    space: Space,
    objectives: Sequence[Objective],
    *,
    limits: Sequence[float] | Floats | None = None,
    population: int = 5120,
    parents: int = 2560,
    generations: int = 30,
    p_mutation: float = 0.2,
    seed: int = 0,
    on_generation: Callable[[int], None] = lambda number: None,
) -> tuple[Rows, Floats]:
    """Algorithm 1: encodings [n, slots] and objectives [n, m] of every arch evaluated, each once.

    Each generation keeps the best `parents` by non-dominated rank and crowding and makes
    `population` children, half by crossover, half by mutation. The front is `non_dominated` of
    what comes back: of all archs ever evaluated, not of the last population. An arch above one of
    `limits` (inf: none) comes after all within them, by how far it is above.
    """
    rng = np.random.default_rng(seed)
    bounds = np.full(len(objectives), np.inf) if limits is None else np.array(limits, dtype=float)
    seen = Seen(space)
    children = _with_extremes(space, population, rng)
    children = children[seen.fresh(children)]
    kept, kept_values = children[:0], np.empty((0, len(objectives)))
    tried, tried_values = [], []
    for generation in range(1, generations + 1):
        values = np.column_stack([objective(children) for objective in objectives])
        tried.append(children)
        tried_values.append(values)
        pool, pool_values = np.concatenate([kept, children]), np.concatenate([kept_values, values])
        best = _survivors(pool_values, bounds, parents, rng)
        kept, kept_values = pool[best], pool_values[best]
        on_generation(generation)
        if generation < generations:
            children = _children(space, kept, population, p_mutation, rng, seen)
            if not len(children):  # the space is exhausted
                break
    return np.concatenate(tried), np.concatenate(tried_values)


def non_dominated(values: Floats) -> Indices:
    """Indices of the rows of [n, m] (to minimise) that no other row dominates."""
    front: Indices = find_non_dominated(values)
    return front


def ranks(values: Floats, least: int | None = None) -> list[Indices]:
    """Indices of the rows of [n, m] (to minimise) rank by rank, the non-dominated first.

    No further ranks once they hold `least` rows.
    """
    fronts: list[Indices] = NonDominatedSorting().do(values, n_stop_if_ranked=least)
    return fronts


def violation(values: Floats, limits: Floats) -> Floats:
    """[n, m] -> [n]: how far above the limits, relative to them, summed; 0 within all."""
    bound = np.isfinite(limits)
    above = np.maximum(values[:, bound] - limits[bound], 0)
    total: Floats = (above / np.maximum(np.abs(limits[bound]), 1e-12)).sum(1)
    return total


class Seen:
    """Which encodings have come before, by a 64-bit hash of each.

    Multilinear with random odd factors: two of a million archs meet in one search of 10^7 or so,
    and then one arch is left out.
    """

    def __init__(self, space: Space) -> None:
        slots = len(space.encode(space.min()))
        self._factors = (
            2 * np.random.default_rng(0).integers(2**63, size=slots, dtype=np.uint64) + 1
        )
        self._hashes = np.empty(0, dtype=np.uint64)  # sorted

    def fresh(self, rows: Rows) -> Indices:
        """Indices of the rows that are new, each once, in their order; from now on they are not."""
        hashes = (rows.astype(np.uint64) * self._factors).sum(1, dtype=np.uint64)  # modulo 2^64
        hashes, first = np.unique(hashes, return_index=True)
        at = np.searchsorted(self._hashes, hashes)
        new = np.append(self._hashes, np.uint64(0))[at] != hashes
        new |= at == len(self._hashes)
        self._hashes = np.insert(self._hashes, at[new], hashes[new])
        return np.sort(first[new])


def _with_extremes(space: Space, n: int, rng: np.random.Generator) -> Rows:
    """Random archs, the smallest and the largest among them."""
    rows = space.sample_rows(n, rng)
    rows[0], rows[-1] = space.encode(space.min()), space.encode(space.max())
    return rows


def _survivors(values: Floats, limits: Floats, n: int, rng: np.random.Generator) -> Indices:
    """Indices of the best `n` rows, best first: within the limits, by rank, the least crowded."""
    too_much = violation(values, limits)
    within = np.flatnonzero(too_much == 0)
    if len(within) < n:
        beyond = np.argsort(too_much, kind="stable")[len(within) : n]
        return np.concatenate([within, beyond])
    kept: list[Indices] = []
    room = n
    for front in ranks(values[within], n):
        front = rng.permutation(front)  # equally crowded ones have equal chances
        crowding = calc_crowding_distance(values[within][front])
        front = front[np.argsort(-crowding, kind="stable")[:room]]
        kept.append(within[front])
        room -= len(front)
    return np.concatenate(kept)


def _children(
    space: Space, parents: Rows, n: int, p_mutation: float, rng: np.random.Generator, seen: Seen
) -> Rows:
    """`n` new archs, half by crossover, half by mutation.

    Parents are drawn by binary tournament, as NSGA-II does: of two, the one that stands first.
    """
    made, missing = [parents[:0]], n

    def drawn(count: int) -> Rows:
        rows: Rows = parents[rng.integers(len(parents), size=(2, count)).min(0)]
        return rows

    for _ in range(TRIES):
        half = -(-missing // 2)
        crossed = space.crossover_rows(drawn(half), drawn(half), rng)
        mutated = space.mutate_rows(drawn(missing - half), p_mutation, rng)
        children = np.concatenate([crossed, mutated])
        made.append(children[seen.fresh(children)])
        missing -= len(made[-1])
        if not missing:
            break
    return np.concatenate(made)
