"""Boxes -> what every anchor shall say, and the loss of what it says (SSD, Liu et al. 2016)."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ramnas_host.data.coco import Objects
from ramnas_models.anchors import encode

_MATCH = 0.5  # IoU from which an anchor stands for an object
_NEGATIVES = 3  # background anchors for each that stands for an object


def match(objects: Objects, anchors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels int64 [A] and regression targets float32 [A, 4] for `anchors` [A, 4] (cx, cy, w, h).

    An anchor stands for the object that it overlaps most, from IoU 0.5; and every object has the
    anchor that overlaps it best, the best pairs first. Label 0 is background, k + 1 class k; -1,
    mostly inside a crowd region, teaches nothing.
    """
    labels = np.zeros(len(anchors), np.int64)
    targets = np.zeros((len(anchors), 4), np.float32)
    crowd, single = objects.take(objects.crowd), objects.take(~objects.crowd)
    if len(crowd.boxes):
        covered = _overlaps(anchors, crowd.boxes) / (anchors[:, 2] * anchors[:, 3])[:, None]
        labels[covered.max(1) >= _MATCH] = -1
    if len(single.boxes):
        overlaps = iou(anchors, single.boxes)
        chosen, best = overlaps.argmax(1), overlaps.max(1)
        for _ in range(len(single.boxes)):
            anchor, number = np.unravel_index(overlaps.argmax(), overlaps.shape)
            chosen[anchor], best[anchor] = number, 1
            overlaps[anchor], overlaps[:, number] = -1, -1
        matched = best >= _MATCH
        labels[matched] = single.classes[chosen[matched]] + 1
        targets[matched] = encode(single.boxes[chosen[matched]], anchors[matched])
    return labels, targets


def iou(anchors: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """[A, 4] (cx, cy, w, h) and [n, 4] (left, top, right, bottom) -> [A, n]."""
    both = _overlaps(anchors, boxes)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    union = (anchors[:, 2] * anchors[:, 3])[:, None] + areas - both
    return np.asarray(both / union)


def ssd_loss(
    class_logits: Tensor, box_regression: Tensor, labels: Tensor, deltas: Tensor
) -> Tensor:
    """Cross-entropy and smooth L1 for each object anchor; of the background the hardest alone.

    [n, A, 1 + classes], [n, A, 4]; labels and deltas as `match` gives them, [n, A], [n, A, 4]. In
    every image background anchors count up to 3 times the object anchors, those with the highest
    loss; 3 in one without objects.
    """
    positive = labels > 0
    entropy = F.cross_entropy(class_logits.transpose(1, 2), labels.clamp(min=0), reduction="none")
    hardness = entropy.detach().masked_fill(labels != 0, -1.0)
    order = hardness.argsort(dim=1, descending=True, stable=True).argsort(1)
    hard = (order < _NEGATIVES * positive.sum(1, keepdim=True).clamp(min=1)) & (labels == 0)
    boxes = F.smooth_l1_loss(box_regression[positive], deltas[positive], reduction="sum")
    return (entropy[positive | hard].sum() + boxes) / positive.sum().clamp(min=1)


def _overlaps(anchors: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Areas of the intersections, [A, n]."""
    low, high = anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2
    sides = np.minimum(high[:, None], boxes[:, 2:]) - np.maximum(low[:, None], boxes[:, :2])
    return np.asarray(sides.clip(0).prod(2))
