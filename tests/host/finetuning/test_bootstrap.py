"""The intervals of scores that are no shares: how often they hold the truth, and their edges."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("torch")

from ramnas_host.annotations.detection_data import Objects
from ramnas_host.finetuning import bootstrap
from ramnas_host.finetuning.detection_metrics import CocoMatches, Found, coco_matches
from ramnas_host.finetuning.segmentation_metrics import mean_iou
from ramnas_models.accuracy import wilson


def segmented(n: int, rng: np.random.Generator) -> bootstrap.Score:
    """mIoU over `n` images of four classes, some of them harder than others."""
    classes = 4
    matrices = np.zeros((n, classes, classes))
    for matrix, skill in zip(matrices, rng.beta(5, 2, n)):
        for c in (0, *rng.choice([1, 2, 3], rng.integers(1, classes), replace=False)):
            pixels = int(rng.lognormal(6, 0.7))
            hits = rng.binomial(pixels, skill)
            matrix[c, c] += hits
            matrix[c] += (pixels - hits) * rng.dirichlet(np.ones(classes))
    flat = matrices.reshape(n, -1)
    return lambda counts: [mean_iou((counts @ flat).reshape(classes, classes))]


def detected(n: int, rng: np.random.Generator) -> CocoMatches:
    """A detector's boxes on `n` images with objects of two classes, matched to them."""
    truths: list[Objects] = []
    found: list[Found] = []
    for _ in range(n):
        skill = rng.beta(4, 2)
        boxes, classes, rows = [], [], []
        for _ in range(rng.integers(1, 5)):
            box = [*rng.integers(0, 60, 2).tolist(), *rng.integers(15, 40, 2).tolist()]
            category = int(rng.integers(0, 2))
            boxes.append(box)
            classes.append(category)
            if rng.random() < skill:
                rows.append([*(box + rng.normal(0, 2, 4)), rng.beta(3, 2), category])
        for _ in range(rng.poisson(1.5)):
            box = [*rng.integers(0, 60, 2).tolist(), *rng.integers(10, 30, 2).tolist()]
            rows.append([*box, rng.beta(2, 3), int(rng.integers(0, 2))])
        truths.append(
            Objects(
                _corners(boxes).astype(np.float32), np.array(classes), np.zeros(len(boxes), bool)
            )
        )
        table = np.array(rows).reshape(-1, 6)
        found.append((_corners(table[:, :4]), table[:, 4], table[:, 5].astype(int)))
    return coco_matches(truths, found)


def _corners(boxes: list[list[int]] | np.ndarray) -> np.ndarray:
    table = np.array(boxes, float).reshape(-1, 4)
    return np.concatenate([table[:, :2], table[:, :2] + table[:, 2:]], 1)


def coverage(score: Callable[[], bootstrap.Score], truth: float, n: int, trials: int) -> float:
    """How often the interval of the first score holds `truth`."""
    hits = 0
    for _ in range(trials):
        first = bootstrap.accuracies(("x",), score(), n, "report", intervals=True)[0]
        assert first.interval is not None
        hits += first.interval[0] <= truth <= first.interval[1]
    return hits / trials


# 95 % of 150 trials are 142, give or take 5 at two standard deviations
@pytest.mark.parametrize(("n", "at_least"), [(12, 0.87), (60, 0.9)])
def test_the_interval_of_the_mean_iou_holds_the_score_of_very_many_images(
    n: int, at_least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 100)
    rng = np.random.default_rng(0)
    truth = segmented(10_000, rng)(np.ones(10_000))[0]
    assert at_least <= coverage(lambda: segmented(n, rng), truth, n, 150) <= 0.99


def test_the_interval_of_the_map_holds_the_score_of_very_many_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On few images mAP50-95 is too high, and quantiles of the samples would hold 80 %."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 50)
    rng = np.random.default_rng(0)
    truth = detected(2000, rng).scores(np.ones(2000, np.int64))[0]

    def map50_95() -> bootstrap.Score:
        matches = detected(30, rng)
        return lambda counts: matches.scores(counts)[:1]

    assert 0.88 <= coverage(map50_95, truth, 30, 80) <= 1


def test_four_times_as_many_images_halve_the_interval() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for n in (100, 400):
        (found,) = bootstrap.accuracies(("x",), segmented(n, rng), n, "report", intervals=True)
        assert found.interval is not None
        assert found.interval[0] < found.value < found.interval[1]
        widths.append(found.interval[1] - found.interval[0])
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.3)


def test_the_same_images_give_the_same_accuracies_and_only_a_report_has_intervals() -> None:
    score = segmented(20, np.random.default_rng(2))
    found = [bootstrap.accuracies(("x",), score, 20, "report", intervals=True) for _ in range(2)]
    assert found[0] == found[1]
    (plain,) = bootstrap.accuracies(("x",), score, 20, "selection", intervals=False)
    assert (plain.value, plain.n, plain.interval) == (found[0][0].value, 20, None)


def test_where_all_samples_score_the_same_the_interval_is_that_of_a_share() -> None:
    """One image, a perfect score, and objects in one image only."""

    def of_first(counts: np.ndarray) -> list[float]:
        return [0.5 if counts[0] else float("nan")]  # samples without that image have no score

    cases: tuple[tuple[bootstrap.Score, int, float], ...] = (
        (lambda counts: [0.7], 1, 0.7), (lambda counts: [1.0], 10, 1.0), (of_first, 6, 0.5),
    )  # fmt: skip
    for score, n, value in cases:
        (found,) = bootstrap.accuracies(("x",), score, n, "report", intervals=True)
        assert found.interval == wilson(value, n)


def test_a_score_of_some_of_the_images_has_the_interval_of_as_many() -> None:
    """A perfect score on 2 of 200 images is not as sure as one on all of them."""
    rare, common = bootstrap.accuracies(
        ("x", "x"), lambda counts: [1.0, 1.0], 200, "report", intervals=True, images=[2, 200]
    )
    assert (rare.n, common.n) == (2, 200)
    assert (rare.interval, common.interval) == (wilson(1.0, 2), wilson(1.0, 200))


def test_nothing_scored_has_no_interval() -> None:
    nan = float("nan")
    (none,) = bootstrap.accuracies(("x",), lambda counts: [nan], 5, "report", intervals=True)
    assert math.isnan(none.value)
    assert none.interval is None
