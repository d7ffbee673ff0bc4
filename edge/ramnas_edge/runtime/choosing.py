"""The models of one or several tasks + what calls take here + a budget -> those to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

import msgspec

from ramnas_edge.runtime.combinations import Combination, staircase
from ramnas_models.bundle import Model
from ramnas_models.errors import BudgetError

if TYPE_CHECKING:
    from ramnas_edge.runtime.expected_latency import ExpectedLatencies


class Choice(msgspec.Struct, frozen=True):
    """The models picked for a budget, one a task; the p90 (ms) expected of a whole call; whence.

    None if there is no figure: nobody asked for a budget, and none was measured before.
    `calibrated`: by the profiler, here or by whoever made the bundle; else by a quick look. Of
    several tasks each is calibrated, and all together were given a quick look.
    """

    models: Tuple[Model, ...]
    p90_ms: Optional[float]
    source: str
    calibrated: bool

    @property
    def model(self) -> Model:
        """Of the first task."""
        return self.models[0]

    @property
    def expected(self) -> str:
        """In words."""
        return self.source if self.p90_ms is None else f"{self.p90_ms:.3g} ms, {self.source}"


def eligible(found: Sequence[Combination], figures: ExpectedLatencies) -> List[Combination]:
    """The combinations among which a budget chooses, fast to slow.

    Of one task all, in the order of its front. Of several their staircase: by the p90s measured
    together if all are known, else by the sum of the tasks' own, else by MACs. What is measured of
    some does not change the order of the others.
    """
    if all(len(one.models) == 1 for one in found):
        return [*found]
    together = [figures.known(one) for one in found]
    if all(together):
        return staircase(found, [figure.p90_ms for figure in together if figure])
    sums = [figures.sum_of_parts(one) for one in found]
    if None not in sums:
        return staircase(found, [ms for ms in sums if ms is not None])
    return staircase(found, [one.macs for one in found])


def choose(
    found: Sequence[Combination], figures: ExpectedLatencies, budget_ms: Optional[float]
) -> Choice:
    """The best of `found` (fast to slow) within the budget; BudgetError if none is.

    Where figures are missing, by bisection: of n about log2(n) are timed. Without a budget it is
    the best one, and nothing is timed.
    """
    if budget_ms is None:
        best = max(found, key=lambda one: one.value)
        known = figures.known(best)
        if known is None:
            return Choice(best.models, None, "the most accurate: no budget was named", False)
        return Choice(best.models, known.p90_ms, known.source, known.calibrated)
    asked = [one for one in found if figures.known(one)]
    if len(asked) < len(found):
        asked = _bisect(found, figures, budget_ms)
    p90_ms = [figures.get(one).p90_ms for one in asked]
    fits = [i for i, ms in enumerate(p90_ms) if ms <= budget_ms]
    if not fits:
        least = min(p90_ms)
        raise BudgetError(
            f"no model fits {budget_ms:g} ms: the fastest, {asked[p90_ms.index(least)].name}, has "
            f"a p90 of {least:.3g} ms here and misses by {least - budget_ms:.3g} ms; raise the "
            "budget or search for smaller models"
        )
    picked = asked[max(fits, key=lambda i: (asked[i].value, -p90_ms[i]))]
    figure = figures.get(picked)
    return Choice(picked.models, figure.p90_ms, figure.source, figure.calibrated)


def _bisect(
    found: Sequence[Combination], figures: ExpectedLatencies, budget_ms: float
) -> List[Combination]:
    """Those that were looked at for the last one, fast to slow, that fits."""
    low, high, asked = 0, len(found), []
    while low < high:
        middle = (low + high) // 2
        asked.append(found[middle])
        if figures.get(found[middle]).p90_ms <= budget_ms:
            low = middle + 1
        else:
            high = middle
    return asked


def ladder(
    found: Sequence[Combination], figures: ExpectedLatencies, chosen: Tuple[Model, ...]
) -> List[Tuple[Tuple[Model, ...], float]]:
    """`chosen`, and all others worth running, fast to slow, each with its p90.

    Each is better and slower than the one before. Where nobody timed it the p90 is estimated: the
    sum of the tasks' own, else it goes with the MACs, from the next smaller one that is known.
    """
    ms = [_known_or_summed(figures, one) for one in found]
    known = {one.macs: figure for one, figure in zip(found, ms) if figure is not None}
    steps: List[Tuple[Tuple[Model, ...], float]] = []
    best_first = sorted(zip(found, ms), key=lambda pair: pair[0].value, reverse=True)
    for one, figure in best_first:
        if figure is None:
            near = max((macs for macs in known if macs <= one.macs), default=min(known))
            figure = known[near] * one.macs / near
        if one.models == chosen or not steps or figure < steps[-1][1]:
            steps.append((one.models, figure))
    return steps[::-1]


def _known_or_summed(figures: ExpectedLatencies, one: Combination) -> Optional[float]:
    figure = figures.known(one)
    return figure.p90_ms if figure else figures.sum_of_parts(one)
