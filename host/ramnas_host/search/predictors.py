"""Fits a surrogate to the observations of each objective and predicts whole populations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ramnas_host.search import nsga2
from ramnas_host.search.front import ChosenSurrogate
from ramnas_host.search.labels import labels_of
from ramnas_host.search.objectives import (
    LATENCY,
    MACS,
    TOP1,
    Constraint,
    Objective,
    Observations,
)
from ramnas_host.surrogates import surrogate
from ramnas_models.errors import DataError
from ramnas_models.space import Arch, Space

if TYPE_CHECKING:
    from ramnas_host.search.nsga2 import Floats, Indices, Rows
    from ramnas_host.surrogates.surrogate import Score, Surrogate


class Predictors:
    """The predictors of all objectives, in the order of the objectives.

    Arrays of values [n, m] have a column for each objective and are to be minimised, so that top-1
    is negative in them.
    """

    def __init__(
        self,
        space: Space,
        observations: Sequence[Observations],
        constraints: Sequence[Constraint],
        prior_boards: Mapping[tuple[str, str], Surrogate] = {},
    ) -> None:
        """`prior_boards` are latency surrogates of other boards by (device class, task).

        The latency of a task starts from those for the same task.
        """
        self.space, self.prior_boards = space, prior_boards
        self.names = [one.objective.name for one in observations]
        self.top1 = self.names.index(TOP1)
        self.signs = np.array([one.objective.sign for one in observations])
        self.limits = np.full(len(observations), np.inf)
        for constraint in constraints:
            i = self.names.index(constraint.objective)
            self.limits[i] = min(self.limits[i], self.signs[i] * constraint.limit)
        self.macs = surrogate.cost_table(space).macs
        self.fitted: dict[str, tuple[Surrogate, dict[str, Score]]] = {}
        self.truth: dict[str, Sequence[float]] = {}
        self.learn_costs(observations)

    def learn_costs(self, observations: Sequence[Observations]) -> None:
        """Fit the costs again, to new observations of the same objectives in the same order."""
        self.observations = observations
        for one in observations:
            if one.archs:
                self._fit(
                    one.objective, one.archs, one.values, log=True,
                    input_hw=one.objective.target.input_hw if one.objective.target else None,
                    priors=_same_task(self.prior_boards, one.objective), floor_ms=one.floor_ms,
                )  # fmt: skip

    def learn_top1(self, archs: Sequence[Arch], truth: Sequence[float]) -> Floats:
        """Fit top-1 again; returns the cross-validated prediction of each arch, [n]."""
        return self._fit(self.objectives[self.top1], archs, truth, log=False).held_out

    def _fit(
        self, objective: Objective, archs: Sequence[Arch], y: Sequence[float], *, log: bool,
        input_hw: tuple[int, int] | None = None, priors: Sequence[Surrogate] = (),
        floor_ms: float | None = None,
    ) -> Surrogate:  # fmt: skip
        try:
            self.fitted[objective.name] = surrogate.fit_best(
                self.space, self.space.encode_all(archs), np.array(y), log=log,
                input_hw=input_hw, priors=priors, floor_ms=floor_ms,
            )  # fmt: skip
        except DataError as error:
            label = labels_of([objective]).objectives[objective.name]
            raise DataError(f"{label}: {error}") from error
        self.truth[objective.name] = y
        return self.fitted[objective.name][0]

    @property
    def objectives(self) -> list[Objective]:
        """The objectives, in the order of the columns."""
        return [one.objective for one in self.observations]

    @property
    def functions(self) -> list[nsga2.Objective]:
        """For each objective a function from encodings to predicted values to minimise."""
        return [self._function(i) for i in range(len(self.names))]

    def _function(self, i: int) -> nsga2.Objective:
        if self.names[i] == MACS:
            return self.macs
        predictor, sign = self.fitted[self.names[i]][0], self.signs[i]
        return lambda rows: sign * predictor.predict(rows)[0]

    def top1_std(self, rows: Rows) -> Floats:
        """The standard deviation [n] of the predicted top-1."""
        std: Floats = self.fitted[TOP1][0].predict(rows)[1]
        return std

    def values(self, archs: Sequence[Arch], top1: Sequence[float]) -> Floats:
        """Values [n, m] of archs whose true top-1 is known; the other objectives are predicted."""
        rows = self.space.encode_all(archs)
        columns = [
            -np.array(top1) if i == self.top1 else function(rows)
            for i, function in enumerate(self.functions)
        ]
        return np.column_stack(columns)

    def scaled(self, values: Floats) -> Floats:
        """Values [n, m] with logarithmic costs: equal ratios of a cost become equal distances."""
        scaled = values.copy()
        for i, name in enumerate(self.names):
            if name != TOP1:
                scaled[:, i] = np.log(np.maximum(values[:, i], 1e-12))
        return scaled

    def feasible(self, values: Floats) -> Indices:
        """Indices of the rows of `values` [n, m] that meet all constraints."""
        return np.flatnonzero(nsga2.violation(values, self.limits) == 0)

    def chosen_surrogates(self) -> dict[str, ChosenSurrogate]:
        """What the front file says about the surrogate of each objective."""
        return {
            name: ChosenSurrogate(
                best.family,
                scores,
                tuple(zip(self.truth[name], best.held_out.tolist(), strict=True)),
            )
            for name, (best, scores) in self.fitted.items()
        }


def _same_task(
    boards: Mapping[tuple[str, str], Surrogate], objective: Objective
) -> list[Surrogate]:
    """The surrogates of other device classes for the task of a latency; none for other kinds."""
    if objective.kind != LATENCY or objective.target is None:
        return []
    return [
        board
        for (device_class, task), board in boards.items()
        if device_class != objective.device_class and task == objective.target.task
    ]
