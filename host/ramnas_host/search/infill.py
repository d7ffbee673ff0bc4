"""Finds a front by rounds of search and true evaluations that improve the surrogates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pymoo.indicators.hv import HV

from ramnas_host.search import nsga2
from ramnas_host.search.front import FORMAT, Candidate, Front, ObjectiveValue, Settings
from ramnas_host.search.objectives import TOP1, Constraint, Observations, main_cost
from ramnas_host.search.predictors import Predictors
from ramnas_models.accuracy import share
from ramnas_models.errors import DataError
from ramnas_models.plan import plan
from ramnas_models.space import Arch, Space

if TYPE_CHECKING:
    from ramnas_host.search.nsga2 import Floats, Indices, Rows
    from ramnas_host.surrogates.surrogate import Surrogate

# The rounds end when the hypervolume has grown by less than MIN_GROWTH in PATIENCE rounds. A single
# round without gain is not the end, because the next one has learnt from what it tried in vain.
MIN_GROWTH, PATIENCE = 1e-3, 2


def find_front(
    space: Space,
    observations: Sequence[Observations],
    samples: Sequence[tuple[Arch, float]],
    evaluate: Callable[[Sequence[Arch]], Sequence[float]],
    settings: Settings,
    *,
    constraints: Sequence[Constraint] = (),
    prior_boards: Mapping[tuple[str, str], Surrogate] = {},
    most: int,
    images: int,
    dataset: str = "",
    measure: Callable[[Sequence[Arch]], Sequence[Observations]] | None = None,
    on_generation: Callable[[int], None] = lambda number: None,
) -> Front:
    """Fit surrogates to the `observations`, search, and keep at most `most` candidates.

    `samples` are archs with their true top-1, and `evaluate` gives the true top-1 of further ones.
    Both are on the selection split of `dataset`, which has `images` images.
    Each infill round evaluates at most `most` new archs, the most promising ones at every cost, and
    fits the surrogate of top-1 again. `measure`, if given, also has these archs measured; it
    returns all observations so far, to which the surrogates of the costs are then fitted again. The
    rounds end when the hypervolume of the evaluated archs no longer grows. Earlier hypervolumes are
    recomputed with the latest surrogates, so that all can be compared.

    The candidates are the non-dominated set by true top-1 and predicted costs. If they are fewer
    than `most` / 2, the next ranks follow: which of them is better, only a measurement can tell.

    For `prior_boards` see `Predictors`. `on_generation` is called with the number of generations
    done. DataError if no arch meets the `constraints`.
    """
    predictors = Predictors(space, observations, constraints, prior_boards)
    evaluated = dict(samples)
    cross_validated = _fit_top1(predictors, evaluated).tolist()
    expected = dict(zip(evaluated, cross_validated, strict=True))  # top-1, predicted unseen
    values = predictors.values(list(evaluated), list(evaluated.values()))
    hypervolume = _Hypervolume(predictors, values)
    hypervolumes, counts = [hypervolume(values)], [len(evaluated)]
    generation = 0

    def count(_: int) -> None:
        nonlocal generation
        generation += 1
        on_generation(generation)

    for number in range(settings.infill_rounds):
        rows, values = nsga2.search(
            space,
            predictors.functions,
            limits=predictors.limits,
            population=settings.population,
            parents=settings.parents,
            generations=settings.generations,
            p_mutation=settings.p_mutation,
            seed=settings.seed + number,
            on_generation=count,
        )
        promising = _promising(predictors, rows, values, list(evaluated), most)
        if not len(promising):
            break
        new = [space.decode(row) for row in rows[promising]]
        expected.update(zip(new, (-values[promising, predictors.top1]).tolist(), strict=True))
        evaluated.update(zip(new, evaluate(new), strict=True))
        _fit_top1(predictors, evaluated)
        if measure:
            predictors.learn_costs(measure(new))
        counts.append(len(evaluated))
        current = predictors.values(list(evaluated), list(evaluated.values()))
        hypervolumes = [hypervolume(current[:n]) for n in counts]
        if (
            number + 1 >= PATIENCE
            and hypervolumes[-1] <= (1 + MIN_GROWTH) * hypervolumes[-1 - PATIENCE]
        ):
            break
    return Front(
        format=FORMAT,
        space=space.name,
        space_hash=space.hash,
        objectives=tuple(predictors.objectives),
        constraints=tuple(constraints),
        surrogates=predictors.chosen_surrogates(),
        settings=settings,
        hypervolumes=tuple(hypervolumes),
        candidates=_candidates(predictors, evaluated, expected, values, most, images),
        dataset=dataset,
    )


def _fit_top1(predictors: Predictors, evaluated: Mapping[Arch, float]) -> Floats:
    return predictors.learn_top1(list(evaluated), list(evaluated.values()))


class _Hypervolume:
    """The hypervolume of the feasible archs, in units of the box around the samples' front.

    Costs are logarithmic. The box around all samples would be so large that a gain near the front
    would not show.
    """

    def __init__(self, predictors: Predictors, samples: Floats) -> None:
        front = predictors.scaled(samples[nsga2.non_dominated(samples)])
        all_extents = np.ptp(predictors.scaled(samples), axis=0)
        self._predictors, self._low = predictors, front.min(0)
        extents = np.ptp(front, axis=0)
        self._extents = np.maximum(np.where(extents > 0, extents, all_extents), 1e-12)
        self._indicator = HV(ref_point=np.full(samples.shape[1], 1.1))

    def __call__(self, values: Floats) -> float:
        feasible = values[self._predictors.feasible(values)]
        if not len(feasible):
            return 0.0
        front = feasible[nsga2.non_dominated(feasible)]
        return float(self._indicator((self._predictors.scaled(front) - self._low) / self._extents))


def _promising(
    predictors: Predictors, rows: Rows, values: Floats, evaluated: Sequence[Arch], most: int
) -> Indices:
    """Indices of at most `most` new feasible rows: the most promising one of each region of costs.

    The most promising arch has the highest mean + std of the predicted top-1, so that uncertainty
    counts in its favour. Every region is tried, also those that the surrogate takes for dominated,
    because otherwise a wrong surrogate would never be corrected there.
    """
    seen = nsga2.Seen(predictors.space)
    seen.fresh(predictors.space.encode_all(evaluated))
    new = np.intersect1d(seen.fresh(rows), predictors.feasible(values))
    if not len(new):
        return new
    costs = np.delete(predictors.scaled(values[new]), predictors.top1, axis=1)
    _, region = spread(costs, most)
    optimistic = -values[new, predictors.top1] + predictors.top1_std(rows[new])
    order = np.argsort(-optimistic, kind="stable")
    _, first = np.unique(region[order], return_index=True)
    return new[order[first]]


def spread(points: Floats, most: int) -> tuple[Indices, Indices]:
    """Choose at most `most` of the points [n, m] far from each other.

    The lowest point in each dimension comes first, and then always the point farthest from all
    chosen so far. Returns the indices of the chosen points, and for each of the n points which
    chosen one is nearest.
    """
    unit = (points - points.min(0)) / np.maximum(np.ptp(points, axis=0), 1e-12)
    centres: list[int] = []
    nearest, distance = np.zeros(len(points), dtype=np.intp), np.full(len(points), np.inf)
    lowest = unit.argmin(0).tolist()
    while len(centres) < most and distance.max() > 0:
        centre = lowest.pop(0) if lowest else int(distance.argmax())
        if distance[centre] > 0:
            to_centre = np.linalg.norm(unit - unit[centre], axis=1)
            nearest[to_centre < distance] = len(centres)
            distance = np.minimum(distance, to_centre)
            centres.append(centre)
    return np.array(centres, dtype=np.intp), nearest


def _candidates(
    predictors: Predictors,
    evaluated: Mapping[Arch, float],
    expected: Mapping[Arch, float],
    searched: Floats,
    most: int,
    images: int,
) -> tuple[Candidate, ...]:
    """The candidates of the front, cheapest first.

    `expected` is the top-1 that was predicted before the true one was known. `searched` are the
    values of the last search, for the error message.
    """
    archs = list(evaluated)
    values = predictors.values(archs, list(evaluated.values()))
    feasible = predictors.feasible(values)
    if not len(feasible):
        raise DataError(_nearest_feasible(predictors, np.concatenate([values, searched])))
    # close calls stay, because top-1 is counted on few images and all else is only predicted
    kept = feasible[:0]
    for rank in nsga2.ranks(values[feasible], most // 2):
        centres, _ = spread(predictors.scaled(values[feasible][rank]), most - len(kept))
        kept = np.concatenate([kept, feasible[rank][centres]])
    cost = predictors.names.index(main_cost(predictors.objectives).name)
    candidates = []
    for i in kept[np.argsort(values[kept, cost], kind="stable")].tolist():
        arch, predicted = archs[i], {}
        for name, observed, value in zip(
            predictors.names, predictors.observations, values[i].tolist(), strict=True
        ):
            p90 = None if observed.p90_ratio is None else value * observed.p90_ratio
            predicted[name] = ObjectiveValue(value, p90)
        predicted[TOP1] = ObjectiveValue(min(1.0, max(0.0, expected[arch])))
        costs = plan(predictors.space, arch)
        seen = share(TOP1, evaluated[arch], "selection", images)
        candidates.append(
            Candidate(
                arch, arch.id, costs.macs, predicted, macs_bn=costs.macs_bn, accuracies=(seen,)
            )
        )
    return tuple(candidates)


def _nearest_feasible(predictors: Predictors, values: Floats) -> str:
    """The error message for constraints that no arch meets, with looser ones that one arch meets.

    Both are written as on the command line, so that they can be copied.
    """
    best = values[nsga2.violation(values, predictors.limits).argmin()]
    asked, feasible = [], []
    for i in np.flatnonzero(np.isfinite(predictors.limits)).tolist():
        objective, limit = predictors.objectives[i], float(predictors.limits[i])
        sign = "<=" if objective.sign > 0 else ">="
        asked.append(f"{objective.name}{sign}{abs(limit):g}")
        feasible.append(f"{objective.name}{sign}{abs(_loosened(max(best[i], limit))):g}")
    return (
        f"no arch of space {predictors.space.name} meets {' and '.join(asked)}; the nearest "
        f"constraint that an arch meets: {' and '.join(feasible)}"
    )


def _loosened(value: float) -> float:
    """`value` rounded up to three significant digits, so that the printed limit can be met."""
    step = 10.0 ** (math.floor(math.log10(max(abs(value), 1e-12))) - 2)
    return math.ceil(value / step) * step
