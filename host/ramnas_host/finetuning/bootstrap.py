"""Turns a score that is not a share, such as mAP or mIoU, into accuracies with 95 % intervals.

The interval is a bootstrap over images (Efron 1979): the score is computed again on samples that
are drawn, with repetition, from the images that were evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import t

from ramnas_models.accuracy import Accuracy, wilson

RESAMPLES = 200
_SEED = 0

# How often each image counts, int64 [n] -> the scores, in a fixed order
Score = Callable[[np.ndarray], Sequence[float]]


def accuracies(
    metrics: Sequence[str], score: Score, n: int, split: str, *,
    intervals: bool, images: Sequence[int] | None = None,
) -> tuple[Accuracy, ...]:  # fmt: skip
    """The accuracies `metrics` of `score` on the `n` images of a split, each counted once.

    `images` has the number of images that each metric speaks of, such as those that have a class;
    without it every metric speaks of all of them. With `intervals`, each accuracy that is not NaN
    has one. The same images give the same interval.
    """
    values = score(np.ones(n, np.int64))
    images = images or [n] * len(metrics)
    if not intervals:
        return tuple(
            Accuracy(metric, value, split, count)
            for metric, value, count in zip(metrics, values, images, strict=True)
        )
    rng = np.random.default_rng(_SEED)
    share = np.full(n, 1 / n)
    drawn = np.array([score(rng.multinomial(n, share)) for _ in range(RESAMPLES)])
    return tuple(
        Accuracy(metric, value, split, count, _interval(value, column, count))
        for metric, value, column, count in zip(metrics, values, drawn.T, images, strict=True)
    )


def _interval(value: float, drawn: np.ndarray, n: int) -> tuple[float, float] | None:
    """The normal interval with the bias taken out, from the scores `drawn` of the samples.

    On few images, mAP is too high: its precision is the best one at a recall or above. The samples,
    which hold fewer different images, score higher still, by about as much. Quantiles of the
    samples would double that error, and hold the truth too seldom. The width has Student's t, for
    few images. The interval ends at 0 and 1 and holds `value`. Samples without any object have no
    score and are left out.

    If all samples score the same, as with one image or with a perfect score, they say nothing about
    the width. Then the interval is that of a share of `n` images.
    """
    if math.isnan(value):
        return None
    deviation = float(np.nanstd(drawn))
    if n == 1 or deviation < 1e-9:
        return wilson(min(max(value, 0.0), 1.0), n)
    centre = 2 * value - float(np.nanmean(drawn))
    half = float(t.ppf(0.975, n - 1)) * math.sqrt(n / (n - 1)) * deviation
    return max(0.0, min(centre - half, value)), min(1.0, max(centre + half, value))
