"""Archs -> predicted latency or accuracy: the paper's four families, chosen by Kendall tau."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np

from ramnas_models.errors import DataError
from ramnas_models.space import Space

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]  # encodings [n, slots], `Space.encode`
    Floats = NDArray[np.float64]

MIN_RECORDS = 20
FOLDS = 5


class Score(msgspec.Struct, frozen=True):
    """Cross-validated: Kendall tau, Spearman rho, mean absolute percentage error (0.01 = 1 %)."""

    tau: float
    rho: float
    mape: float


class Regressor(Protocol):
    def fit(self, x: Floats, y: Floats) -> object: ...

    def predict(self, x: Floats) -> Floats: ...


def _gp() -> Regressor:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    kernel = ConstantKernel(1.0) * Matern(3.0, (0.3, 100.0), nu=2.5) + WhiteKernel(0.1, (1e-6, 1.0))
    gp: Regressor = GaussianProcessRegressor(kernel, n_restarts_optimizer=1, random_state=0)
    return gp


def _mlp() -> Regressor:
    from sklearn.neural_network import MLPRegressor

    mlp: Regressor = MLPRegressor(
        hidden_layer_sizes=(64,), alpha=1e-2, max_iter=200, solver="lbfgs", random_state=0
    )
    return mlp


def _cart() -> Regressor:
    from sklearn.tree import DecisionTreeRegressor

    cart: Regressor = DecisionTreeRegressor(min_samples_leaf=3, random_state=0)
    return cart


class _Rbf:
    """Radial basis functions with a linear tail, smoothed as the measurements are noisy."""

    def fit(self, x: Floats, y: Floats) -> _Rbf:
        from scipy.interpolate import RBFInterpolator

        # a slot that never varied would make the linear tail singular
        self._varies = np.ptp(x, axis=0) > 0
        self._f = RBFInterpolator(x[:, self._varies], y, kernel="cubic", smoothing=1.0, degree=1)
        return self

    def predict(self, x: Floats) -> Floats:
        values: Floats = self._f(x[:, self._varies])
        return values


FAMILIES: dict[str, Callable[[], Regressor]] = {"gp": _gp, "rbf": _Rbf, "mlp": _mlp, "cart": _cart}


def _encode_int(space: Space, rows: Rows) -> Floats:
    """Each integer scaled to [-1, 1] over its choices."""
    low, high = space.encode(space.min()), space.encode(space.max())
    scaled: Floats = 2 * (rows - low) / np.maximum(high - low, 1) - 1.0
    return scaled


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A fitted family; it predicts what it was fitted on, with the cross-validated error as std."""

    family: str
    space: Space
    log: bool
    score: Score
    std: float
    held_out: Floats  # the cross-validated prediction of each target
    _regressor: Regressor
    _centre: float
    _scale: float

    def predict(self, rows: Rows) -> tuple[Floats, Floats]:
        """Encodings [n, slots] -> mean [n], std [n] in the unit of the targets.

        std is the cross-validated residual, in log units turned relative where `log`.
        """
        raw = self._regressor.predict(_encode_int(self.space, rows)) * self._scale + self._centre
        if self.log:
            mean = np.exp(raw)
            return mean, mean * self.std
        return raw, np.full(len(raw), self.std)


def fit(space: Space, rows: Rows, y: Floats, family: str, *, log: bool) -> Surrogate:
    """Fit one family on encodings [n, slots] and targets [n] (ms with `log`, or accuracies)."""
    _check(rows, y, log)
    target = np.log(y) if log else y
    held_out = np.empty(len(target))
    order = np.random.default_rng(0).permutation(len(y))
    for fold in np.array_split(order, FOLDS):
        rest = np.setdiff1d(order, fold)
        held_out[fold] = _fit_predict(space, rows[rest], target[rest], family, rows[fold])
    regressor, centre, scale = _fit(space, rows, target, family)
    predicted = np.exp(held_out) if log else held_out
    std = float(np.std(held_out - target))
    return Surrogate(
        family, space, log, score(y, predicted), std, predicted, regressor, centre, scale
    )


def fit_best(
    space: Space, rows: Rows, y: Floats, *, log: bool
) -> tuple[Surrogate, dict[str, Score]]:
    """Fit all families; the one with the best cross-validated tau, and every family's score."""
    fitted = [fit(space, rows, y, family, log=log) for family in FAMILIES]
    return max(fitted, key=lambda s: s.score.tau), {s.family: s.score for s in fitted}


def score(truth: Floats, predicted: Floats) -> Score:
    from scipy.stats import kendalltau, spearmanr

    return Score(
        tau=float(kendalltau(truth, predicted).statistic),
        rho=float(spearmanr(truth, predicted).statistic),
        mape=float(np.mean(np.abs(predicted - truth) / np.abs(truth))),
    )


def _fit(space: Space, rows: Rows, target: Floats, family: str) -> tuple[Regressor, float, float]:
    from sklearn.exceptions import ConvergenceWarning

    centre, scale = float(target.mean()), float(target.std()) or 1.0
    regressor = FAMILIES[family]()
    with warnings.catch_warnings():
        # hyper-parameters at a bound, or a capped optimiser: cross-validation judges the result
        warnings.simplefilter("ignore", ConvergenceWarning)
        regressor.fit(_encode_int(space, rows), (target - centre) / scale)
    return regressor, centre, scale


def _fit_predict(space: Space, rows: Rows, target: Floats, family: str, ask: Rows) -> Floats:
    regressor, centre, scale = _fit(space, rows, target, family)
    return regressor.predict(_encode_int(space, ask)) * scale + centre


def _check(rows: Rows, y: Floats, log: bool) -> None:
    if len(rows) < MIN_RECORDS:
        raise DataError(f"a surrogate needs {MIN_RECORDS} records or more, there are {len(rows)}")
    if not np.isfinite(y).all() or (log and (y <= 0).any()):
        raise DataError("a surrogate needs finite targets, and latencies above 0")
    if np.ptp(y) == 0:
        raise DataError(f"all {len(y)} targets are {y[0]:g}: there is nothing to learn")
