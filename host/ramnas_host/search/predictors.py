"""Objectives and what is known of them -> predictions of all of them for a whole population."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ramnas_host.search import nsga2
from ramnas_host.search.front import Chosen
from ramnas_host.search.objectives import LATENCY, MACS, TOP1, Constraint, Known, Objective
from ramnas_host.surrogates import surrogate
from ramnas_models.errors import DataError
from ramnas_models.space import Arch, Space

if TYPE_CHECKING:
    from ramnas_host.search.nsga2 import Floats, Indices, Rows
    from ramnas_host.surrogates.surrogate import Score, Surrogate


class Predictors:
    """Columns are in the order of the objectives; values are to minimise (top-1 negative)."""

    def __init__(
        self,
        space: Space,
        known: Sequence[Known],
        constraints: Sequence[Constraint],
        boards: Mapping[tuple[str, str], Surrogate] = {},
    ) -> None:
        """`boards`: others' latencies by (device class, task), which the same task starts from."""
        self.space, self.boards = space, boards
        self.names = [one.objective.name for one in known]
        self.top1 = self.names.index(TOP1)
        self.signs = np.array([one.objective.sign for one in known])
        self.limits = np.full(len(known), np.inf)
        for constraint in constraints:
            i = self.names.index(constraint.objective)
            self.limits[i] = min(self.limits[i], self.signs[i] * constraint.limit)
        self.macs = surrogate.cost_table(space).macs
        self.fitted: dict[str, tuple[Surrogate, dict[str, Score]]] = {}
        self.truth: dict[str, Sequence[float]] = {}
        self.learn_costs(known)

    def learn_costs(self, known: Sequence[Known]) -> None:
        """Fit the costs anew on what is known of the same objectives now."""
        self.known = known
        for name, one in zip(self.names, known, strict=True):
            if one.archs:
                self._learn(
                    name, one.archs, one.values, log=True,
                    input_hw=one.objective.target.input_hw if one.objective.target else None,
                    priors=_others(one.objective, self.boards),
                )  # fmt: skip

    def learn_top1(self, archs: Sequence[Arch], truth: Sequence[float]) -> Floats:
        """Fit it anew; the cross-validated prediction of each arch."""
        return self._learn(TOP1, archs, truth, log=False).held_out

    def _learn(
        self, name: str, archs: Sequence[Arch], y: Sequence[float], *, log: bool,
        input_hw: tuple[int, int] | None = None, priors: Sequence[Surrogate] = (),
    ) -> Surrogate:  # fmt: skip
        try:
            rows = self.space.encode_all(archs)
            self.fitted[name] = surrogate.fit_best(
                self.space, rows, np.array(y), log=log, input_hw=input_hw, priors=priors
            )
        except DataError as error:
            raise DataError(f"objective {name}: {error}") from error
        self.truth[name] = y
        return self.fitted[name][0]

    @property
    def objectives(self) -> list[nsga2.Objective]:
        """Encodings -> values to minimise, of each."""
        return [self._minimised(i) for i in range(len(self.names))]

    def _minimised(self, i: int) -> nsga2.Objective:
        if self.names[i] == MACS:
            return self.macs
        predictor, sign = self.fitted[self.names[i]][0], self.signs[i]
        return lambda rows: sign * predictor.predict(rows)[0]

    def uncertainty(self, rows: Rows) -> Floats:
        """[n]: standard deviation of top-1, the objective that an evaluation tells."""
        std: Floats = self.fitted[TOP1][0].predict(rows)[1]
        return std

    def values(self, archs: Sequence[Arch], top1: Sequence[float]) -> Floats:
        """[n, m]: the true top-1, all else as predicted."""
        rows = self.space.encode_all(archs)
        columns = [
            -np.array(top1) if i == self.top1 else objective(rows)
            for i, objective in enumerate(self.objectives)
        ]
        return np.column_stack(columns)

    def scaled(self, values: Floats) -> Floats:
        """Costs in log, so that twice as much is as far everywhere."""
        scaled = values.copy()
        for i, name in enumerate(self.names):
            if name != TOP1:
                scaled[:, i] = np.log(np.maximum(values[:, i], 1e-12))
        return scaled

    def within(self, values: Floats) -> Indices:
        """Indices of the rows that meet all constraints."""
        return np.flatnonzero(nsga2.violation(values, self.limits) == 0)

    def chosen(self) -> dict[str, Chosen]:
        return {
            name: Chosen(
                best.family,
                scores,
                tuple(zip(self.truth[name], best.held_out.tolist(), strict=True)),
            )
            for name, (best, scores) in self.fitted.items()
        }


def _others(objective: Objective, boards: Mapping[tuple[str, str], Surrogate]) -> list[Surrogate]:
    """Of other device classes, the same task."""
    if objective.kind != LATENCY or objective.target is None:
        return []
    return [
        board
        for (device, task), board in boards.items()
        if device != objective.device_class and task == objective.target.task
    ]
