"""Matching and loss of SSD against a slow implementation of their definition."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F

from ramnas_host.annotations.detection_data import Objects
from ramnas_host.finetuning.ssd_loss import iou, match, ssd_loss
from ramnas_models.anchors import Anchors, decode

ANCHORS = Anchors(
    input_hw=(96, 128), feature_hw=((6, 8), (3, 4)), sizes=((20.0, 40.0), (40.0, 70.0)),
    ratios=((1.0, 2.0), (1.0, 0.5)),
).boxes()  # fmt: skip


def objects(boxes: list[list[float]], crowd: list[bool] | None = None) -> Objects:
    n = len(boxes)
    array = np.array(boxes, np.float32).reshape(-1, 4)
    return Objects(array, np.arange(n), np.array(crowd or [False] * n, bool))


def random_objects(rng: np.random.Generator, n: int) -> Objects:
    low = rng.uniform(0, (90, 60), (n, 2))
    side = rng.uniform(6, 40, (n, 2))
    return objects(np.concatenate([low, low + side], 1).tolist())


def area(box: np.ndarray) -> float:
    return float(max(0, box[2] - box[0]) * max(0, box[3] - box[1]))


def plain_iou(anchor: np.ndarray, box: np.ndarray) -> float:
    cx, cy, w, h = anchor
    corners = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    low, high = np.maximum(corners[:2], box[:2]), np.minimum(corners[2:], box[2:])
    intersection = area(np.concatenate([low, high]))
    return intersection / (area(corners) + area(box) - intersection)


def test_iou_matches_its_definition() -> None:
    boxes = random_objects(np.random.default_rng(0), 5).boxes
    expected = [[plain_iou(anchor, box) for box in boxes] for anchor in ANCHORS]
    np.testing.assert_allclose(iou(ANCHORS, boxes), expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_anchors_match_what_they_overlap_and_every_object_has_one(seed: int) -> None:
    truth = random_objects(np.random.default_rng(seed), 4)
    labels, targets = match(truth, ANCHORS)
    assert set(labels) - {0} == {1, 2, 3, 4}
    overlaps = iou(ANCHORS, truth.boxes)
    forced = 0
    for a, label in enumerate(labels):
        if label == 0:
            assert overlaps[a].max() < 0.5
            assert not targets[a].any()
            continue
        best = overlaps[a, label - 1]
        if not (best >= 0.5 and best == overlaps[a].max()):
            forced += 1
        box = truth.boxes[label - 1]
        np.testing.assert_allclose(decode(targets[a], ANCHORS[a]), box, atol=1e-3)
    assert forced <= len(truth.boxes)
    for k in range(4):  # each object has its best anchor, unless another one overlaps that more
        best = overlaps[:, k].argmax()
        assert labels[best] == k + 1 or overlaps[best, labels[best] - 1] >= overlaps[best, k]


def test_two_objects_with_the_same_best_anchor_both_get_one() -> None:
    centre = ANCHORS[20]
    cx, cy, w, h = (float(v) for v in centre)
    same = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
    smaller = [cx - w / 2.2, cy - h / 2.2, cx + w / 2.2, cy + h / 2.2]
    assert iou(ANCHORS, np.array([same, smaller], np.float32)).argmax(0).tolist() == [20, 20]
    labels, _ = match(objects([smaller, same]), ANCHORS)
    assert labels[20] == 2
    assert 1 in labels


def test_without_objects_all_is_background_and_crowds_are_ignored() -> None:
    labels, targets = match(objects([]), ANCHORS)
    assert not labels.any()
    assert not targets.any()
    labels, _ = match(objects([[0, 0, 64, 96]], crowd=[True]), ANCHORS)
    inside = (ANCHORS[:, 0] + ANCHORS[:, 2] / 2 <= 64) & (ANCHORS[:, 1] <= 96)
    assert (labels[inside & (ANCHORS[:, 0] - ANCHORS[:, 2] / 2 >= 0)] == -1).all()
    assert (labels[ANCHORS[:, 0] > 100] == 0).all()
    object_in_crowd = objects([[0, 0, 64, 96], [10, 10, 32, 30]], crowd=[True, False])
    labels, _ = match(object_in_crowd, ANCHORS)
    assert (labels == 2).any()


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_matches_its_definition(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    n, anchors, classes = 3, 40, 4
    logits = torch.randn(n, anchors, 1 + classes, generator=generator)
    boxes, deltas = torch.randn(2, n, anchors, 4, generator=generator)
    labels = torch.zeros(n, anchors, dtype=torch.long)
    labels[0, :5] = torch.tensor([1, 4, 2, 2, 3])
    labels[1, 7] = 3
    labels[1, 8:20] = -1
    expected = 0.0
    for i in range(n):  # the last image has no object
        positive = [a for a in range(anchors) if labels[i, a] > 0]
        background = [a for a in range(anchors) if labels[i, a] == 0]
        loss = {
            a: float(F.cross_entropy(logits[i, a][None], labels[i, a][None].clamp(min=0)))
            for a in positive + background
        }
        hardest = sorted(background, key=lambda a: -loss[a])[: 3 * max(1, len(positive))]
        expected += sum(loss[a] for a in positive + hardest)
        for a in positive:
            expected += float(F.smooth_l1_loss(boxes[i, a], deltas[i, a], reduction="sum"))
    assert float(ssd_loss(logits, boxes, labels, deltas)) == pytest.approx(expected / 6, rel=1e-4)


def test_without_objects_only_background_anchors_get_a_gradient() -> None:
    logits = torch.zeros(1, 6, 3, requires_grad=True)
    boxes = torch.zeros(1, 6, 4, requires_grad=True)
    labels = torch.tensor([[0, -1, -1, 0, -1, -1]])
    ssd_loss(logits, boxes, labels, torch.zeros(1, 6, 4)).backward()
    assert logits.grad is not None
    assert logits.grad[0].abs().sum(1).bool().tolist() == [True, False, False, True, False, False]
    assert boxes.grad is not None
    assert not boxes.grad.any()
