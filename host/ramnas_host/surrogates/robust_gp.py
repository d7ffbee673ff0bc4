"""A robust Gaussian process: totals, parts, choices and groups -> mean and standard deviation.

Its kernel is the sum of five. One is linear in the totals, which are known before anything is
measured and are therefore weakly penalised. One is linear in the parts, one is a Matern 5/2 of the
parts, one is linear in the choices (each choice has a number of its own, whatever its size), and
one is constant within a group. A constant is added for the mean.

The noise follows Student's t, because a board is disturbed now and then: a record far off counts
less (variational, as in Tipping and Lawrence 2005). Its variance is the sum of two. One is the same
for all archs. The other, the floor, is larger the faster an arch is, because some disturbances take
as long for a fast network as for a slow one. The variances maximise the evidence at each of three
length scales, and the length scale with the highest evidence predicts.

The standard deviations are wide enough that 1.96 of them on either side of the mean hold 95 % of
new measurements (`_reach` and `RobustGp.fit` say how).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

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
# totals, linear parts, smooth parts, choices, groups, noise, floor.
PRIOR = np.log([1.0, 0.1, 0.03, 0.01, 0.01, 0.01, 0.01])
# for targets from which a good guess was subtracted: what is left is mostly noise
MOSTLY_NOISE = np.log([0.1, 0.01, 0.003, 0.001, 0.001, 0.3, 0.3])
PRIOR_STD = 2.0
MEASURED_STD = 0.5  # the same for a floor that was measured
COVERED = 0.95  # share of new measurements within SPREAD standard deviations of the mean
SPREAD = 1.96
MODEL_RECORDS = 20  # in the width of the intervals, the noise's own shape counts like 20 records
BOUNDS = (-14.0, 8.0)  # of the log variances
_JITTER = 1e-7
_CHUNK = 256  # rows predicted at a time, so that their kernels stay in the cache


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the process knows about n archs.

    Totals [n, t] and parts [n, p] are centred and of similar scale. Choices [n, c] are 1 where an
    arch made that choice and 0 elsewhere. Groups [n] hold the number of each arch's group. Floors
    [n] say how the floor's variance is shared out: 1 for a typical arch, more for a faster one.
    """

    totals: Floats
    parts: Floats
    choices: Floats
    groups: NDArray[np.int64]
    floors: Floats

    def __getitem__(self, some: Indices | slice) -> Inputs:
        return Inputs(
            self.totals[some], self.parts[some], self.choices[some], self.groups[some],
            self.floors[some],
        )  # fmt: skip

    def single(self) -> Inputs:
        """The same in single precision, enough for kernels between new archs and records."""
        return Inputs(
            self.totals.astype(np.float32), self.parts.astype(np.float32),
            self.choices.astype(np.float32), self.groups, self.floors,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Records:
    """What is known about the records: their kernels, targets [n], and shares of the floor [n]."""

    kernels: Kernels
    y: Floats
    floors: Floats


@dataclass(frozen=True, eq=False)
class _Prior:
    """Means and standard deviations of the normal priors of the log variances."""

    mean: Floats
    std: Floats


@dataclass(frozen=True, eq=False)
class _Posterior:
    """The length scale and log variances, and what follows from them and the records.

    `weights` are the expected precisions of the records' noise, 1 for an ordinary record. `inverse`
    and `alpha` are K^-1 and K^-1 y. `linear` holds the linear part of the mean: a constant and the
    weights of totals, parts and choices.
    """

    length: float
    theta: Floats
    weights: Floats
    inverse: Floats
    alpha: Floats
    linear: tuple[float, Floats, Floats, Floats]


class RobustGp:
    """The Gaussian process; `prior` holds the means of the log variances' normal priors."""

    def __init__(self, prior: Floats = PRIOR) -> None:
        self._prior = prior

    def fit(
        self, inputs: Inputs, y: Floats, *, guessed: int = 0, floor: float | None = None
    ) -> RobustGp:
        """Learn from n archs and their targets [n].

        `guessed` is the number of weights with which the guess that was subtracted from the targets
        had been fitted to them. The fit made the targets smaller by sqrt((n - guessed) / n), so
        the standard deviations are made larger by as much. `floor` is the floor's standard
        deviation for a typical arch where it was measured. If it is small, or None, the floor is
        learnt from the targets alone: they also scatter where the process cannot follow them.
        """
        self._single = inputs.single()
        # Equal targets have no scale, and any will do.
        self._centre, self._scale = float(np.median(y)), float(y.std()) or 1.0
        target = (y - self._centre) / self._scale
        prior = _Prior(self._prior.copy(), np.full(len(self._prior), PRIOR_STD))
        if floor is not None and floor / self._scale > np.exp(self._prior[-1] / 2):
            measured = 2 * float(np.log(floor / self._scale))
            prior.mean[-1], prior.std[-1] = min(measured, BOUNDS[1]), MEASURED_STD
        some = np.random.default_rng(0).permutation(len(y))[:HYPER_RECORDS]
        length, theta = _variances(inputs[some], target[some], prior)
        records = _Records(_Grams(inputs, inputs).kernels(length), target, inputs.floors)
        self._posterior = _solved(inputs, records, length, theta)
        least_noise = float(_noise(theta, inputs.floors).min())
        self._directions = _directions(
            _summed(records.kernels, theta), self._posterior.inverse, least_noise
        )
        free = max(len(y) - guessed, 1)
        self._widening = np.sqrt(len(y) / free) * _reach(_left_out(records, self._posterior), free)
        return self

    def predict(self, inputs: Inputs) -> tuple[Floats, Floats]:
        """Mean and standard deviation [m] of a new measurement of m archs, noise included.

        1.96 standard deviations on either side of the mean hold about 95 % of such measurements.
        """
        mean, variance = np.zeros((2, len(inputs.groups)))
        for start in range(0, len(mean), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            mean[chunk], variance[chunk] = self._predict(inputs[chunk])
        return mean * self._scale + self._centre, np.sqrt(variance) * self._widening * self._scale

    def _predict(self, inputs: Inputs) -> tuple[Floats, Floats]:
        posterior = self._posterior
        kernels = _Grams(inputs.single(), self._single).kernels(posterior.length)
        _, _, smooth, _, groups, _, _ = np.exp(posterior.theta)
        rest = smooth * kernels[2] + groups * kernels[4]
        # The linear part is computed in double precision: it is large where the totals are far
        # from those of the records.
        constant, of_totals, of_parts, of_choices = posterior.linear
        linear = constant + inputs.totals @ of_totals + inputs.parts @ of_parts
        linear += inputs.choices @ of_choices
        across = _summed(kernels, posterior.theta)
        explained = ((across.astype(float) @ self._directions) ** 2).sum(1)
        known = np.maximum(_summed(_own_kernels(inputs), posterior.theta) - explained, 0)
        variance = known + _variance_of_noise(posterior.theta, inputs.floors)
        return linear + rest @ posterior.alpha.astype(np.float32), variance


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


def _directions(covariance: Floats, inverse: Floats, noise: float) -> Floats:
    """A matrix D [n, r] with |k D|^2 close to k K^-1 k for the kernels k of an arch.

    D consists of scaled eigenvectors of K^-1. Those that the kernels of the records hardly project
    on are left out: what they add is small beside the noise, and predicting gets faster.
    """
    values, vectors = np.linalg.eigh(inverse)
    directions = vectors * np.sqrt(np.maximum(values, 0))
    projected: Floats = ((covariance @ directions) ** 2).mean(0)
    order = np.argsort(projected)
    left_out = np.cumsum(projected[order]) < 0.02 * noise
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
    for variance, kernel in zip(variances[1:-2], kernels[1:], strict=True):
        total += variance * kernel
    return total


def _noise(theta: Floats, floors: Floats) -> Floats:
    """The squared scale [n] of each arch's noise."""
    squared: Floats = np.exp(theta[-2]) + np.exp(theta[-1]) * floors
    return squared


def _variance_of_noise(theta: Floats, floors: Floats) -> Floats:
    return _noise(theta, floors) * (DEGREES / (DEGREES - 2))


def _noisy(records: _Records, theta: Floats, weights: Floats) -> Floats:
    covariance = _summed(records.kernels, theta)
    covariance[np.diag_indices(len(weights))] += _noise(theta, records.floors) / weights + _JITTER
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


def _variances(inputs: Inputs, y: Floats, prior: _Prior) -> tuple[float, Floats]:
    """The length scale and the log variances with the highest evidence.

    With few records there are often two maxima: records far off may be noise, or structure that
    fits each record by itself. So the search starts from little noise and from much, and the higher
    maximum counts.
    """
    grams = _Grams(inputs, inputs)
    middle = _Records(grams.kernels(LENGTHS[len(LENGTHS) // 2]), y, inputs.floors)
    starts = [_from(start, middle, prior) for start in (PRIOR, MOSTLY_NOISE)]
    _, theta, weights = max(starts, key=lambda start: start[0])
    found = [
        _maximised(_Records(grams.kernels(length), y, inputs.floors), weights, theta, prior)
        for length in LENGTHS
    ]
    best = int(np.argmax([evidence for _, evidence in found]))
    return LENGTHS[best], found[best][0]


def _from(theta: Floats, records: _Records, prior: _Prior) -> tuple[float, Floats, Floats]:
    """The maximum that a search from `theta` finds: its evidence, log variances and weights.

    The evidence is the lower bound of the one with Student's noise. It is the evidence with normal
    noise of the given weights, minus what it costs that the weights differ from 1.
    """
    bound, weights = -np.inf, np.ones(len(records.y))
    for _ in range(2):
        theta, evidence = _maximised(records, weights, theta, prior)
        bound = evidence + DEGREES / 2 * float((np.log(weights) - weights).sum())
        weights = _reweighted(records, weights, theta, steps=3)
    return bound, theta, weights


def _maximised(
    records: _Records, weights: Floats, start: Floats, prior: _Prior
) -> tuple[Floats, float]:
    """The log variances that maximise evidence times priors, and the log of that product."""
    from scipy.optimize import minimize

    y = records.y

    def loss(theta: Floats) -> tuple[float, Floats]:
        away = (theta - prior.mean) / prior.std
        inverse, log_determinant = _inverted(_noisy(records, theta, weights))
        alpha = inverse @ y
        slope = inverse - np.outer(alpha, alpha)
        slopes = [np.vdot(slope, kernel) for kernel in records.kernels]
        own = np.diag(slope) / weights
        slopes += [np.sum(own), np.vdot(own, records.floors)]
        value = 0.5 * float(y @ alpha + log_determinant + away @ away)
        return value, 0.5 * np.exp(theta) * slopes + away / prior.std

    best = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[BOUNDS] * len(start),
        options={"maxiter": 15},
    )  # fmt: skip
    return best.x, -float(best.fun)


def _reweighted(records: _Records, weights: Floats, theta: Floats, *, steps: int) -> Floats:
    """The expected precision of each record's noise, given its residual under the posterior."""
    noise = _noise(theta, records.floors)
    for _ in range(steps):
        inverse, _ = _inverted(_noisy(records, theta, weights))
        own = noise / weights
        residual = own * (inverse @ records.y)
        # variance of the noise-free function at each record
        variance = np.maximum(own - own**2 * np.diag(inverse), 0)
        weights = (DEGREES + 1) / (DEGREES + (residual**2 + variance) / noise)
    return weights


def _solved(inputs: Inputs, records: _Records, length: float, theta: Floats) -> _Posterior:
    weights = _reweighted(records, np.ones(len(records.y)), theta, steps=6)
    inverse, _ = _inverted(_noisy(records, theta, weights))
    alpha = inverse @ records.y
    totals, parts, _, choices = np.exp(theta[:4])
    linear = (
        CONSTANT * float(alpha.sum()),
        totals * (alpha @ inputs.totals),
        parts * (alpha @ inputs.parts),
        choices * (alpha @ inputs.choices),
    )
    return _Posterior(length, theta, weights, inverse, alpha, linear)


def _left_out(records: _Records, posterior: _Posterior) -> Floats:
    """How many standard deviations each record [n] is off when it is predicted from the others.

    The variances are those of all records, so these errors come out a little too small.
    """
    own = 1 / np.diag(posterior.inverse)
    noise = _noise(posterior.theta, records.floors)
    known = np.maximum(own - noise / posterior.weights, 0)
    variance = known + _variance_of_noise(posterior.theta, records.floors)
    off: Floats = np.abs(posterior.alpha) * own / np.sqrt(variance)
    return off


def _reach(off: Floats, free: int) -> float:
    """By what factor a standard deviation must be wider, so that SPREAD of them hold COVERED.

    Two things widen it. The level of the noise is itself uncertain, so errors follow a Student's t.
    `free` records with normal noise would give it as many degrees of freedom. With the heavy tail
    of this noise they tell only DEGREES / (DEGREES + 3) as much about its level (that is the ratio
    of the Fisher informations). And the noise of a board may have other tails than Student's t.
    So the errors are taken to be distributed like a mixture of the t, which counts like
    MODEL_RECORDS records, and of the errors `off` [n] of the records themselves (the predictive
    distribution of a Dirichlet process). The mixture only widens, because `off` is a little small.
    """
    from scipy.optimize import brentq
    from scipy.stats import t

    normal = t(free * DEGREES / (DEGREES + 3))
    narrow, wide = normal.ppf((1 + COVERED) / 2), max(normal.ppf(0.9999), 2 * off.max())

    def missing(reach: float) -> float:
        inside = MODEL_RECORDS * (2 * normal.cdf(reach) - 1) + np.count_nonzero(off <= reach)
        return COVERED - float(inside) / (MODEL_RECORDS + len(off))

    found = brentq(missing, narrow, wide) if missing(narrow) > 0 else narrow
    return float(found) / SPREAD
