"""Algorithm 1 at the paper's scale, against pymoo's own NSGA-II and against random archs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.indicators.hv import HV
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize

from ramnas_host.search.nsga2 import non_dominated, search
from ramnas_host.surrogates import surrogate
from ramnas_models.plan import plan
from ramnas_models.sampling import sample_by_macs
from ramnas_models.space import Space, load_space

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]
    Floats = NDArray[np.float64]

RECORDS, POPULATION, GENERATIONS = 500, 5120, 30


class Objectives:
    """Two surrogates, latency and top-1, that add up their seconds and keep all they predicted."""

    def __init__(self, space: Space) -> None:
        rng = np.random.default_rng(0)
        archs = sample_by_macs(space, rng, RECORDS)
        rows = space.encode_all(archs)
        plans = [plan(space, arch) for arch in archs]
        ms = np.array([0.2 * len(p.blocks) + p.macs / 1e8 + p.activations / 1e6 for p in plans])
        top1 = 0.82 - 0.3 * np.array([p.macs / 1e6 for p in plans]) ** -0.4
        top1 += 0.004 * rng.normal(size=len(rows)) + 0.01 * (rows[:, -7:].mean(1) / 6)
        noise = np.exp(rng.normal(0, 0.02, len(rows)))
        self._ms, self.ms_scores = surrogate.fit_best(space, rows, ms * noise, log=True)
        self._top1, self.top1_scores = surrogate.fit_best(space, rows, top1, log=False)
        self.families = (self._ms.family, self._top1.family)
        self.start()

    def start(self) -> None:
        self.seconds, self.values = 0.0, [np.empty((0, 2))]

    def __call__(self, rows: Rows) -> Floats:
        start = time.perf_counter()
        found = np.column_stack([self._ms.predict(rows)[0], -self._top1.predict(rows)[0]])
        self.seconds += time.perf_counter() - start
        self.values.append(found)
        return found

    def front(self) -> Floats:
        """The non-dominated values among all predictions since `start`."""
        values = np.concatenate(self.values)
        return values[non_dominated(values)]


class _Problem(Problem):  # type: ignore[misc]  # pymoo is untyped
    """The objectives as a problem of pymoo: its variables are indices into each slot's choices."""

    def __init__(self, space: Space, objectives: Objectives) -> None:
        sample = space.sample_rows(20_000, np.random.default_rng(0))
        self._choices = [np.unique(column) for column in sample.T]
        counts = np.array([len(choices) for choices in self._choices])
        super().__init__(n_var=len(counts), n_obj=2, xl=0 * counts, xu=counts - 1, vtype=int)
        self._objectives = objectives

    def _evaluate(self, x: Rows, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        rows = np.column_stack([c[column] for c, column in zip(self._choices, x.T, strict=True)])
        out["F"] = self._objectives(rows)


def ours(space: Space, objectives: Objectives, population: int) -> None:
    """Run our search.

    One call gives both columns: the second objective reads what the first one stored.
    """
    last: list[Floats] = []

    def ms(rows: Rows) -> Floats:
        last[:] = [objectives(rows)]
        return last[0][:, 0]

    search(
        space,
        [ms, lambda rows: last[0][:, 1]],
        population=population,
        parents=population // 2,
        generations=GENERATIONS,
    )


def stock(space: Space, objectives: Objectives, population: int) -> None:
    """Run pymoo's NSGA-II as its documentation sets it up for integers, without duplicates."""
    algorithm = NSGA2(
        pop_size=population // 2,
        n_offsprings=population,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    minimize(_Problem(space, objectives), algorithm, ("n_gen", GENERATIONS), seed=0)


def _timed(
    call: Callable[[Space, Objectives, int], None],
    space: Space,
    objectives: Objectives,
    population: int,
) -> tuple[float, float, Floats]:
    """Seconds in total, seconds outside the objectives, and the front."""
    objectives.start()
    start = time.perf_counter()
    call(space, objectives, population)
    total = time.perf_counter() - start
    return total, total - objectives.seconds, objectives.front()


def _random_front(space: Space, objectives: Objectives, n: int, seed: int) -> Floats:
    objectives.start()
    rng = np.random.default_rng(seed)
    for done in range(0, n, POPULATION):
        objectives(space.sample_rows(min(POPULATION, n - done), rng))
    return objectives.front()


def run(random_archs: int = 1_000_000) -> dict[str, object]:
    """Compare them on space `table1`.

    Hypervolumes are taken in the box around all fronts together, with the logarithm of the costs.
    """
    space = load_space("table1")
    start = time.perf_counter()
    objectives = Objectives(space)
    fit_s = time.perf_counter() - start
    total_s, outside_s, found = _timed(ours, space, objectives, POPULATION)
    peer_total_s, peer_outside_s, peer = _timed(stock, space, objectives, POPULATION)
    as_many = _random_front(space, objectives, POPULATION * GENERATIONS, 1)
    many = _random_front(space, objectives, random_archs, 2)
    fronts = [np.column_stack([np.log(f[:, 0]), f[:, 1]]) for f in (found, peer, as_many, many)]
    low, high = (getattr(np.concatenate(fronts), side)(0) for side in ("min", "max"))
    volume = HV(ref_point=np.array([1.1, 1.1]))
    of_ours, *others = (float(volume((f - low) / (high - low))) for f in fronts)
    growth = {p: round(_timed(ours, space, objectives, p)[1], 2) for p in (1280, 2560, 5120, 10240)}
    return {
        "fit_two_surrogates_s": fit_s,
        "surrogates": " and ".join(objectives.families),
        "ours_total_s": total_s,
        "ours_outside_objectives_s": outside_s,
        "pymoo_total_s": peer_total_s,
        "pymoo_outside_objectives_s": peer_outside_s,
        "times_faster_outside_objectives": peer_outside_s / outside_s,
        "hypervolume_over_pymoo": of_ours / others[0],
        "hypervolume_over_as_many_random": of_ours / others[1],
        f"hypervolume_over_{random_archs}_random": of_ours / others[2],
        "outside_objectives_s_by_population": ", ".join(f"{p}: {s}" for p, s in growth.items()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random-archs", type=int, default=1_000_000)
    for key, value in run(parser.parse_args().random_archs).items():
        print(f"{key}: {value}")
