"""The paper's four families of regressors, by name: features [n, d] and targets [n] -> targets."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class Regressor(Protocol):
    """Of targets with mean 0 and variance 1."""

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
    """Radial basis functions with a linear tail, smoothed as the measurements are noisy.

    The tail is constant where there are fewer records than a linear one needs.
    """

    def fit(self, x: Floats, y: Floats) -> _Rbf:
        from scipy.interpolate import RBFInterpolator

        # a column that never varied, or says what others say, would make the linear tail singular
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


FAMILIES: dict[str, Callable[[], Regressor]] = {"gp": _gp, "rbf": _Rbf, "mlp": _mlp, "cart": _cart}


def fitted(family: str, x: Floats, y: Floats) -> Callable[[Floats], Floats]:
    """Fit a new one; targets of any mean and scale."""
    from sklearn.exceptions import ConvergenceWarning

    centre, scale = float(y.mean()), float(y.std()) or 1.0
    regressor = FAMILIES[family]()
    with warnings.catch_warnings():
        # hyper-parameters at a bound, or a capped optimiser: cross-validation judges the result
        warnings.simplefilter("ignore", ConvergenceWarning)
        regressor.fit(x, (y - centre) / scale)
    return lambda more: regressor.predict(more) * scale + centre
