"""The fronts of several tasks -> combinations of one model each, and how good each is."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, List, Sequence, Tuple

import msgspec

from ramnas_models.bundle import Model

if TYPE_CHECKING:
    from ramnas_models.bundle import TaskFront

    Models = Tuple[Model, ...]  # one a task

UNKNOWN = -1.0  # a model of unknown accuracy comes last


class Combination(msgspec.Struct, frozen=True):
    """One model a task.

    `value`: the mean over the tasks of accuracy / best accuracy of that front, UNKNOWN for a model
    of unknown accuracy.
    """

    models: Tuple[Model, ...]
    value: float

    @property
    def name(self) -> str:
        return " + ".join(model.arch_id for model in self.models)

    @property
    def macs(self) -> int:
        return sum(model.cost.macs for model in self.models)


def combinations(fronts: Sequence[TaskFront]) -> List[Combination]:
    """All of them; of one front its models, in its order."""
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


def staircase(found: Sequence[Combination], costs: Sequence[float]) -> List[Combination]:
    """Those that are better than all that cost no more, by cost."""
    stairs: List[Combination] = []
    for _, one in sorted(zip(costs, found), key=lambda pair: (pair[0], -pair[1].value)):
        if not stairs or one.value > stairs[-1].value:
            stairs.append(one)
    return stairs


def _share(model: Model, best: float) -> float:
    if model.accuracy is None:
        return UNKNOWN
    return model.accuracy.value / best if best else 1.0  # all are equally bad
