"""Surrogates -> search -> true evaluations -> better surrogates, until the front grows no more."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pymoo.indicators.hv import HV

from ramnas_host.search import nsga2
from ramnas_host.search.front import FORMAT, Candidate, Front, ObjectiveValue, Settings
from ramnas_host.search.objectives import TOP1, Constraint, Known, cost_of
from ramnas_host.search.predictors import Predictors
from ramnas_models.errors import DataError
from ramnas_models.space import Arch, Space

if TYPE_CHECKING:
    from ramnas_host.search.nsga2 import Floats, Indices, Rows
    from ramnas_host.surrogates.surrogate import Surrogate

# the hypervolume has stopped growing: by less than this in so many rounds; what one round tries in
# vain the next one has learnt from
MIN_GROWTH, PATIENCE = 1e-3, 2


def find(
    space: Space,
    known: Sequence[Known],
    samples: Sequence[tuple[Arch, float]],
    evaluate: Callable[[Sequence[Arch]], Sequence[float]],
    settings: Settings,
    *,
    constraints: Sequence[Constraint] = (),
    boards: Mapping[tuple[str, str], Surrogate] = {},
    most: int,
    measure: Callable[[Sequence[Arch]], Sequence[Known]] | None = None,
    on_generation: Callable[[int], None] = lambda number: None,
) -> Front:
    """Fit surrogates on what is `known`, search, and keep at most `most` candidates.

    `samples` are archs with their true top-1, `evaluate` gives that of others. Each infill round
    tries at most `most` new archs, the most promising at all costs, and the surrogate of top-1
    learns from them; with `measure`, which has them measured and gives what is known of all
    objectives then, so do those of the costs. The rounds end when the hypervolume of all tried,
    before each by what is known now, grows no more.
    Kept is the non-dominated set, by true top-1 and all else predicted, and the next ranks until
    there are `most` / 2: which of them is better only a measurement can tell. DataError if no arch
    meets the `constraints`. `boards`: measured before, see `Predictors`. `on_generation` hears
    how many generations are done.
    """
    predictors = Predictors(space, known, constraints, boards)
    true = dict(samples)
    predicted = dict(zip(true, _learn(predictors, true).tolist(), strict=True))
    reached = predictors.values(list(true), list(true.values()))
    volume = _Hypervolume(predictors, reached)
    volumes, tried = [volume(reached)], [len(true)]
    generation = 0

    def count(_: int) -> None:
        nonlocal generation
        generation += 1
        on_generation(generation)

    for number in range(settings.infill_rounds):
        rows, reached = nsga2.search(
            space,
            predictors.objectives,
            limits=predictors.limits,
            population=settings.population,
            parents=settings.parents,
            generations=settings.generations,
            p_mutation=settings.p_mutation,
            seed=settings.seed + number,
            on_generation=count,
        )
        chosen = _promising(predictors, rows, reached, list(true), most)
        if not len(chosen):
            break
        new = [space.decode(row) for row in rows[chosen]]
        predicted.update(zip(new, (-reached[chosen, predictors.top1]).tolist(), strict=True))
        true.update(zip(new, evaluate(new), strict=True))
        _learn(predictors, true)
        if measure:
            predictors.learn_costs(measure(new))
        tried.append(len(true))
        values = predictors.values(list(true), list(true.values()))
        volumes = [volume(values[:n]) for n in tried]
        if number + 1 >= PATIENCE and volumes[-1] <= (1 + MIN_GROWTH) * volumes[-1 - PATIENCE]:
            break
    return Front(
        format=FORMAT,
        space=space.name,
        space_hash=space.hash,
        objectives=tuple(one.objective for one in predictors.known),
        constraints=tuple(constraints),
        surrogates=predictors.chosen(),
        settings=settings,
        hypervolumes=tuple(volumes),
        candidates=_front_candidates(predictors, true, predicted, reached, most),
    )


def _learn(predictors: Predictors, true: Mapping[Arch, float]) -> Floats:
    return predictors.learn_top1(list(true), list(true.values()))


class _Hypervolume:
    """Of what meets the constraints, in units of the box around the samples' front (costs in log).

    The box of all samples would be so large that what is gained near the front does not show.
    """

    def __init__(self, predictors: Predictors, samples: Floats) -> None:
        front = predictors.scaled(samples[nsga2.non_dominated(samples)])
        everything = np.ptp(predictors.scaled(samples), axis=0)
        self._predictors, self._low = predictors, front.min(0)
        extent = np.ptp(front, axis=0)
        self._range = np.maximum(np.where(extent > 0, extent, everything), 1e-12)
        self._indicator = HV(ref_point=np.full(samples.shape[1], 1.1))

    def __call__(self, values: Floats) -> float:
        feasible = values[self._predictors.within(values)]
        if not len(feasible):
            return 0.0
        front = feasible[nsga2.non_dominated(feasible)]
        return float(self._indicator((self._predictors.scaled(front) - self._low) / self._range))


def _promising(
    predictors: Predictors, rows: Rows, values: Floats, tried: Sequence[Arch], most: int
) -> Indices:
    """Indices of at most `most` new rows: of each part of the costs the most promising one.

    That is the best top-1 that may be (mean + std), so that doubt counts for an arch. All parts of
    the costs are tried: what a wrong surrogate takes for dominated is never corrected otherwise.
    """
    seen = nsga2.Seen(predictors.space)
    seen.fresh(predictors.space.encode_all(tried))
    fresh = np.intersect1d(seen.fresh(rows), predictors.within(values))
    if not len(fresh):
        return fresh
    costs = np.delete(predictors.scaled(values[fresh]), predictors.top1, axis=1)
    _, part = spread(costs, most)
    may_be = -values[fresh, predictors.top1] + predictors.uncertainty(rows[fresh])
    order = np.argsort(-may_be, kind="stable")
    _, first = np.unique(part[order], return_index=True)
    return fresh[order[first]]


def spread(points: Floats, most: int) -> tuple[Indices, Indices]:
    """At most `most` of the points [n, m], far from each other, and which is nearest to each [n].

    The lowest in each dimension come first, then always the farthest from all so far.
    """
    unit = (points - points.min(0)) / np.maximum(np.ptp(points, axis=0), 1e-12)
    centres: list[int] = []
    nearest, distance = np.zeros(len(points), dtype=np.intp), np.full(len(points), np.inf)
    lowest = unit.argmin(0).tolist()
    while len(centres) < most and distance.max() > 0:
        chosen = lowest.pop(0) if lowest else int(distance.argmax())
        if distance[chosen] > 0:
            away = np.linalg.norm(unit - unit[chosen], axis=1)
            nearest[away < distance] = len(centres)
            distance = np.minimum(distance, away)
            centres.append(chosen)
    return np.array(centres, dtype=np.intp), nearest


def _front_candidates(
    predictors: Predictors,
    true: Mapping[Arch, float],
    expected: Mapping[Arch, float],
    reached: Floats,
    most: int,
) -> tuple[Candidate, ...]:
    archs = list(true)
    values = predictors.values(archs, list(true.values()))
    within = predictors.within(values)
    if not len(within):
        raise DataError(_nearest(predictors, np.concatenate([values, reached])))
    # top-1 is counted on few images and all else predicted: close calls stay
    kept = within[:0]
    for rank in nsga2.ranks(values[within], most // 2):
        centres, _ = spread(predictors.scaled(values[within][rank]), most - len(kept))
        kept = np.concatenate([kept, within[rank][centres]])
    cost = predictors.names.index(cost_of([one.objective for one in predictors.known]).name)
    found = []
    for i in kept[np.argsort(values[kept, cost], kind="stable")].tolist():
        arch, predicted = archs[i], {}
        for name, one, value in zip(
            predictors.names, predictors.known, values[i].tolist(), strict=True
        ):
            p90 = None if one.p90_ratio is None else value * one.p90_ratio
            predicted[name] = ObjectiveValue(value, p90)
        predicted[TOP1] = ObjectiveValue(min(1.0, max(0.0, expected[arch])))
        macs = int(predictors.macs(predictors.space.encode(arch)[None])[0])
        found.append(Candidate(arch, arch.id, macs, predicted))
    return tuple(found)


def _nearest(predictors: Predictors, values: Floats) -> str:
    """What to say where no arch meets the constraints."""
    best = values[nsga2.violation(values, predictors.limits).argmin()]
    wanted, nearest = [], []
    for i in np.flatnonzero(np.isfinite(predictors.limits)).tolist():
        objective = predictors.known[i].objective
        sign = "<=" if objective.sign > 0 else ">="
        wanted.append(f"{objective.name}{sign}{abs(predictors.limits[i]):g}")
        nearest.append(
            f"{objective.name}{sign}{abs(_loosened(max(best[i], predictors.limits[i]))):g}"
        )
    return (
        f"no arch of space {predictors.space.name} meets {' and '.join(wanted)}; the nearest "
        f"feasible value: {' and '.join(nearest)}"
    )


def _loosened(value: float) -> float:
    """Up to the next number of three digits, so that it is feasible as it is written."""
    step = 10.0 ** (math.floor(math.log10(max(abs(value), 1e-12))) - 2)
    return math.ceil(value / step) * step
