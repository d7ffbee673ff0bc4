"""The fronts of several tasks -> combinations of one model per task, and how good each is."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, List, Sequence, Tuple

import msgspec

from ramnas_models.bundle import Model

if TYPE_CHECKING:
    from ramnas_models.bundle import TaskFront

    Models = Tuple[Model, ...]  # one per task

UNKNOWN = -1.0  # the value of a model of unknown accuracy, below all others


class Combination(msgspec.Struct, frozen=True):
    """One model per task, which run on the same frames.

    `value` is the mean over the tasks of accuracy / best accuracy of that task's front. A model of
    unknown accuracy enters the mean as UNKNOWN.
    """

    models: Tuple[Model, ...]
    value: float

    @property
    def name(self) -> str:
        return " + ".join(model.name for model in self.models)

    @property
    def macs(self) -> int:
        return sum(model.cost.macs for model in self.models)


def combinations(fronts: Sequence[TaskFront]) -> List[Combination]:
    """Return all combinations; for a single front, its models in their order."""
    best = [
        max((model.accuracy.value for model in front.models if model.accuracy), default=0.0)
        for front in fronts
    ]

    def value(models: Sequence[Model]) -> float:
        shares = [_share(model, top) for model, top in zip(models, best)]
        return sum(shares) / len(shares)

    return [
        Combination(models, value(models))
        for models in itertools.product(*(front.models for front in fronts))
    ]


def staircase(combinations: Sequence[Combination], costs: Sequence[float]) -> List[Combination]:
    """Keep each combination that is better than all that cost no more; ordered by cost."""
    steps: List[Combination] = []
    by_cost = sorted(zip(costs, combinations), key=lambda pair: (pair[0], -pair[1].value))
    for _, combination in by_cost:
        if not steps or combination.value > steps[-1].value:
            steps.append(combination)
    return steps


def _share(model: Model, best: float) -> float:
    if model.accuracy is None:
        return UNKNOWN
    return model.accuracy.value / best if best else 1.0  # all accuracies are 0, so all are equal
