"""Turns a score that is not a share, such as mAP or mIoU, into accuracies with 95 % intervals.

The interval is a percentile bootstrap over images (Efron 1979): the score is computed again on
samples that are drawn, with repetition, from the images that were evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import norm, t

from ramnas_models.accuracy import Accuracy

RESAMPLES = 400
_SEED = 0

# How often each image counts, int64 [n] -> the scores, in a fixed order
Score = Callable[[np.ndarray], Sequence[float]]


def accuracies(
    metrics: Sequence[str], score: Score, n: int, split: str, *, intervals: bool
) -> tuple[Accuracy, ...]:
    """The accuracies `metrics` of `score` on the `n` images of a split, each counted once.

    With `intervals`, each accuracy that is not NaN has one. The same images give the same interval.
    """
    values = score(np.ones(n, np.int64))
    if not intervals:
        return tuple(
            Accuracy(metric, value, split, n)
            for metric, value in zip(metrics, values, strict=True)
        )  # fmt: skip
    rng = np.random.default_rng(_SEED)
    share = np.full(n, 1 / n)
    drawn = np.array([score(rng.multinomial(n, share)) for _ in range(RESAMPLES)])
    return tuple(
        Accuracy(metric, value, split, n, None if math.isnan(value) else _interval(column, n))
        for metric, value, column in zip(metrics, values, drawn.T, strict=True)
    )


def _interval(drawn: np.ndarray, n: int) -> tuple[float, float]:
    """The interval between two quantiles of the resampled scores `drawn`.

    The 2.5 and 97.5 % quantiles would be too narrow for few images, so the quantiles lie further
    out (the expanded percentile interval of Hesterberg 2015). A single image says nothing about
    others, and its interval is 0 to 1. Samples without any object to score, NaN, are left out.
    """
    if n == 1:
        return 0.0, 1.0
    outside = norm.cdf(math.sqrt(n / (n - 1)) * t.ppf(0.025, n - 1))
    low, high = np.nanquantile(drawn, [outside, 1 - outside])
    return float(low), float(high)
