"""Computes confusion matrices and IoUs from true and predicted class maps."""

from __future__ import annotations

import numpy as np


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count pixels by true class (row) and predicted class (column): int64 [classes, classes].

    Pixels whose true label is `classes` or higher, such as 255 for "ignored", are left out.
    """
    counted = truth < classes
    pairs = truth[counted].astype(np.int64) * classes + predicted[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_ious(matrix: np.ndarray) -> np.ndarray:
    """The IoU of each class, float64 [classes]; NaN if neither truth nor prediction have it."""
    hits = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - hits
    ious = np.full(len(matrix), np.nan)
    np.divide(hits, union, out=ious, where=union > 0)
    return ious


def mean_iou(matrix: np.ndarray) -> float:
    """The mean IoU over the classes that occur in the truth or the prediction; NaN if none does."""
    ious = class_ious(matrix)
    occurring = ~np.isnan(ious)
    return float(ious[occurring].mean()) if occurring.any() else float("nan")


def foreground(matrix: np.ndarray) -> np.ndarray:
    """Merge all classes but class 0, the background, into one: a [2, 2] confusion matrix."""
    edges = [0, 1]
    return np.asarray(np.add.reduceat(np.add.reduceat(matrix, edges, 0), edges, 1))


def always_majority(matrices: np.ndarray) -> np.ndarray:
    """The confusion matrices of a baseline that predicts the most frequent true class everywhere.

    `matrices`: [classes, classes], or one for each image. One class is the most frequent for all.
    """
    majority = np.zeros_like(matrices)
    truth = matrices.sum(-1)
    majority[..., truth.reshape(-1, truth.shape[-1]).sum(0).argmax()] = truth
    return majority
