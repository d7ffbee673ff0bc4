"""Encodings -> latency, energy or accuracy: a Gaussian process over what each part costs.

A latency is a sum, because every layer takes its time: f = w . c, with c the costs of the parts.
The process works on logarithms. Relative to a first guess b, log f = log b + f / b - 1 + ..., which
is nearly linear in c / b. So the process learns log(y / b) from c / b. The guess b is the best
non-negative weighted sum of a few totals.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ramnas_host.surrogates.costs import Costs
from ramnas_host.surrogates.robust_gp import MOSTLY_NOISE, PRIOR, Inputs, RobustGp
from ramnas_models.cost_table import COSTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]


class Predictor(Protocol):
    """Anything that predicts a log latency: encodings [n, slots] -> mean [n] and std [n]."""

    def predict(self, rows: Rows) -> tuple[Floats, Floats]: ...


class Process(Predictor, Protocol):
    """A predictor that can be fitted again."""

    def fit(self, rows: Rows, y: Floats) -> Predictor: ...


class CostGp:
    """Predicts log latencies or log energies from the costs of an arch's parts.

    With `others`, predictors of other boards, the first guess is a weighted sum of their
    predictions alone, and the process learns only what they leave unexplained. Its variances then
    start small, so that a few noisy records are not mistaken for structure.

    The noise of a record is relative to its latency, and beside that there is a floor of a fixed
    number of milliseconds. `floor_ms` is its standard deviation where it was measured
    (`noise_floor.py`); otherwise it is learnt from the records.
    """

    def __init__(
        self, costs: Costs, others: Sequence[Predictor] = (), floor_ms: float | None = None
    ) -> None:
        self._table, self._others, self._floor_ms = costs, others, floor_ms

    def fit(self, rows: Rows, y: Floats) -> CostGp:
        """Learn from encodings [n, slots] and log targets [n]."""
        parts, totals = self._costs(rows)
        columns, own = range(totals.shape[1]), totals.shape[1] - len(self._others)
        guessing = [0, *columns[own:]] if self._others else list(columns)
        self._weights = np.zeros(totals.shape[1])
        self._weights[guessing] = first_guess(totals[:, guessing], np.exp(y))
        guess = totals @ self._weights
        parts, totals = parts / guess[:, None, None], totals / guess[:, None]
        # A common scale: all parts of one kind of cost add up to 1 on average, and so does each
        # total.
        self._scale = np.maximum(parts.sum(2).mean(0), 1e-30)[:, None]
        self._totals_scale = np.maximum(totals.mean(0), 1e-30)
        self._mean = parts.mean(0) / self._scale
        self._typical = float(np.median(guess))
        gp = RobustGp(MOSTLY_NOISE if self._others else PRIOR)
        self._gp = gp.fit(
            self._relative(parts, totals, rows, guess), y - np.log(guess),
            guessed=int(np.count_nonzero(self._weights)),
            floor=None if self._floor_ms is None else self._floor_ms / self._typical,
        )  # fmt: skip
        self._rows, self._y = rows, y
        return self

    def predict(self, rows: Rows) -> tuple[Floats, Floats]:
        """Mean and standard deviation [n] of a new measurement of the log target."""
        parts, totals = self._costs(rows)
        guess = totals @ self._weights
        parts, totals = parts / guess[:, None, None], totals / guess[:, None]
        mean, std = self._gp.predict(self._relative(parts, totals, rows, guess))
        return mean + np.log(guess), std

    def held_out(self, folds: Sequence[Indices]) -> Floats:
        """Each log target [n] as predicted by a process that was fitted without its fold."""
        return refitted(self, self._rows, self._y, folds)

    def _costs(self, rows: Rows) -> tuple[Floats, Floats]:
        """Parts [n, costs, columns] and totals [n, 1 + costs + others].

        The first total is 1 for every arch: it stands for what a call costs by itself.
        """
        costs = self._table(rows).transpose(2, 0, 1)
        named = dict(zip(COSTS, costs, strict=True))
        moved = named.pop("elements_in") + named.pop("elements_out")
        parts = np.stack([*named.values(), moved], axis=1)
        others = [np.exp(other.predict(rows)[0]) for other in self._others]
        return parts, np.column_stack([np.ones(len(rows)), parts.sum(2), *others])

    def _relative(self, parts: Floats, totals: Floats, rows: Rows, guess: Floats) -> Inputs:
        own = (parts / self._scale - self._mean).reshape(len(rows), -1)
        choices, groups = self._table.choices(rows), self._table.groups(rows)
        floors = (self._typical / guess) ** 2
        return Inputs(totals / self._totals_scale - 1, own, choices, groups, floors)


def first_guess(totals: Floats, y: Floats, *, steps: int = 4) -> Floats:
    """Totals [n, t] and targets [n] -> non-negative weights [t] with the least relative errors.

    Outliers count less: the weights are fitted `steps` times, each time with less weight for the
    records that were far off.
    """
    from scipy.optimize import nnls

    scale = totals.mean(0)
    relative = totals / scale / y[:, None]
    precision = np.ones(len(y))
    for _ in range(steps):
        root = np.sqrt(precision)
        weights = nnls(relative * root[:, None], root)[0]
        error = np.log(np.maximum(relative @ weights, 1e-12))
        spread = 1.48 * np.median(np.abs(error)) + 1e-3
        precision = 5 / (4 + (error / spread) ** 2)
    found: Floats = weights / scale
    return found


class ChoiceGp:
    """Predicts accuracies, which are not a sum over parts.

    It is the same process as in `CostGp`, but its totals are logarithms (log MACs and so on) and
    its parts are the integers of the encoding, scaled to the same variance.
    """

    def __init__(self, costs: Costs) -> None:
        self._table = costs

    def fit(self, rows: Rows, y: Floats) -> ChoiceGp:
        """Learn from encodings [n, slots] and targets [n]."""
        self._totals, self._parts = self._features(rows)
        self._gp = RobustGp().fit(self._inputs(rows), y)
        self._rows, self._y = rows, y
        return self

    def predict(self, rows: Rows) -> tuple[Floats, Floats]:
        """Mean and standard deviation [n] of a new measurement of the target."""
        return self._gp.predict(self._inputs(rows))

    def held_out(self, folds: Sequence[Indices]) -> Floats:
        """Each target [n] as predicted by a process that was fitted without its fold."""
        return refitted(self, self._rows, self._y, folds)

    def _features(self, rows: Rows) -> tuple[Floats, Floats]:
        totals = self._table(rows).sum(1)
        return np.log(np.maximum(totals, 1)), rows.astype(float)

    def _inputs(self, rows: Rows) -> Inputs:
        totals, parts = (
            # what did not vary among the records says nothing about other archs
            (new - seen.mean(0)) / np.where(seen.std(0) > 1e-9, seen.std(0), np.inf)
            for new, seen in zip(self._features(rows), (self._totals, self._parts), strict=True)
        )
        choices, floors = np.zeros((len(rows), 0)), np.zeros(len(rows))
        return Inputs(totals, parts, choices, self._table.groups(rows), floors)


def refitted(process: Process, rows: Rows, y: Floats, folds: Sequence[Indices]) -> Floats:
    """Each target [n] as predicted by a copy of `process` fitted to all records but its fold.

    Nothing of the fold is used: not in the first guess, not in the scales, not in the variances.
    """
    found = np.empty(len(y))
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(y)), fold)
        found[fold] = copy.copy(process).fit(rows[rest], y[rest]).predict(rows[fold])[0]
    return found
