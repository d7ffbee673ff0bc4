"""The paper's four families of regressors by name: features and targets -> predicted targets."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]

START_RECORDS = 300  # `gp` begins its search for hyper-parameters on at most this many records
PENALTIES = np.logspace(-3, 3, 13)  # of a ridge regression, for targets of variance 1


class Regressor(Protocol):
    """A regressor whose targets have mean 0 and variance 1."""

    def fit(self, x: Floats, y: Floats) -> object: ...

    def predict(self, x: Floats) -> Floats: ...


class _Gp:
    """A Gaussian process: Matern 5/2 with one length scale, plus noise, both by evidence.

    Most of the search for the highest evidence is done on at most START_RECORDS records, because
    the time for one step grows with the cube of their number. It ends on all of them.
    """

    def fit(self, x: Floats, y: Floats) -> _Gp:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        matern = Matern(3.0, (0.3, 100.0), nu=2.5)
        kernel = ConstantKernel(1.0) * matern + WhiteKernel(0.1, (1e-6, 1.0))
        gp = GaussianProcessRegressor(kernel, n_restarts_optimizer=1, random_state=0)
        some = np.random.default_rng(0).permutation(len(y))[:START_RECORDS]
        self._gp = GaussianProcessRegressor(gp.fit(x[some], y[some]).kernel_).fit(x, y)
        return self

    def predict(self, x: Floats) -> Floats:
        values: Floats = self._gp.predict(x)
        return values


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
    """Radial basis functions on a linear tail, smoothed because the measurements are noisy.

    The tail has as many weights as there are columns, so it is a ridge regression, with the penalty
    that predicts best when each record is left out. A tail without a penalty passes through the
    noise where there are hardly more records than columns.
    """

    def fit(self, x: Floats, y: Floats) -> _Rbf:
        from scipy.interpolate import RBFInterpolator
        from sklearn.linear_model import RidgeCV

        self._tail = RidgeCV(PENALTIES).fit(x, y)
        rest = y - self._tail.predict(x)
        self._f = RBFInterpolator(x, rest, kernel="linear", smoothing=1.0, degree=0)
        return self

    def predict(self, x: Floats) -> Floats:
        values: Floats = self._tail.predict(x) + self._f(x)
        return values


FAMILIES: dict[str, Callable[[], Regressor]] = {"gp": _Gp, "rbf": _Rbf, "mlp": _mlp, "cart": _cart}


def cross_validated(
    family: str, x: Floats, y: Floats, folds: Sequence[Indices]
) -> tuple[Fitted, Floats]:
    """A regressor fitted on all records, and each target [n] as predicted without its fold.

    Everything is fitted anew for each fold, hyper-parameters and scale of the targets included.
    """
    found = np.empty(len(y))
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(y)), fold)
        found[fold] = Fitted(family, x[rest], y[rest])(x[fold])
    return Fitted(family, x, y), found


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
