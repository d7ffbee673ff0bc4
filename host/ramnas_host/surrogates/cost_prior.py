"""Latencies of a new board from boards measured before, as far as its own records support them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ramnas_host.surrogates.cost_gp import CostGp, Predictor, refitted
from ramnas_host.surrogates.costs import Costs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]

FOLDS = 10
SHARES = np.linspace(0, 1, 11)[:, None]  # of the process that knows other boards


class MixedGp:
    """A weighted mean of two processes: one that knows other boards, and one that does not.

    The first process uses the other boards' predictions as totals, like MACs: they enter its first
    guess, a non-negative sum, and its linear part. The weight of the first process is the largest
    whose mean absolute error on held-out records is within one standard error of the best weight's.
    """

    def __init__(
        self, costs: Costs, others: Sequence[Predictor], floor_ms: float | None = None
    ) -> None:
        self.informed = CostGp(costs, others, floor_ms)
        self.plain = CostGp(costs, floor_ms=floor_ms)

    def fit(self, rows: Rows, y: Floats) -> MixedGp:
        """Learn from encodings [n, slots] and log targets [n]."""
        order = np.random.default_rng(0).permutation(len(y))
        folds = np.array_split(order, min(len(y), FOLDS))
        informed, plain = (refitted(one, rows, y, folds) for one in (self.informed, self.plain))
        mixed = SHARES * informed + (1 - SHARES) * plain
        errors = np.abs(mixed - y)
        self._share = float(SHARES[_most_informed(errors), 0])
        # What is said about a fold comes from the share that the other folds choose.
        self._held_out = np.empty(len(y))
        for fold in folds:
            self._held_out[fold] = mixed[_most_informed(np.delete(errors, fold, axis=1)), fold]
        self.informed.fit(rows, y)
        self.plain.fit(rows, y)
        return self

    def predict(self, rows: Rows) -> tuple[Floats, Floats]:
        """Mean and standard deviation [n] of a new measurement of the log target."""
        (mean, std), (other, other_std) = (p.predict(rows) for p in (self.informed, self.plain))
        a, b = self._share, 1 - self._share
        found = a * mean + b * other
        apart = a * (mean - found) ** 2 + b * (other - found) ** 2
        return found, np.sqrt(a * std**2 + b * other_std**2 + apart)

    def held_out(self, folds: Sequence[Indices]) -> Floats:
        """Each log target [n] as predicted by processes fitted without it.

        The folds are those of `fit`; `folds` is ignored.
        """
        return self._held_out


def _most_informed(errors: Floats) -> int:
    """The last row of errors [m, n] that is not clearly worse than the best row.

    A few noisy records can hardly tell the rows apart, and other boards were right more often than
    not. The rows are in the order of how much they use other boards.
    """
    more = errors - errors[errors.mean(1).argmin()]
    unclear = more.mean(1) <= more.std(1) / np.sqrt(errors.shape[1])
    return int(np.flatnonzero(unclear)[-1])
