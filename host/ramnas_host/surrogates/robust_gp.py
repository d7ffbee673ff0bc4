"""A robust Gaussian process: totals, parts, choices and groups -> mean and standard deviation.

Its kernel is the sum of five. One is linear in the totals, which are known before anything is
measured and are therefore weakly penalised. One is linear in the parts, one is a Matern 5/2 of the
parts, one is linear in the choices (each choice has a number of its own, whatever its size), and
one is constant within a group. A constant is added for the mean.

The noise follows Student's t, because a board is disturbed now and then: a record far off counts
less (variational, as in Tipping and Lawrence 2005). The variances maximise the evidence at each of
three length scales, and the length scale with the highest evidence predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]
    Kernels = tuple[Floats, Floats, Floats, Floats, Floats]

LENGTHS = (0.3, 1.0, 3.0)
DEGREES = 4.0  # degrees of freedom of the noise
CONSTANT = 10.0  # variance of the mean, in units of the targets' variance
HYPER_RECORDS = 300  # the variances are fitted on at most this many records
# Means of the normal priors of the log variances, in the order
# totals, linear parts, smooth parts, choices, groups, noise.
PRIOR = np.log([1.0, 0.1, 0.03, 0.01, 0.01, 0.01])
# for targets from which a good guess was subtracted: what is left is mostly noise
MOSTLY_NOISE = np.log([0.1, 0.01, 0.003, 0.001, 0.001, 0.5])
PRIOR_STD = 2.0
_JITTER = 1e-7
_CHUNK = 256  # rows predicted at a time, so that their kernels stay in the cache


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the process knows about n archs.

    Totals [n, t] and parts [n, p] are centred and of similar scale. Choices [n, c] are 1 where an
    arch made that choice and 0 elsewhere. Groups [n] hold the number of each arch's group.
    """

    totals: Floats
    parts: Floats
    choices: Floats
    groups: NDArray[np.int64]

    def __getitem__(self, some: Indices | slice) -> Inputs:
        return Inputs(self.totals[some], self.parts[some], self.choices[some], self.groups[some])

    def single(self) -> Inputs:
        """The same in single precision, enough for kernels between new archs and records."""
        return Inputs(
            self.totals.astype(np.float32), self.parts.astype(np.float32),
            self.choices.astype(np.float32), self.groups,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Posterior:
    """The length scale and log variances, and what follows from them and the records.

    `inverse` and `alpha` are K^-1 and K^-1 y. `linear` holds the linear part of the mean: a
    constant and the weights of totals, parts and choices.
    """

    length: float
    theta: Floats
    inverse: Floats
    alpha: Floats
    linear: tuple[float, Floats, Floats, Floats]


class RobustGp:
    """The Gaussian process; `prior` holds the means of the log variances' normal priors."""

    def __init__(self, prior: Floats = PRIOR) -> None:
        self._prior = prior

    def fit(self, inputs: Inputs, y: Floats) -> RobustGp:
        self._single = inputs.single()
        self._centre, self._scale = float(np.median(y)), float(y.std())
        target = (y - self._centre) / self._scale
        some = np.random.default_rng(0).permutation(len(y))[:HYPER_RECORDS]
        with threadpool_limits(1, user_api="blas"):  # two threads would be slower
            length, theta = self._variances(inputs[some], target[some])
        kernels = _Grams(inputs, inputs).kernels(length)
        self._posterior = _solved(inputs, kernels, target, length, theta)
        self._directions = _directions(_summed(kernels, theta), self._posterior)
        return self

    def _variances(self, inputs: Inputs, y: Floats) -> tuple[float, Floats]:
        """The length scale and the log variances with the highest evidence."""
        grams, theta, weights = _Grams(inputs, inputs), self._prior, np.ones(len(y))
        for _ in range(2):
            kernels = grams.kernels(LENGTHS[len(LENGTHS) // 2])
            theta, _ = _maximised(kernels, y, weights, theta, self._prior)
            weights = _reweighted(kernels, y, weights, theta, steps=3)
        found = [
            _maximised(grams.kernels(length), y, weights, theta, self._prior) for length in LENGTHS
        ]
        best = int(np.argmax([evidence for _, evidence in found]))
        return LENGTHS[best], found[best][0]

    def predict(self, inputs: Inputs) -> tuple[Floats, Floats]:
        """Mean and standard deviation [m] of a new measurement of m archs, noise included."""
        mean, variance = np.zeros((2, len(inputs.groups)))
        for start in range(0, len(mean), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            mean[chunk], variance[chunk] = self._predict(inputs[chunk])
        return mean * self._scale + self._centre, np.sqrt(variance) * self._scale

    def _predict(self, inputs: Inputs) -> tuple[Floats, Floats]:
        posterior = self._posterior
        kernels = _Grams(inputs.single(), self._single).kernels(posterior.length)
        _, _, smooth, _, groups, noise = np.exp(posterior.theta)
        rest = smooth * kernels[2] + groups * kernels[4]
        # The linear part is computed in double precision: it is large where the totals are far
        # from those of the records.
        constant, of_totals, of_parts, of_choices = posterior.linear
        linear = constant + inputs.totals @ of_totals + inputs.parts @ of_parts
        linear += inputs.choices @ of_choices
        across = _summed(kernels, posterior.theta)
        explained = ((across.astype(float) @ self._directions) ** 2).sum(1)
        known = np.maximum(_summed(_own_kernels(inputs), posterior.theta) - explained, 0)
        variance = known + noise * DEGREES / (DEGREES - 2)
        return linear + rest @ posterior.alpha.astype(np.float32), variance

    def held_out(self, folds: Sequence[Indices], y: Floats) -> Floats:
        """Each target [n] as predicted without its fold; variances and weights stay as fitted."""
        target = (y - self._centre) / self._scale
        found = without_fold(self._posterior.inverse, self._posterior.alpha, target, folds)
        return found * self._scale + self._centre


def without_fold(inverse: Floats, alpha: Floats, y: Floats, folds: Sequence[Indices]) -> Floats:
    """What a Gaussian process predicts for each target [n] without the targets of its fold.

    `inverse` is K^-1 of all records and `alpha` is K^-1 y. The prediction for a fold F is
    y_F - (K^-1)_FF^-1 alpha_F.
    """
    found = np.empty(len(y))
    for fold in folds:
        own = inverse[np.ix_(fold, fold)]
        found[fold] = y[fold] - np.linalg.solve(own, alpha[fold])
    return found


class _Grams:
    """The products and distances between `a` and `b` from which all kernels are computed."""

    def __init__(self, a: Inputs, b: Inputs) -> None:
        self._totals, self._parts = a.totals @ b.totals.T, a.parts @ b.parts.T
        squares = (a.parts**2).sum(1)[:, None] + (b.parts**2).sum(1) - 2 * self._parts
        self._far = np.sqrt(5 * np.maximum(squares, 0))
        self._choices = a.choices @ b.choices.T
        self._equal = (a.groups[:, None] == b.groups).astype(self._far.dtype)

    def kernels(self, length: float) -> Kernels:
        """Kernels linear in totals and parts, Matern 5/2, linear in choices, and equal groups."""
        far = self._far * (1 / length)
        smooth = (1 + far + far * far / 3) * np.exp(-far)
        return self._totals, self._parts, smooth, self._choices, self._equal


def _directions(covariance: Floats, posterior: _Posterior) -> Floats:
    """A matrix D [n, r] with |k D|^2 close to k K^-1 k for the kernels k of an arch.

    D consists of scaled eigenvectors of K^-1. Those that the kernels of the records hardly project
    on are left out: what they add is small beside the noise, and predicting gets faster.
    """
    values, vectors = np.linalg.eigh(posterior.inverse)
    directions = vectors * np.sqrt(np.maximum(values, 0))
    projected: Floats = ((covariance @ directions) ** 2).mean(0)
    order = np.argsort(projected)
    left_out = np.cumsum(projected[order]) < 0.02 * np.exp(posterior.theta[-1])
    found: Floats = directions[:, np.sort(order[~left_out])]
    return found


def _own_kernels(inputs: Inputs) -> Kernels:
    """The kernels [n] of each arch with itself."""
    ones = np.ones(len(inputs.groups))
    totals, parts, choices = ((a**2).sum(1) for a in (inputs.totals, inputs.parts, inputs.choices))
    return totals, parts, ones, choices, ones


def _summed(kernels: Kernels, theta: Floats) -> Floats:
    variances = np.exp(theta).tolist()
    total: Floats = CONSTANT + variances[0] * kernels[0]
    for variance, kernel in zip(variances[1:-1], kernels[1:], strict=True):
        total += variance * kernel
    return total


def _noisy(kernels: Kernels, theta: Floats, weights: Floats) -> Floats:
    covariance = _summed(kernels, theta)
    covariance[np.diag_indices(len(weights))] += np.exp(theta[-1]) / weights + _JITTER
    return covariance


def _inverted(covariance: Floats) -> tuple[Floats, float]:
    """The inverse and the log determinant of a symmetric positive definite matrix."""
    from scipy.linalg.lapack import dpotrf, dpotri

    factor, failed = dpotrf(covariance, lower=1)
    if failed:
        raise np.linalg.LinAlgError("the covariance is not positive definite")
    lower, _ = dpotri(factor, lower=1)
    inverse = np.tril(lower) + np.tril(lower, -1).T
    return inverse, 2 * float(np.log(np.diag(factor)).sum())


def _maximised(
    kernels: Kernels, y: Floats, weights: Floats, start: Floats, prior: Floats
) -> tuple[Floats, float]:
    """The log variances that maximise evidence times priors, and the log of that product."""
    from scipy.optimize import minimize

    def loss(theta: Floats) -> tuple[float, Floats]:
        away = (theta - prior) / PRIOR_STD
        inverse, log_determinant = _inverted(_noisy(kernels, theta, weights))
        alpha = inverse @ y
        slope = inverse - np.outer(alpha, alpha)
        slopes = [np.vdot(slope, kernel) for kernel in kernels]
        slopes.append(np.vdot(np.diag(slope), 1 / weights))
        value = 0.5 * float(y @ alpha + log_determinant + away @ away)
        return value, 0.5 * np.exp(theta) * slopes + away / PRIOR_STD

    best = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[(-14, 8)] * len(start),
        options={"maxiter": 15},
    )  # fmt: skip
    return best.x, -float(best.fun)


def _reweighted(
    kernels: Kernels, y: Floats, weights: Floats, theta: Floats, *, steps: int
) -> Floats:
    """The expected precision of each record's noise, given its residual under the posterior."""
    noise = np.exp(theta[-1])
    for _ in range(steps):
        inverse, _ = _inverted(_noisy(kernels, theta, weights))
        own = noise / weights
        residual = own * (inverse @ y)
        # variance of the noise-free function at each record
        variance = np.maximum(own - own**2 * np.diag(inverse), 0)
        weights = (DEGREES + 1) / (DEGREES + (residual**2 + variance) / noise)
    return weights


def _solved(
    inputs: Inputs, kernels: Kernels, y: Floats, length: float, theta: Floats
) -> _Posterior:
    weights = _reweighted(kernels, y, np.ones(len(y)), theta, steps=6)
    inverse, _ = _inverted(_noisy(kernels, theta, weights))
    alpha = inverse @ y
    totals, parts, _, choices = np.exp(theta[:4])
    linear = (
        CONSTANT * float(alpha.sum()),
        totals * (alpha @ inputs.totals),
        parts * (alpha @ inputs.parts),
        choices * (alpha @ inputs.choices),
    )
    return _Posterior(length, theta, inverse, alpha, linear)
