"""COCO's scores against a slow implementation of their definition, on small cases."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ramnas_host.annotations.detection_data import Objects
from ramnas_host.finetuning.detection import evaluation
from ramnas_host.finetuning.detection_metrics import CocoMatches, Found, coco_matches, mean_scores

CATEGORIES = (3, 7, 8)


def write(path: Path, truths: list[list[float]], crowd: tuple[int, ...] = ()) -> Path:
    """Write annotations from rows of image id, left, top, width, height and category id."""
    annotations = [
        {
            "id": i + 1, "image_id": int(row[0]), "category_id": int(row[5]), "bbox": row[1:5],
            "area": row[3] * row[4], "iscrowd": int(i in crowd),
        }
        for i, row in enumerate(truths)
    ]  # fmt: skip
    images = [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in range(1, 6)]
    categories = [{"id": c, "name": str(c)} for c in CATEGORIES]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return path


def objects_of(
    truths: np.ndarray, crowd: tuple[int, ...] = (), images: Sequence[int] = range(1, 6)
) -> list[Objects]:
    """The rows of `write` as the objects of each image."""
    crowds = np.isin(np.arange(len(truths)), crowd)
    rows = np.concatenate([np.reshape(truths, (-1, 6)), crowds[:, None]], 1)
    found = []
    for image in images:
        own = rows[rows[:, 0] == image]
        boxes = np.concatenate([own[:, 1:3], own[:, 1:3] + own[:, 3:5]], 1)
        found.append(Objects(boxes.astype(np.float32), own[:, 5].astype(int), own[:, 6] > 0))
    return found


def matched(
    truths: np.ndarray, detections: np.ndarray, crowd: tuple[int, ...] = (),
    images: Sequence[int] = range(1, 6),
) -> CocoMatches:  # fmt: skip
    """The matches of rows of image id, left, top, width, height, score and category id."""
    found: list[Found] = []
    for image in images:
        own = detections[detections[:, 0] == image]
        boxes = np.concatenate([own[:, 1:3], own[:, 1:3] + own[:, 3:5]], 1)
        found.append((boxes, own[:, 5], own[:, 6].astype(int)))
    return coco_matches(objects_of(truths, crowd, images), found)


def scored(
    truths: np.ndarray, detections: np.ndarray, crowd: tuple[int, ...] = (),
    images: Sequence[int] = range(1, 6),
) -> dict[str, float]:  # fmt: skip
    matches = matched(truths, detections, crowd, images)
    return dict(zip(("mAP50-95", "mAP50"), matches.scores(np.ones(matches.n, int)), strict=True))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    intersection = max(0.0, width) * max(0.0, height)
    return float(intersection / (a[2] * a[3] + b[2] * b[3] - intersection))


def average_precision(truths: np.ndarray, detections: np.ndarray, threshold: float) -> float:
    """The 101-point interpolated AP of one category, matching the best-scored detections first."""
    taken: set[int] = set()
    hits = []
    for row in detections[np.argsort(-detections[:, 5], kind="stable")]:
        best, at = threshold, -1
        for i, truth in enumerate(truths):
            if truth[0] == row[0] and i not in taken and iou(row[1:5], truth[1:5]) >= best:
                best, at = iou(row[1:5], truth[1:5]), i
        taken |= {at} - {-1}
        hits.append(at >= 0)
    total = np.cumsum(hits)
    recall = total / len(truths)
    precision = total / np.arange(1, len(hits) + 1)
    points = [precision[recall >= r].max(initial=0) for r in np.linspace(0, 1, 101)]
    return float(np.mean(points))


def by_hand(truths: np.ndarray, detections: np.ndarray, thresholds: np.ndarray) -> float:
    values = [
        average_precision(truths[truths[:, 5] == c], detections[detections[:, 6] == c], t)
        for c in CATEGORIES
        for t in thresholds
        if (truths[:, 5] == c).any()
    ]
    return float(np.mean(values))


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Objects, and detections: shifted objects, some with a wrong class, and random boxes."""
    rng = np.random.default_rng(seed)
    n = 14
    truths = np.column_stack([
        rng.integers(1, 6, n), rng.integers(0, 60, n), rng.integers(0, 40, n),
        rng.integers(10, 40, n), rng.integers(10, 40, n), rng.choice(CATEGORIES[:2], n),
    ]).astype(float)  # fmt: skip
    seen = truths[rng.random(n) < 0.8]
    boxes = seen[:, 1:5] + rng.normal(0, 2, (len(seen), 4))
    categories = np.where(rng.random(len(seen)) < 0.8, seen[:, 5], 8)
    rows = np.column_stack([seen[:, 0], boxes, rng.random(len(seen)), categories])
    noise = np.column_stack([
        rng.integers(1, 6, 6), rng.uniform(0, 50, (6, 2)), rng.uniform(10, 30, (6, 2)),
        rng.random(6), rng.choice(CATEGORIES, 6),
    ])  # fmt: skip
    return truths, np.concatenate([rows, noise])


@pytest.mark.parametrize("seed", range(12))
def test_scores_match_their_definition(seed: int) -> None:
    truths, detections = random_case(seed)
    scores = scored(truths, detections)
    thresholds = np.linspace(0.5, 0.95, 10)
    assert scores["mAP50"] == pytest.approx(by_hand(truths, detections, thresholds[:1]), abs=1e-6)
    assert scores["mAP50-95"] == pytest.approx(by_hand(truths, detections, thresholds), abs=1e-6)
    assert 0.1 < scores["mAP50-95"] < scores["mAP50"] < 1


