"""A new board from boards measured before: with them and without, mixed by what its samples say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ramnas_host.surrogates.cost_gp import CostGp, Predictor
from ramnas_models.cost_table import CostTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]

FOLDS = 10


class MixedGp:
    """Two processes of log latencies: one to which other boards are totals like MACs, one without.

    The other boards' predictions enter the first guess, a non-negative sum, and the linear part.
    The other boards have as large a share as the records held out allow: the mean absolute error
    is within a standard error of the least one.
    """

    def __init__(self, table: CostTable, others: Sequence[Predictor]) -> None:
        self._table, self._others = table, others

    def fit(self, rows: Rows, y: Floats) -> MixedGp:
        """Encodings [n, slots], log targets [n]."""
        order = np.random.default_rng(0).permutation(len(y))
        held_out = np.zeros((2, len(y)))
        for fold in np.array_split(order, min(len(y), FOLDS)):
            rest = np.setdiff1d(order, fold)
            for process, found in zip(self._processes(), held_out, strict=True):
                found[fold] = process.fit(rows[rest], y[rest]).predict(rows[fold])[0]
        shares = np.linspace(0, 1, 11)[:, None]
        mixed = shares * held_out[0] + (1 - shares) * held_out[1]
        best = _most_informed(np.abs(mixed - y))
        self._share = float(shares[best, 0])
        self._held_out: Floats = mixed[best]
        self.informed, self.plain = (process.fit(rows, y) for process in self._processes())
        return self

    def predict(self, rows: Rows) -> tuple[Floats, Floats]:
        """Mean and standard deviation [n] of the log target, measured anew."""
        (mean, std), (other, other_std) = (p.predict(rows) for p in (self.informed, self.plain))
        a, b = self._share, 1 - self._share
        found = a * mean + b * other
        apart = a * (mean - found) ** 2 + b * (other - found) ** 2
        return found, np.sqrt(a * std**2 + b * other_std**2 + apart)

    def held_out(self, folds: Sequence[Indices]) -> Floats:
        """The log targets [n], each predicted by processes fitted without it, in its own folds."""
        return self._held_out

    def _processes(self) -> tuple[CostGp, CostGp]:
        return CostGp(self._table, self._others), CostGp(self._table)


def _most_informed(errors: Floats) -> int:
    """The last of the mixtures [m, n] that is not clearly worse than the best of them: a few noisy
    records alone can hardly tell, and other boards were right more often than not."""
    more = errors - errors[errors.mean(1).argmin()]
    unclear = more.mean(1) <= more.std(1) / np.sqrt(errors.shape[1])
    return int(np.flatnonzero(unclear)[-1])
