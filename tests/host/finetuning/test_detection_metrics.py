"""COCO's scores against a slow implementation of their definition, on small cases."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ramnas_host.finetuning.detection_metrics import coco_matches, coco_scores

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
def test_scores_match_their_definition(seed: int, tmp_path: Path) -> None:
    truths, detections = random_case(seed)
    file = write(tmp_path / "truth.json", truths.tolist())
    scores = coco_scores(file, range(1, 6), detections)
    thresholds = np.linspace(0.5, 0.95, 10)
    assert scores["mAP50"] == pytest.approx(by_hand(truths, detections, thresholds[:1]), abs=1e-6)
    assert scores["mAP50-95"] == pytest.approx(by_hand(truths, detections, thresholds), abs=1e-6)
    assert 0.1 < scores["mAP50-95"] < scores["mAP50"] < 1


def test_the_truth_scores_1_and_no_detections_score_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truths, _ = random_case(0)
    file = write(tmp_path / "truth.json", truths.tolist())
    perfect = np.column_stack([truths[:, :5], np.linspace(1, 0.5, len(truths)), truths[:, 5]])
    assert coco_scores(file, range(1, 6), perfect) == pytest.approx({"mAP50-95": 1, "mAP50": 1})
    assert coco_scores(file, range(1, 6), perfect[:0]) == {"mAP50-95": 0, "mAP50": 0}
    assert capsys.readouterr().out == ""  # what pycocotools prints is swallowed


def test_detections_in_a_crowd_do_not_count(tmp_path: Path) -> None:
    truths = [[1, 0, 0, 20, 20, 3], [1, 50, 0, 50, 80, 3]]
    detections = np.array([
        [1, 0, 0, 20, 20, 0.5, 3], [1, 55, 5, 20, 20, 0.9, 3], [1, 60, 30, 20, 20, 0.8, 3],
    ])  # fmt: skip
    crowded = write(tmp_path / "crowd.json", truths, crowd=(1,))
    assert coco_scores(crowded, [1], detections)["mAP50"] == pytest.approx(1)
    plain = write(tmp_path / "plain.json", truths)
    assert coco_scores(plain, [1], detections)["mAP50"] < 0.3


def test_only_the_given_images_count(tmp_path: Path) -> None:
    truths = [[1, 0, 0, 20, 20, 3], [2, 0, 0, 20, 20, 3]]
    file = write(tmp_path / "truth.json", truths)
    detections = np.array([[1, 0, 0, 20, 20, 0.5, 3]])
    assert coco_scores(file, [1], detections)["mAP50"] == pytest.approx(1)
    assert coco_scores(file, [1, 2], detections)["mAP50"] == pytest.approx(51 / 101, abs=1e-6)


def test_without_annotations_the_scores_are_nan(tmp_path: Path) -> None:
    file = write(tmp_path / "truth.json", [])
    detections = np.array([[1, 0, 0, 20, 20, 0.5, 3]])
    assert all(math.isnan(v) for v in coco_scores(file, [1], detections).values())
    assert all(math.isnan(v) for v in coco_scores(file, [1], detections[:0]).values())


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
    found = coco_scores(file, range(1, 6), detections)
    assert list(found.values()) == pytest.approx(evaluation.stats[:2], abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_an_image_that_counts_twice_is_as_good_as_a_copy_of_it(seed: int, tmp_path: Path) -> None:
    truths, detections = random_case(seed)
    counts = np.random.default_rng(seed).multinomial(5, np.full(5, 0.2))
    matches = coco_matches(write(tmp_path / "a.json", truths.tolist()), range(1, 6), detections)
    copies: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for number, image in enumerate(np.repeat(np.arange(1, 6), counts), start=1):
        for rows, copied in zip((truths, detections), copies):
            of_image = rows[rows[:, 0] == image].copy()
            of_image[:, 0] = number
            copied.append(of_image)
    drawn = write(tmp_path / "b.json", np.concatenate(copies[0]).tolist())
    expected = coco_scores(drawn, range(1, 6), np.concatenate(copies[1]))
    assert matches.scores(counts) == pytest.approx(tuple(expected.values()), abs=1e-9)
