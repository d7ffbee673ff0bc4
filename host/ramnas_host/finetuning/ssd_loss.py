"""Matches annotated boxes to anchors and computes the SSD loss (Liu et al. 2016)."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ramnas_host.annotations.detection_data import Objects
from ramnas_models.anchors import encode

_MATCH_IOU = 0.5  # an anchor that overlaps an object at least this much is matched to it
_NEGATIVES = 3  # background anchors in the loss for each matched anchor


def match(objects: Objects, anchors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels int64 [A] and regression targets float32 [A, 4] for `anchors` [A, 4] (cx, cy, w, h).

    An anchor is matched to the object that it overlaps most, if their IoU is 0.5 or more. So that
    no object goes without, each one also gets the free anchor that overlaps it best; the best
    pairs are matched first. Label 0 is background and k + 1 is class k. Unmatched anchors with at
    least half of their area inside a crowd region get label -1, which `ssd_loss` ignores.
    """
    labels = np.zeros(len(anchors), np.int64)
    targets = np.zeros((len(anchors), 4), np.float32)
    crowds, singles = objects.take(objects.crowd), objects.take(~objects.crowd)
    if len(crowds.boxes):
        covered = _intersections(anchors, crowds.boxes) / (anchors[:, 2] * anchors[:, 3])[:, None]
        labels[covered.max(1) >= _MATCH_IOU] = -1
    if len(singles.boxes):
        ious = iou(anchors, singles.boxes)
        object_of, best = ious.argmax(1), ious.max(1)
        for _ in range(len(singles.boxes)):
            anchor, index = np.unravel_index(ious.argmax(), ious.shape)
            object_of[anchor], best[anchor] = index, 1
            ious[anchor], ious[:, index] = -1, -1
        matched = best >= _MATCH_IOU
        labels[matched] = singles.classes[object_of[matched]] + 1
        targets[matched] = encode(singles.boxes[object_of[matched]], anchors[matched])
    return labels, targets


def iou(anchors: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU [A, n] of anchors [A, 4] (cx, cy, w, h) and boxes [n, 4] (left, top, right, bottom)."""
    intersections = _intersections(anchors, boxes)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    unions = (anchors[:, 2] * anchors[:, 3])[:, None] + areas - intersections
    return np.asarray(intersections / unions)


def ssd_loss(
    class_logits: Tensor, box_regression: Tensor, labels: Tensor, deltas: Tensor
) -> Tensor:
    """Cross-entropy plus smooth L1 of the boxes, divided by the number of matched anchors.

    Shapes: class_logits [n, A, 1 + classes], box_regression [n, A, 4]; labels [n, A] and deltas
    [n, A, 4] as `match` returns them. Of the background anchors of an image only those with the
    highest loss count: three for each matched anchor, or three if the image has no object.
    """
    positive = labels > 0
    entropy = F.cross_entropy(class_logits.transpose(1, 2), labels.clamp(min=0), reduction="none")
    hardness = entropy.detach().masked_fill(labels != 0, -1.0)
    order = hardness.argsort(dim=1, descending=True, stable=True).argsort(1)
    hard = (order < _NEGATIVES * positive.sum(1, keepdim=True).clamp(min=1)) & (labels == 0)
    boxes = F.smooth_l1_loss(box_regression, deltas, reduction="none").sum(2)
    # `where` and not an index: to count the chosen anchors, every step would wait for the GPU
    chosen = entropy.where(positive | hard, 0.0).sum() + boxes.where(positive, 0.0).sum()
    return chosen / positive.sum().clamp(min=1)


def _intersections(anchors: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The areas [A, n] that anchors and boxes share."""
    low, high = anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2
    sides = np.minimum(high[:, None], boxes[:, 2:]) - np.maximum(low[:, None], boxes[:, :2])
    return np.asarray(sides.clip(0).prod(2))
