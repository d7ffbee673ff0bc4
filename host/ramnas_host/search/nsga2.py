"""NSGA-II as in Algorithm 1: takes objectives and returns every evaluated arch with its values."""

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

TRIES = 20  # attempts to fill a generation: towards the end a small space has few new archs left


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
    """Run Algorithm 1; return encodings [n, slots] and values [n, m] of all evaluated archs.

    Each arch is evaluated once. A generation keeps the best `parents` by non-dominated rank and
    crowding distance and makes `population` children, half by crossover and half by mutation.
    `limits` are upper limits on the objectives (inf for none). Archs that exceed one rank after all
    archs within the limits, ordered by how far they exceed them. The front is `non_dominated` of
    the returned values, so it takes in all archs ever evaluated and not only the last population.
    """
    rng = np.random.default_rng(seed)
    bounds = np.full(len(objectives), np.inf) if limits is None else np.array(limits, dtype=float)
    seen = Seen(space)
    children = _with_extremes(space, population, rng)
    children = children[seen.fresh(children)]
    kept, kept_values = children[:0], np.empty((0, len(objectives)))
    evaluated, evaluated_values = [], []
    for generation in range(1, generations + 1):
        values = np.column_stack([objective(children) for objective in objectives])
        evaluated.append(children)
        evaluated_values.append(values)
        pool, pool_values = np.concatenate([kept, children]), np.concatenate([kept_values, values])
        best = _survivors(pool_values, bounds, parents, rng)
        kept, kept_values = pool[best], pool_values[best]
        on_generation(generation)
        if generation < generations:
            children = _children(space, kept, population, p_mutation, rng, seen)
            if not len(children):  # the space is exhausted
                break
    return np.concatenate(evaluated), np.concatenate(evaluated_values)


def non_dominated(values: Floats) -> Indices:
    """Indices of the rows of `values` [n, m], to be minimised, that no other row dominates."""
    front: Indices = find_non_dominated(values)
    return front


def ranks(values: Floats, least: int | None = None) -> list[Indices]:
    """Indices of the rows of `values` [n, m], to be minimised, by rank; non-dominated rows first.

    With `least`, ranks are added only until they hold at least that many rows.
    """
    fronts: list[Indices] = NonDominatedSorting().do(values, n_stop_if_ranked=least)
    return fronts


def violation(values: Floats, limits: Floats) -> Floats:
    """By how much each row of `values` [n, m] exceeds `limits` [m]: [n], 0 if it meets them all.

    It is the sum over the objectives of the excess relative to the limit.
    """
    bound = np.isfinite(limits)
    excess = np.maximum(values[:, bound] - limits[bound], 0)
    total: Floats = (excess / np.maximum(np.abs(limits[bound]), 1e-12)).sum(1)
    return total


class Seen:
    """Remembers which encodings have come before, by a 64-bit hash of each.

    The hash is multilinear with random odd factors. If two archs have the same hash, one of them
    is left out; that happens in about one of 10^7 searches over a million archs.
    """

    def __init__(self, space: Space) -> None:
        slots = len(space.encode(space.min()))
        self._factors = (
            2 * np.random.default_rng(0).integers(2**63, size=slots, dtype=np.uint64) + 1
        )
        self._hashes = np.empty(0, dtype=np.uint64)  # sorted

    def fresh(self, rows: Rows) -> Indices:
        """Indices of the rows not seen before, each once and in order; they count as seen now."""
        hashes = (rows.astype(np.uint64) * self._factors).sum(1, dtype=np.uint64)  # modulo 2^64
        hashes, first = np.unique(hashes, return_index=True)
        at = np.searchsorted(self._hashes, hashes)
        new = np.append(self._hashes, np.uint64(0))[at] != hashes
        new |= at == len(self._hashes)
        self._hashes = np.insert(self._hashes, at[new], hashes[new])
        return np.sort(first[new])


def _with_extremes(space: Space, n: int, rng: np.random.Generator) -> Rows:
    """`n` random archs, with the smallest and the largest arch of the space among them."""
    rows = space.sample_rows(n, rng)
    rows[0], rows[-1] = space.encode(space.min()), space.encode(space.max())
    return rows


def _survivors(values: Floats, limits: Floats, n: int, rng: np.random.Generator) -> Indices:
    """Indices of the best `n` rows, best first: by violation, rank and crowding distance."""
    excess = violation(values, limits)
    within = np.flatnonzero(excess == 0)
    if len(within) < n:
        beyond = np.argsort(excess, kind="stable")[len(within) : n]
        return np.concatenate([within, beyond])
    kept: list[Indices] = []
    room = n
    for front in ranks(values[within], n):
        front = rng.permutation(front)  # so that equally crowded rows have equal chances
        crowding = calc_crowding_distance(values[within][front])
        front = front[np.argsort(-crowding, kind="stable")[:room]]
        kept.append(within[front])
        room -= len(front)
    return np.concatenate(kept)


def _children(
    space: Space, parents: Rows, n: int, p_mutation: float, rng: np.random.Generator, seen: Seen
) -> Rows:
    """`n` new archs, half by crossover and half by mutation; fewer if the space has no more.

    Parents are chosen by NSGA-II's binary tournament: of two drawn at random, the better one.
    """
    made, missing = [parents[:0]], n

    def tournament(count: int) -> Rows:
        winners: Rows = parents[rng.integers(len(parents), size=(2, count)).min(0)]
        return winners

    for _ in range(TRIES):
        half = -(-missing // 2)
        crossed = space.crossover_rows(tournament(half), tournament(half), rng)
        mutated = space.mutate_rows(tournament(missing - half), p_mutation, rng)
        children = np.concatenate([crossed, mutated])
        made.append(children[seen.fresh(children)])
        missing -= len(made[-1])
        if not missing:
            break
    return np.concatenate(made)
