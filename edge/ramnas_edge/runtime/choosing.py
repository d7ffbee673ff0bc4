"""Combinations of models, what their calls take here, and a budget -> the models to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

import msgspec

from ramnas_edge.runtime.combinations import Combination, staircase
from ramnas_models.bundle import Model
from ramnas_models.errors import BudgetError

if TYPE_CHECKING:
    from ramnas_edge.runtime.expected_latency import ExpectedLatencies


class Choice(msgspec.Struct, frozen=True):
    """The models chosen for a budget, one per task, and the latency expected of them.

    `p90_ms` is the expected p90 of a whole call, and `source` says in words where that figure came
    from. `p90_ms` is None if there is no figure: then no budget was given, and these models had not
    been measured before. `calibrated` means that the profiler measured the models, here or for the
    bundle. Otherwise the figure comes from a quick timing. Models of several tasks are calibrated
    one by one, but the figure for all of them together always comes from a quick timing.

    `why` says in words why these models were chosen.
    """

    models: Tuple[Model, ...]
    p90_ms: Optional[float]
    source: str
    calibrated: bool
    why: str

    @property
    def model(self) -> Model:
        """The model of the first task."""
        return self.models[0]

    @property
    def expected(self) -> str:
        """The expected p90 and its source, as a phrase."""
        figure = "" if self.p90_ms is None else f"{self.p90_ms:.3g} ms, "
        return f"expected p90 {figure}{self.source}"

    @property
    def sentence(self) -> str:
        """Which models were chosen and why, and the latency expected of them."""
        names = " + ".join(model.name for model in self.models)
        return f"model{'s' if len(self.models) > 1 else ''} {names} ({self.why}): {self.expected}"


def eligible(
    combinations: Sequence[Combination], latencies: ExpectedLatencies
) -> List[Combination]:
    """Return the combinations among which a budget chooses, fast to slow.

    For one task these are all models, in the order of its front. For several tasks it is the
    staircase of the combinations. The cost is the p90 of all models together if it is known for
    every combination. Otherwise it is the sum of the models' own p90s if all are known, and else
    the MACs. One measure is used for all, so that measuring some combinations does not reorder
    the others.
    """
    if all(len(combination.models) == 1 for combination in combinations):
        return [*combinations]
    together = [latencies.known(combination) for combination in combinations]
    if all(together):
        return staircase(combinations, [latency.p90_ms for latency in together if latency])
    sums = [latencies.sum_of_parts(combination) for combination in combinations]
    if None not in sums:
        return staircase(combinations, [ms for ms in sums if ms is not None])
    return staircase(combinations, [combination.macs for combination in combinations])


def choose(
    candidates: Sequence[Combination], latencies: ExpectedLatencies, budget_ms: Optional[float]
) -> Choice:
    """Choose the best of `candidates` (fast to slow) whose p90 is within the budget.

    Where latencies are missing, it bisects, so that at most about log2(n) of n candidates are
    timed. A candidate that is no better than a faster one is not looked at then. Without a budget
    the best candidate is chosen and nothing is timed. BudgetError if none fits.
    """
    if budget_ms is None:
        best = max(candidates, key=lambda candidate: candidate.value)
        why, known = _why(best, candidates, budget_ms), latencies.known(best)
        if known is None:
            source = "unknown, because nothing is timed without a latency budget"
            return Choice(best.models, None, source, False, why)
        return Choice(best.models, known.p90_ms, known.source, known.calibrated, why)
    considered = [candidate for candidate in candidates if latencies.known(candidate)]
    if len(considered) < len(candidates):
        better = staircase(candidates, range(len(candidates)))
        considered = _bisect(better, latencies, budget_ms)
    p90_ms = [latencies.get(candidate).p90_ms for candidate in considered]
    fits = [i for i, ms in enumerate(p90_ms) if ms <= budget_ms]
    if not fits:
        least = min(p90_ms)
        raise BudgetError(
            f"no model fits {budget_ms:g} ms: the fastest, {considered[p90_ms.index(least)].name}, "
            f"has a p90 of {least:.3g} ms here and misses by {least - budget_ms:.3g} ms; raise the "
            "budget or search for smaller models"
        )
    chosen = considered[max(fits, key=lambda i: (considered[i].value, -p90_ms[i]))]
    latency = latencies.get(chosen)
    why = _why(chosen, candidates, budget_ms)
    return Choice(chosen.models, latency.p90_ms, latency.source, latency.calibrated, why)


def _why(chosen: Combination, candidates: Sequence[Combination], budget_ms: Optional[float]) -> str:
    """Why `chosen` was taken from `candidates`, as a phrase."""
    within = "" if budget_ms is None else f" within {budget_ms:g} ms"
    if len(candidates) == 1:
        return f"the only choice{',' if within else ''}{within}"
    if all(model.accuracy is None for model in chosen.models):
        return f"the fastest{within}, because its accuracy is unknown"
    published = any(model.accuracy and model.accuracy.source for model in chosen.models)
    best = "the most accurate by published figures" if published else "the most accurate"
    return f"{best}{within or ', because no latency budget was given'}"


def _bisect(
    candidates: Sequence[Combination], latencies: ExpectedLatencies, budget_ms: float
) -> List[Combination]:
    """Search for the last candidate that fits; return all candidates that it looked at."""
    low, high, considered = 0, len(candidates), []
    while low < high:
        middle = (low + high) // 2
        considered.append(candidates[middle])
        if latencies.get(candidates[middle]).p90_ms <= budget_ms:
            low = middle + 1
        else:
            high = middle
    return considered


def ladder(
    candidates: Sequence[Combination], latencies: ExpectedLatencies, chosen: Tuple[Model, ...]
) -> List[Tuple[Tuple[Model, ...], float]]:
    """Return the models that policy `adaptive` may switch between, fast to slow, with their p90s.

    Besides `chosen`, a candidate is on the ladder if no better one is as fast. An unknown p90 is
    estimated as the sum of the models' own p90s. If these are unknown too, the p90 of another
    candidate is scaled by the MACs: the largest known one that has no more MACs, or the smallest
    known one.
    """
    known_ms = [_known_or_summed(latencies, candidate) for candidate in candidates]
    by_macs = {c.macs: ms for c, ms in zip(candidates, known_ms) if ms is not None}
    steps: List[Tuple[Tuple[Model, ...], float]] = []
    best_first = sorted(zip(candidates, known_ms), key=lambda pair: pair[0].value, reverse=True)
    for candidate, ms in best_first:
        if ms is None:
            near = max((macs for macs in by_macs if macs <= candidate.macs), default=min(by_macs))
            ms = by_macs[near] * candidate.macs / near
        if candidate.models == chosen or not steps or ms < steps[-1][1]:
            steps.append((candidate.models, ms))
    return steps[::-1]


def _known_or_summed(latencies: ExpectedLatencies, candidate: Combination) -> Optional[float]:
    latency = latencies.known(candidate)
    return latency.p90_ms if latency else latencies.sum_of_parts(candidate)
