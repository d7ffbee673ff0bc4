"""Visits of many networks -> the part of their noise that is as many milliseconds for every one.

The visits of one network scatter, partly by a share of its latency, and partly by a number of
milliseconds that does not depend on it, such as that of an interrupt or of a launch. The second
part is why the fast networks of some boards scatter several times as much as the slow ones.
"""

from __future__ import annotations

import numpy as np

from ramnas_edge.measuring.drift import Fit, robust_sigma

MIN_VISITS = 4  # of an arch, or else its scatter says nothing
FASTEST = 1e-6  # of the median: an arch that seems faster is an error, and its square overflows
NO_SCATTER = 1e-9  # of the logarithms: what is left by rounding


def floor_ms(fitted: Fit) -> float | None:
    """The standard error in ms that each latency has from the part that is the same for all.

    The variance of the log visits of an arch is taken to be relative^2 + (floor / ms)^2, and both
    parts maximise the likelihood over the archs. The latency of an arch averages its visits, so the
    floor is divided by the root of their median number. None if the visits do not scatter, as it is
    where the clock is coarse, or if fewer than three archs have MIN_VISITS.
    """
    from scipy.optimize import nnls

    known = [name for name, visits in fitted.residuals.items() if len(visits) >= MIN_VISITS]
    variance = np.array([robust_sigma(fitted.residuals[name]) for name in known]) ** 2
    if len(known) < 3 or variance.mean() < NO_SCATTER**2:
        return None
    ms = np.exp([fitted.level[name] for name in known])
    visits = np.array([len(fitted.residuals[name]) for name in known])
    typical = float(np.median(ms))
    ratio = typical / np.maximum(ms, FASTEST * typical)
    shape = np.column_stack([np.ones(len(ms)), ratio**2])
    expected = np.full(len(ms), variance.mean())
    for _ in range(20):  # the variance of a variance is proportional to its square
        weight = np.sqrt(visits) / expected
        parts = nnls(shape * weight[:, None], variance * weight)[0]
        expected = np.maximum(shape @ parts, 1e-3 * variance.mean())
    return float(typical * np.sqrt(parts[1] / np.median(visits)))
