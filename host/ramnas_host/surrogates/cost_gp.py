"""Encodings -> latency, energy or accuracy: a Gaussian process on what each part costs.

A latency is a sum, every layer takes its time: f = w . c. Its logarithm is nearly linear in the
costs over a first guess b of it (log f = log b + f / b - 1 + ...), so that is what the process
sees: log(y / b) against c / b. b is the best non-negative sum of a few totals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ramnas_host.surrogates.encodings import integers, widths
from ramnas_host.surrogates.robust_gp import MOSTLY_NOISE, PRIOR, Inputs, RobustGp
from ramnas_models.cost_table import COSTS, CostTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ramnas_models.space import Space

    Rows = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]


class Predictor(Protocol):
    def predict(self, rows: Rows) -> tuple[Floats, Floats]: ...


class CostGp:
    """Of log latencies or energies; with other boards' predictors, what these do not explain.

    The first guess is then a sum of their predictions alone, and few records are not to find in
    their noise what is left: the variances begin small.
    """

    def __init__(self, table: CostTable, others: Sequence[Predictor] = ()) -> None:
        self._table, self._others = table, others
        self._widths = widths(table.space)

    def fit(self, rows: Rows, y: Floats) -> CostGp:
        """Encodings [n, slots], log targets [n]."""
        parts, totals = self._costs(rows)
        columns, own = range(totals.shape[1]), totals.shape[1] - len(self._others)
        guessing = [0, *columns[own:]] if self._others else list(columns)
        self._weights = np.zeros(totals.shape[1])
        self._weights[guessing] = first_guess(totals[:, guessing], np.exp(y))
        guess = totals @ self._weights
        parts, totals = parts / guess[:, None, None], totals / guess[:, None]
        # of common scale: all of a figure's parts together are 1 on average, as is each total
        self._scale = np.maximum(parts.sum(2).mean(0), 1e-30)[:, None]
        self._totals_scale = np.maximum(totals.mean(0), 1e-30)
        self._mean = parts.mean(0) / self._scale
        gp = RobustGp(MOSTLY_NOISE if self._others else PRIOR)
        self._gp = gp.fit(self._relative(parts, totals, rows), y - np.log(guess))
        self._y, self._guess = y, np.log(guess)
        return self

    def predict(self, rows: Rows) -> tuple[Floats, Floats]:
        """Mean and standard deviation [n] of the log target, measured anew."""
        parts, totals = self._costs(rows)
        guess = totals @ self._weights
        parts, totals = parts / guess[:, None, None], totals / guess[:, None]
        mean, std = self._gp.predict(self._relative(parts, totals, rows))
        return mean + np.log(guess), std

    def held_out(self, folds: Sequence[Indices]) -> Floats:
        """The log targets [n] as predicted without their fold; hyper-parameters are kept."""
        return self._gp.held_out(folds, self._y - self._guess) + self._guess

    def _costs(self, rows: Rows) -> tuple[Floats, Floats]:
        """Parts [n, figures, columns], totals [n, 1 + figures + others]: 1 is the call's own."""
        costs = self._table(rows).transpose(2, 0, 1)
        named = dict(zip(COSTS, costs, strict=True))
        moved = named.pop("elements_in") + named.pop("elements_out")
        parts = np.stack([*named.values(), moved], axis=1)
        others = [np.exp(other.predict(rows)[0]) for other in self._others]
        return parts, np.column_stack([np.ones(len(rows)), parts.sum(2), *others])

    def _relative(self, parts: Floats, totals: Floats, rows: Rows) -> Inputs:
        own = (parts / self._scale - self._mean).reshape(len(rows), -1)
        return Inputs(totals / self._totals_scale - 1, own, self._widths(rows), rows[:, 0])


def first_guess(totals: Floats, y: Floats, *, steps: int = 4) -> Floats:
    """[n, t], [n] -> weights [t], none negative, of least relative errors; outliers count less."""
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
    """Of accuracies, which are no sum: of the choices themselves and the logarithms of the totals.

    The same process as `CostGp`, with totals log MACs and so on, and the choices as parts.
    """

    def __init__(self, space: Space, table: CostTable) -> None:
        self._table, self._encode = table, integers(space, table)

    def fit(self, rows: Rows, y: Floats) -> ChoiceGp:
        """Encodings [n, slots], targets [n]."""
        self._totals, self._parts = self._features(rows)
        self._gp = RobustGp().fit(self._inputs(rows), y)
        self._y = y
        return self

    def predict(self, rows: Rows) -> tuple[Floats, Floats]:
        """Mean and standard deviation [n] of the target, measured anew."""
        return self._gp.predict(self._inputs(rows))

    def held_out(self, folds: Sequence[Indices]) -> Floats:
        """The targets [n] as predicted without their fold; hyper-parameters are kept."""
        return self._gp.held_out(folds, self._y)

    def _features(self, rows: Rows) -> tuple[Floats, Floats]:
        totals = self._table(rows).sum(1)
        return np.log(totals), self._encode(rows)

    def _inputs(self, rows: Rows) -> Inputs:
        totals, parts = (
            (new - seen.mean(0)) / np.maximum(seen.std(0), 1e-9)
            for new, seen in zip(self._features(rows), (self._totals, self._parts), strict=True)
        )
        return Inputs(totals, parts, np.zeros((len(rows), 0)), rows[:, 0])
