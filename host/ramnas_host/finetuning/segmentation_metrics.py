"""Predicted and true classes of pixels -> confusion matrix -> mean IoU."""

from __future__ import annotations

import numpy as np


def confusion(truth: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """int64 [classes, classes], true class by row; pixels whose truth is no class do not count."""
    counted = truth < classes
    pairs = truth[counted].astype(np.int64) * classes + found[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def mean_iou(matrix: np.ndarray) -> float:
    """Mean over the classes that occur, in truth or prediction; NaN if none does."""
    hits = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - hits
    some = union > 0
    return float((hits[some] / union[some]).mean()) if some.any() else float("nan")


def foreground(matrix: np.ndarray) -> np.ndarray:
    """[2, 2]: class 0, the background, against all others."""
    edges = [0, 1]
    return np.asarray(np.add.reduceat(np.add.reduceat(matrix, edges, 0), edges, 1))


def of_the_majority(matrix: np.ndarray) -> np.ndarray:
    """What the matrix would be if every pixel were taken for the most frequent class."""
    majority = np.zeros_like(matrix)
    truth = matrix.sum(1)
    majority[:, truth.argmax()] = truth
    return majority
