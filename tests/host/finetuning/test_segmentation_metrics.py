"""mIoU against counting pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ramnas_host.finetuning.segmentation_metrics import (
    confusion,
    foreground,
    mean_iou,
    of_the_majority,
)


def by_hand(truth: np.ndarray, found: np.ndarray, classes: int) -> float:
    """Intersections and unions of the sets of pixels of each class, ignored ones left out."""
    pairs = [(t, f) for t, f in zip(truth.flatten(), found.flatten()) if t != 255]
    values = []
    for c in range(classes):
        of_truth = {i for i, (t, _) in enumerate(pairs) if t == c}
        of_found = {i for i, (_, f) in enumerate(pairs) if f == c}
        if of_truth | of_found:
            values.append(len(of_truth & of_found) / len(of_truth | of_found))
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", range(20))
def test_mean_iou_is_that_of_the_sets_of_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 6))
    truth = rng.integers(0, classes, (7, 9)).astype(np.uint8)
    found = np.where(rng.random((7, 9)) < 0.5, truth, rng.integers(0, classes - 1, (7, 9)))
    truth[rng.random((7, 9)) < 0.2] = 255
    matrix = confusion(truth, found.astype(np.uint8), classes)
    assert matrix.sum() == (truth != 255).sum()
    assert mean_iou(matrix) == pytest.approx(by_hand(truth, found, classes))
    background = np.where(truth == 255, 255, truth > 0), found > 0
    assert mean_iou(foreground(matrix)) == pytest.approx(by_hand(*background, 2))
    most = np.bincount(truth[truth != 255]).argmax()
    always = np.full_like(truth, most)
    assert mean_iou(of_the_majority(matrix)) == pytest.approx(by_hand(truth, always, classes))


def test_confusions_add_up_over_images() -> None:
    rng = np.random.default_rng(0)
    truth, found = rng.integers(0, 4, (2, 8, 5)).astype(np.uint8)
    parts = sum(confusion(t, f, 4) for t, f in zip(truth, found))
    np.testing.assert_array_equal(parts, confusion(truth, found, 4))


def test_nothing_labelled_is_no_figure() -> None:
    assert math.isnan(mean_iou(np.zeros((3, 3), np.int64)))
