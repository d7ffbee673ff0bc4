"""The paper's four families of regressors by name: features and targets -> predicted targets."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ramnas_host.surrogates.robust_gp import without_fold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]


class Regressor(Protocol):
    """A regressor whose targets have mean 0 and variance 1."""

    def fit(self, x: Floats, y: Floats) -> object: ...

    def predict(self, x: Floats) -> Floats: ...


class _Gp:
    """A Gaussian process: Matern 5/2 with one length scale, plus noise, both by evidence."""

    def fit(self, x: Floats, y: Floats) -> _Gp:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        matern = Matern(3.0, (0.3, 100.0), nu=2.5)
        kernel = ConstantKernel(1.0) * matern + WhiteKernel(0.1, (1e-6, 1.0))
        gp = GaussianProcessRegressor(kernel, n_restarts_optimizer=1, random_state=0)
        self._gp, self._y = gp.fit(x, y), y
        return self

    def predict(self, x: Floats) -> Floats:
        values: Floats = self._gp.predict(x)
        return values

    def held_out(self, folds: Sequence[Indices]) -> Floats:
        """Each target as predicted without its fold, with the hyper-parameters of all records.

        The family `cost` does the same. Fitting them again for each fold would take six times as
        long.
        """
        from scipy.linalg import cho_solve

        inverse = cho_solve((self._gp.L_, True), np.eye(len(self._y)))
        return without_fold(inverse, self._gp.alpha_, self._y, folds)


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
    """Radial basis functions with a linear tail, smoothed because the measurements are noisy.

    With fewer records than a linear tail needs, the tail is constant.
    """

    def fit(self, x: Floats, y: Floats) -> _Rbf:
        from scipy.interpolate import RBFInterpolator

        # A column that never varies, or that follows from others, would make the linear tail
        # singular.
        self._varies = np.ptp(x, axis=0) > 0
        seen = x[:, self._varies]
        tail = np.column_stack([np.ones(len(seen)), seen])
        linear = np.linalg.matrix_rank(tail) == tail.shape[1]
        kernel, degree = ("cubic", 1) if linear else ("linear", 0)
        self._f = RBFInterpolator(seen, y, kernel=kernel, smoothing=1.0, degree=degree)
        return self

    def predict(self, x: Floats) -> Floats:
        values: Floats = self._f(x[:, self._varies])
        return values


FAMILIES: dict[str, Callable[[], Regressor]] = {"gp": _Gp, "rbf": _Rbf, "mlp": _mlp, "cart": _cart}


def cross_validated(
    family: str, x: Floats, y: Floats, folds: Sequence[Indices]
) -> tuple[Fitted, Floats]:
    """A regressor fitted on all records, and each target [n] as predicted without its fold."""
    whole = Fitted(family, x, y)
    if isinstance(whole.regressor, _Gp):
        return whole, whole.regressor.held_out(folds) * whole.scale + whole.centre
    found = np.empty(len(y))
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(y)), fold)
        found[fold] = Fitted(family, x[rest], y[rest])(x[fold])
    return whole, found


class Fitted:
    """A fitted regressor of a family, for targets of any mean and scale."""

    def __init__(self, family: str, x: Floats, y: Floats) -> None:
        from sklearn.exceptions import ConvergenceWarning

        self.centre, self.scale = float(y.mean()), float(y.std()) or 1.0
        self.regressor = FAMILIES[family]()
        with warnings.catch_warnings():
            # The optimiser may stop at a bound or at its limit of steps. Cross-validation judges
            # the result.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.regressor.fit(x, (y - self.centre) / self.scale)

    def __call__(self, x: Floats) -> Floats:
        return self.regressor.predict(x) * self.scale + self.centre
