"""Held-out residuals of the measured archs -> the Kendall tau to expect over other archs.

Calibration measures archs that are spread over the whole range of costs. Archs that are drawn
uniformly are more alike, so their order is harder to predict, and the cross-validated tau of the
measured archs promises too much for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

ARCHS = 500  # archs to draw for the estimate
MOST_RESIDUALS = 500
BANDWIDTH = 0.25  # of the densities, in standard deviations of the held-out predictions


def expected_tau(predicted: Floats, held_out: Floats, truth: Floats) -> float:
    """The tau to expect between `predicted` [m] and new measurements of the same m archs.

    `truth` [n] are the measured archs and `held_out` [n] their cross-validated predictions; all
    three are logarithms where errors are relative. The estimate takes the truth of a new arch to be
    its prediction times `_slope`, plus the residual of a measured one. Two archs are then in order,
    on balance, as often as two residuals differ by less than their scaled predictions do. A
    residual counts by how many of the m archs there are for each measured one near its prediction.
    """
    held_out, truth = held_out[:MOST_RESIDUALS], truth[:MOST_RESIDUALS]
    weights, scale = _density_ratio(predicted, held_out), _slope(held_out, truth)
    predicted, residuals = scale * predicted, truth - scale * held_out
    a, b = np.triu_indices(len(residuals), 1)
    gaps, counts = np.abs(residuals[a] - residuals[b]), weights[a] * weights[b]
    order = np.argsort(gaps)
    below = np.concatenate([[0.0], np.cumsum(counts[order])])
    i, j = np.triu_indices(len(predicted), 1)
    apart = np.abs(predicted[i] - predicted[j])
    return float((below[np.searchsorted(gaps[order], apart)] / below[-1]).mean())


def _slope(held_out: Floats, truth: Floats) -> float:
    """How much the truths [n] rise where the predictions rise by 1, at least 0 and at most 1.

    It is small where predictions follow the noise that they were fitted to, and 0 where they say
    nothing about the truth. Without it, predictions of mere noise promised a tau of 0.3.
    """
    variance = float(held_out.var())
    if variance == 0:
        return 0.0
    together = float(((held_out - held_out.mean()) * (truth - truth.mean())).mean())
    return min(max(together / variance, 0.0), 1.0)


def _density_ratio(predicted: Floats, held_out: Floats) -> Floats:
    """At each held-out prediction [n], the density of `predicted` [m] over that of `held_out`."""
    width = max(BANDWIDTH * float(held_out.std()), 1e-12)

    def density(centres: Floats) -> Floats:
        found: Floats = np.exp(-0.5 * ((held_out[:, None] - centres) / width) ** 2).mean(1)
        return found

    # The floor leaves every residual some weight if no drawn arch is near any measured one.
    return density(predicted) / density(held_out) + 1e-6
