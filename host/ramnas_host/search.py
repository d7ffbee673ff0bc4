"""NSGA-II over surrogates (Algorithm 1): objectives -> all archs tried, the front among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.duplicate import NoDuplicateElimination
from pymoo.core.infill import InfillCriterion
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.optimize import minimize
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ramnas_models.space import Space

    Rows = NDArray[np.int64]
    Floats = NDArray[np.float64]

Objective = Callable[["Rows"], "Floats"]  # encodings [n, slots] -> values [n] to minimise


def search(
    space: Space,
    objectives: Sequence[Objective],
    *,
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
    what comes back: of all archs ever evaluated, not of the last population.
    """
    rng = np.random.default_rng(seed)
    problem = _Problem(space, objectives)
    algorithm = NSGA2(
        pop_size=parents,
        n_offsprings=population,
        sampling=_with_extremes(space, population, rng),
        mating=_HalfAndHalf(space, p_mutation, rng),
        eliminate_duplicates=NoDuplicateElimination(),  # the mating makes none
        callback=lambda algorithm: on_generation(algorithm.n_gen),
    )
    minimize(problem, algorithm, ("n_gen", generations), seed=seed)
    rows, values = np.concatenate(problem.rows), np.concatenate(problem.values)
    rows, first = np.unique(rows, axis=0, return_index=True)
    return rows, values[first]


def non_dominated(values: Floats) -> NDArray[np.intp]:
    """Indices of the rows of [n, m] (to minimise) that no other row dominates."""
    front: NDArray[np.intp] = NonDominatedSorting().do(values, only_non_dominated_front=True)
    return front


def ranks(values: Floats) -> list[NDArray[np.intp]]:
    """Indices of the rows of [n, m] (to minimise) rank by rank, the non-dominated first."""
    fronts: list[NDArray[np.intp]] = NonDominatedSorting().do(values)
    return fronts


def _with_extremes(space: Space, n: int, rng: np.random.Generator) -> Rows:
    """Random archs, the smallest and the largest among them."""
    rows = space.sample_rows(n, rng)
    rows[0], rows[-1] = space.encode(space.min()), space.encode(space.max())
    return rows


class _Problem(Problem):  # type: ignore[misc]  # pymoo is untyped
    """All objectives of a whole population at once; remembers everything it was asked."""

    def __init__(self, space: Space, objectives: Sequence[Objective]) -> None:
        slots = len(space.encode(space.min()))
        super().__init__(n_var=slots, n_obj=len(objectives), vtype=int)
        self._objectives = objectives
        self.rows: list[Rows] = []
        self.values: list[Floats] = []

    def _evaluate(self, x: Rows, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        rows = x.astype(np.int64)
        out["F"] = np.column_stack([objective(rows) for objective in self._objectives])
        self.rows.append(rows)
        self.values.append(out["F"])


class _HalfAndHalf(InfillCriterion):  # type: ignore[misc]
    """Children of uniformly drawn parents: half by crossover, half by mutation, none twice."""

    def __init__(self, space: Space, p_mutation: float, rng: np.random.Generator) -> None:
        super().__init__(eliminate_duplicates=NoDuplicateElimination())
        self._space, self._p, self._rng = space, p_mutation, rng
        self._seen: set[bytes] = set()

    def _do(
        self, problem: Problem, pop: Population, n_offsprings: int, **kwargs: Any
    ) -> Population:
        rng, space = self._rng, self._space
        parents: Rows = pop.get("X").astype(np.int64)
        if not self._seen:
            self._seen.update(row.tobytes() for row in parents)
        half = -(-n_offsprings // 2)
        a, b = (parents[rng.integers(len(parents), size=half)] for _ in range(2))
        children = np.concatenate(
            [
                space.crossover_rows(a, b, rng),
                space.mutate_rows(parents[rng.integers(len(parents), size=half)], self._p, rng),
            ]
        )
        fresh = [row for row in children if self._is_new(row)]
        return Population.new(X=np.array(fresh[:n_offsprings]).reshape(-1, parents.shape[1]))

    def _is_new(self, row: Rows) -> bool:
        key = row.tobytes()
        new = key not in self._seen
        self._seen.add(key)
        return new