def test_the_truth_scores_1_and_no_detections_score_0(capsys: pytest.CaptureFixture[str]) -> None:
    truths, _ = random_case(0)
    perfect = np.column_stack([truths[:, :5], np.linspace(1, 0.5, len(truths)), truths[:, 5]])
    assert scored(truths, perfect) == pytest.approx({"mAP50-95": 1, "mAP50": 1})
    assert scored(truths, perfect[:0]) == {"mAP50-95": 0, "mAP50": 0}
    assert capsys.readouterr().out == ""  # what pycocotools prints is swallowed


def test_detections_in_a_crowd_do_not_count() -> None:
    truths = np.array([[1, 0, 0, 20, 20, 3], [1, 50, 0, 50, 80, 3]])
    detections = np.array([
        [1, 0, 0, 20, 20, 0.5, 3], [1, 55, 5, 20, 20, 0.9, 3], [1, 60, 30, 20, 20, 0.8, 3],
    ])  # fmt: skip
    assert scored(truths, detections, crowd=(1,), images=[1])["mAP50"] == pytest.approx(1)
    assert scored(truths, detections, images=[1])["mAP50"] < 0.3


def test_only_the_given_images_count() -> None:
    truths = np.array([[1, 0, 0, 20, 20, 3], [2, 0, 0, 20, 20, 3]])
    detections = np.array([[1, 0, 0, 20, 20, 0.5, 3]])
    assert scored(truths, detections, images=[1])["mAP50"] == pytest.approx(1)
    scores = scored(truths, detections, images=[1, 2])
    assert scores["mAP50"] == pytest.approx(51 / 101, abs=1e-6)


def test_without_annotations_the_scores_are_nan() -> None:
    detections = np.array([[1, 0, 0, 20, 20, 0.5, 3]])
    assert all(math.isnan(v) for v in scored(np.zeros((0, 6)), detections).values())
    assert all(math.isnan(v) for v in scored(np.zeros((0, 6)), detections[:0]).values())


@pytest.mark.parametrize("seed", range(6))
def test_scores_are_those_of_pycocotools(seed: int, tmp_path: Path) -> None:
    """Also with crowd regions, and with more boxes in an image than COCO counts."""
    truths, detections = random_case(seed)
    file = write(tmp_path / "truth.json", truths.tolist(), crowd=(0, 5))
    rng = np.random.default_rng(seed)
    many = np.column_stack([
        np.full(130, 2), rng.uniform(0, 60, (130, 2)), rng.uniform(10, 40, (130, 2)),
        rng.random(130), np.full(130, CATEGORIES[0]),
    ])  # fmt: skip
    detections = np.concatenate([detections, many])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    found = scored(truths, detections, crowd=(0, 5))
    assert list(found.values()) == pytest.approx(evaluation.stats[:2], abs=1e-12)
    of_classes = matched(truths, detections, crowd=(0, 5)).class_scores(np.ones(5, int))
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [threshold, recall, category]
    for k, category in enumerate(CATEGORIES):
        if (precision[:, :, k] > -1).all():
            expected = (precision[:, :, k].mean(), precision[0, :, k].mean())
            assert of_classes[category] == pytest.approx(expected, abs=1e-12)
        else:
            assert category >= len(of_classes) or np.isnan(of_classes[category]).all()


@pytest.mark.parametrize("seed", range(6))
def test_an_image_that_counts_twice_is_as_good_as_a_copy_of_it(seed: int) -> None:
    truths, detections = random_case(seed)
    counts = np.random.default_rng(seed).multinomial(5, np.full(5, 0.2))
    matches = matched(truths, detections)
    copies: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for number, image in enumerate(np.repeat(np.arange(1, 6), counts), start=1):
        for rows, copied in zip((truths, detections), copies):
            of_image = rows[rows[:, 0] == image].copy()
            of_image[:, 0] = number
            copied.append(of_image)
    drawn = matched(np.concatenate(copies[0]), np.concatenate(copies[1]))
    every = np.ones(5, int)
    assert matches.scores(counts) == pytest.approx(drawn.scores(every), abs=1e-9)
    of_classes, expected = matches.class_scores(counts), drawn.class_scores(every)
    assert of_classes[: len(expected)] == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_the_mean_is_over_the_classes_that_have_an_object() -> None:
    nan = float("nan")
    assert mean_scores(np.array([[nan, nan], [0.25, 0.5], [0.75, 1.0]])) == (0.5, 0.75)


def test_each_class_that_has_an_object_has_its_accuracies() -> None:
    truths, detections = random_case(3)
    found = matched(truths, detections)
    names = [f"class {k}" for k in range(10)]
    for split in ("selection", "report"):
        made = evaluation(found, names, split)
        all_classes, by_class = made.accuracies, made.by_class
        assert set(by_class) == {f"class {k:.0f}" for k in truths[:, 5]}
        for name, pair in by_class.items():
            with_it = truths[truths[:, 5] == int(name.split()[1]), 0]
            assert [accuracy.metric for accuracy in pair] == ["AP50-95", "AP50"]
            for accuracy in pair:
                assert (accuracy.split, accuracy.n) == (split, len(set(with_it)))
                assert (accuracy.interval is not None) == (split == "report")
        for place, accuracy in enumerate(all_classes):
            assert accuracy.n == 5
            mean = np.mean([pair[place].value for pair in by_class.values()])
            assert accuracy.value == pytest.approx(mean)
        assert b"null" not in msgspec.json.encode(by_class) or split == "selection"


def test_without_objects_no_class_has_an_accuracy() -> None:
    found = evaluation(matched(np.zeros((0, 6)), np.zeros((0, 7))), ["a"], "report")
    assert found.by_class == {}
    assert all(math.isnan(accuracy.value) for accuracy in found.accuracies)
