"""A robust Gaussian process: totals, parts, choices and groups -> mean and deviation.

Its kernel is a sum: a constant, linear in the totals (weakly penalised: what is known before
anything is measured), linear in the parts, Matern 5/2 of the parts, linear in the choices (a number
for each of them, whatever its size), and one for equal groups. Noise
is Student's t, as on a board that is disturbed at times: a record far off counts less (variational,
as in Tipping and Lawrence 2005). The variances maximise the evidence at each of three length
scales, and the length scale with the highest evidence predicts.
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
DEGREES = 4.0  # of freedom of the noise
CONSTANT = 10.0  # variance of the mean, that of the targets being 1
HYPER_RECORDS = 300  # variances are learnt on so many records at most
# log variances of totals, linear parts, smooth parts, choices, groups, noise: their normal priors
PRIOR = np.log([1.0, 0.1, 0.03, 0.01, 0.01, 0.01])
MOSTLY_NOISE = np.log([0.1, 0.01, 0.003, 0.001, 0.001, 0.5])  # of what a good guess has left
PRIOR_STD = 2.0
_JITTER = 1e-7
_CHUNK = 256  # rows predicted at a time: their kernels stay in the cache


@dataclass(frozen=True, eq=False)
class Inputs:
    """Totals [n, t] and parts [n, p], centred and of common scale; choices [n, c], 1 where that one
    was made; a group of each [n]."""

    totals: Floats
    parts: Floats
    choices: Floats
    groups: NDArray[np.int64]

    def __getitem__(self, some: Indices | slice) -> Inputs:
        return Inputs(self.totals[some], self.parts[some], self.choices[some], self.groups[some])

    def single(self) -> Inputs:
        """In single precision, which kernels across need no more than."""
        return Inputs(
            self.totals.astype(np.float32), self.parts.astype(np.float32),
            self.choices.astype(np.float32), self.groups,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Mode:
    """One length scale: log variances, and what solves the covariance of all records."""

    length: float
    theta: Floats
    inverse: Floats
    alpha: Floats
    linear: tuple[float, Floats, Floats, Floats]  # a constant, weights of totals, parts, choices


class RobustGp:
    def __init__(self, prior: Floats = PRIOR) -> None:
        """`prior`: means of the log variances' normal priors."""
        self._prior = prior

    def fit(self, inputs: Inputs, y: Floats) -> RobustGp:
        self._inputs, self._single = inputs, inputs.single()
        self._centre, self._scale = float(np.median(y)), float(y.std())
        target = (y - self._centre) / self._scale
        some = np.random.default_rng(0).permutation(len(y))[:HYPER_RECORDS]
        with threadpool_limits(1, user_api="blas"):  # of so small matrices two threads take longer
            length, theta = self._variances(inputs[some], target[some])
        kernels = _Grams(inputs, inputs).kernels(length)
        self._mode = _solved(inputs, kernels, target, length, theta)
        self._directions = _directions(_summed(kernels, theta), self._mode)
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
        """Mean and standard deviation [m] of a new target, noise included."""
        mean, variance = np.zeros((2, len(inputs.groups)))
        for start in range(0, len(mean), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            mean[chunk], variance[chunk] = self._predict(inputs[chunk])
        return mean * self._scale + self._centre, np.sqrt(variance) * self._scale

    def _predict(self, inputs: Inputs) -> tuple[Floats, Floats]:
        mode = self._mode
        kernels = _Grams(inputs.single(), self._single).kernels(mode.length)
        _, _, smooth, _, groups, noise = np.exp(mode.theta)
        rest = smooth * kernels[2] + groups * kernels[4]
        # the linear part in double precision: it is large where the totals reach far
        constant, of_totals, of_parts, of_choices = mode.linear
        linear = constant + inputs.totals @ of_totals + inputs.parts @ of_parts
        linear += inputs.choices @ of_choices
        across = _summed(kernels, mode.theta)
        explained = ((across.astype(float) @ self._directions) ** 2).sum(1)
        known = np.maximum(_summed(_itself(inputs), mode.theta) - explained, 0)
        variance = known + noise * DEGREES / (DEGREES - 2)
        return linear + rest @ mode.alpha.astype(np.float32), variance

    def held_out(self, folds: Sequence[Indices], y: Floats) -> Floats:
        """[n]: each target as predicted without its fold, variances and weights kept."""
        target = (y - self._centre) / self._scale
        found = without_fold(self._mode.inverse, self._mode.alpha, target, folds)
        return found * self._scale + self._centre


def without_fold(inverse: Floats, alpha: Floats, y: Floats, folds: Sequence[Indices]) -> Floats:
    """[n]: a process's prediction of each target without its fold, from K^-1 and alpha = K^-1 y of
    all. Of a fold F: y_F - (K^-1)_FF^-1 alpha_F."""
    found = np.empty(len(y))
    for fold in folds:
        own = inverse[np.ix_(fold, fold)]
        found[fold] = y[fold] - np.linalg.solve(own, alpha[fold])
    return found


class _Grams:
    """What the kernels between a and b are made of."""

    def __init__(self, a: Inputs, b: Inputs) -> None:
        self._totals, self._parts = a.totals @ b.totals.T, a.parts @ b.parts.T
        squares = (a.parts**2).sum(1)[:, None] + (b.parts**2).sum(1) - 2 * self._parts
        self._far = np.sqrt(5 * np.maximum(squares, 0))
        self._choices = a.choices @ b.choices.T
        self._equal = (a.groups[:, None] == b.groups).astype(self._far.dtype)

    def kernels(self, length: float) -> Kernels:
        """The third is Matern 5/2."""
        far = self._far * (1 / length)
        smooth = (1 + far + far * far / 3) * np.exp(-far)
        return self._totals, self._parts, smooth, self._choices, self._equal


def _directions(covariance: Floats, mode: _Mode) -> Floats:
    """[n, r] D, so that the squares of k D add up to k K^-1 k, but for what is small beside noise.

    The eigenvectors of K^-1 that kernels k of records hardly meet are left out: they are noise.
    """
    values, vectors = np.linalg.eigh(mode.inverse)
    directions = vectors * np.sqrt(np.maximum(values, 0))
    met: Floats = ((covariance @ directions) ** 2).mean(0)
    order = np.argsort(met)
    left_out = np.cumsum(met[order]) < 0.02 * np.exp(mode.theta[-1])
    found: Floats = directions[:, np.sort(order[~left_out])]
    return found


def _itself(inputs: Inputs) -> Kernels:
    """The kernels of each with itself [n]."""
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
    """Inverse and log determinant of a symmetric positive definite matrix."""
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
    """Log variances of highest evidence, priors included, and its log."""
    from scipy.optimize import minimize

    def lost(theta: Floats) -> tuple[float, Floats]:
        away = (theta - prior) / PRIOR_STD
        inverse, log_determinant = _inverted(_noisy(kernels, theta, weights))
        alpha = inverse @ y
        slope = inverse - np.outer(alpha, alpha)
        slopes = [np.vdot(slope, kernel) for kernel in kernels]
        slopes.append(np.vdot(np.diag(slope), 1 / weights))
        value = 0.5 * float(y @ alpha + log_determinant + away @ away)
        return value, 0.5 * np.exp(theta) * slopes + away / PRIOR_STD

    best = minimize(
        lost, start, jac=True, method="L-BFGS-B", bounds=[(-14, 8)] * len(start),
        options={"maxiter": 15},
    )  # fmt: skip
    return best.x, -float(best.fun)


def _reweighted(
    kernels: Kernels, y: Floats, weights: Floats, theta: Floats, *, steps: int
) -> Floats:
    """Expected precision of each record's noise, given its residual under the posterior."""
    noise = np.exp(theta[-1])
    for _ in range(steps):
        inverse, _ = _inverted(_noisy(kernels, theta, weights))
        own = noise / weights
        residual = own * (inverse @ y)
        variance = np.maximum(own - own**2 * np.diag(inverse), 0)  # of the function there
        weights = (DEGREES + 1) / (DEGREES + (residual**2 + variance) / noise)
    return weights


def _solved(inputs: Inputs, kernels: Kernels, y: Floats, length: float, theta: Floats) -> _Mode:
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
    return _Mode(length, theta, inverse, alpha, linear)
