"""The mean IoU against sets of pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ramnas_host.finetuning.segmentation_metrics import (
    always_majority,
    class_ious,
    confusion,
    foreground,
    mean_iou,
)


def by_hand(truth: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """The mean IoU of the sets of pixels of each class, without the ignored pixels."""
    pairs = [(t, p) for t, p in zip(truth.flatten(), predicted.flatten()) if t != 255]
    values = []
    for c in range(classes):
        true_set = {i for i, (t, _) in enumerate(pairs) if t == c}
        predicted_set = {i for i, (_, p) in enumerate(pairs) if p == c}
        if true_set | predicted_set:
            values.append(len(true_set & predicted_set) / len(true_set | predicted_set))
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", range(20))
def test_mean_iou_matches_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 6))
    truth = rng.integers(0, classes, (7, 9)).astype(np.uint8)
    predicted = np.where(rng.random((7, 9)) < 0.5, truth, rng.integers(0, classes - 1, (7, 9)))
    truth[rng.random((7, 9)) < 0.2] = 255
    matrix = confusion(truth, predicted.astype(np.uint8), classes)
    assert matrix.sum() == (truth != 255).sum()
    assert mean_iou(matrix) == pytest.approx(by_hand(truth, predicted, classes))
    two_classes = np.where(truth == 255, 255, truth > 0), predicted > 0
    assert mean_iou(foreground(matrix)) == pytest.approx(by_hand(*two_classes, 2))
    majority = np.full_like(truth, np.bincount(truth[truth != 255]).argmax())
    assert mean_iou(always_majority(matrix)) == pytest.approx(by_hand(truth, majority, classes))


def test_the_matrices_of_images_add_up() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (2, 8, 5)).astype(np.uint8)
    parts = sum(confusion(t, p, 4) for t, p in zip(truth, predicted))
    np.testing.assert_array_equal(parts, confusion(truth, predicted, 4))


def test_without_labels_the_mean_iou_is_nan() -> None:
    assert math.isnan(mean_iou(np.zeros((3, 3), np.int64)))
    assert np.isnan(class_ious(np.zeros((3, 3), np.int64))).all()
