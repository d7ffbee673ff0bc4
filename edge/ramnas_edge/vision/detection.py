"""Class logits and box regressions of one frame -> the boxes that stand, in the frame's pixels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Tuple

import msgspec
import numpy as np

from ramnas_models import anchors as ssd
from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]

CHUNK = 128  # above_score compared with each other at once


class Limits(msgspec.Struct, frozen=True):
    """Which boxes stand.

    `score`: softmax, at least. `iou`: of two boxes of a class that overlap by more, the better one
    stands. `count`: at most so many, the best.
    """

    score: float = 0.3
    iou: float = 0.5
    count: int = 100

    def __post_init__(self) -> None:
        if not (0 < self.score < 1 and 0 <= self.iou <= 1 and self.count > 0):
            raise DataError(f"{self}: score in (0, 1), iou in [0, 1], count 1 or more")


def detect(
    logits: Floats,
    deltas: Floats,
    anchors: Floats,
    input_hw: Tuple[int, int],
    frame_hw: Tuple[int, int],
    limits: Limits,
) -> Tuple[Floats, Floats, Ints]:
    """`logits` [A, 1 + classes], background first; `deltas` and `anchors` [A, 4], in input pixels.

    -> boxes [n, 4] (x0, y0, x1, y1 in pixels of a frame of `frame_hw`, which was resized to
    `input_hw` as a whole), scores [n], classes [n]; best first. Boxes are clipped to the frame, and
    left out if nothing of them is in it. An anchor may give a box for each of several classes.
    """
    rows, classes, scores = above_score(logits, limits.score)
    boxes = ssd.decode(deltas[rows], anchors[rows])
    height, width = frame_hw
    boxes *= np.array([width / input_hw[1], height / input_hw[0]] * 2, np.float32)
    np.clip(boxes, 0, np.array([width, height] * 2, np.float32), out=boxes)
    inside = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    boxes, scores, classes = boxes[inside], scores[inside], classes[inside]
    stand = suppress(boxes, scores, classes, limits)
    return boxes[stand], scores[stand], classes[stand]


def above_score(logits: Floats, score: float) -> Tuple[Ints, Ints, Floats]:
    """(anchor, class, softmax) of every class of at least `score`; by anchor, then class.

    softmax(k) is at most sigmoid(logit k - logit of the background): most anchors are out by that,
    and only the others are worth an exponential. Which of their classes may count shows before
    anything is divided; rounding is decided on these few.
    """
    background, best = logits[:, 0], logits[:, 1:].max(1)
    rows = np.flatnonzero(best - background > math.log(score / (1 - score)) - 1e-3)
    some = logits[rows]
    some -= np.maximum(best[rows], background[rows])[:, None]
    np.exp(some, out=some)
    sums = some.sum(1)
    may = some[:, 1:] >= (0.999 * score * sums)[:, None]
    found, classes = np.divmod(np.flatnonzero(may), may.shape[1])  # far faster than nonzero of 2D
    scores = some[found, classes + 1] / sums[found]
    enough = np.flatnonzero(scores >= np.float32(score))
    return rows[found[enough]], classes[enough], scores[enough]


def suppress(boxes: Floats, scores: Floats, classes: Ints, limits: Limits) -> Ints:
    """Greedy non-maximum suppression within each class: indices of those that stand, best first.

    In chunks from the best downwards: against those that stand already, then within the chunk. So
    memory is bounded, and the work ends as soon as `limits.count` stand. Equal scores: first come.
    """
    order = np.argsort(-scores, kind="stable")
    x0, y0, x1, y1 = np.ascontiguousarray(boxes.T)
    areas = (x1 - x0) * (y1 - y0)

    def overlap(some: Ints, others: Ints) -> NDArray[np.bool_]:
        """[some, others]: of one class, and IoU above the limit."""
        a = some[:, None]
        width = np.minimum(x1[a], x1[others]) - np.maximum(x0[a], x0[others])
        height = np.minimum(y1[a], y1[others]) - np.maximum(y0[a], y0[others])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        union = areas[a] + areas[others] - shared
        over: NDArray[np.bool_] = (shared > limits.iou * union) & (classes[a] == classes[others])
        return over

    stand = order[:0]
    for first in range(0, len(order), CHUNK):
        chunk = order[first : first + CHUNK]
        chunk = chunk[~overlap(chunk, stand).any(1)]
        rivals = np.triu(overlap(chunk, chunk), 1)
        left = np.ones(len(chunk), bool)
        for i in np.flatnonzero(rivals.any(1)):
            if left[i]:
                left &= ~rivals[i]
        stand = np.concatenate([stand, chunk[left]])
        if len(stand) >= limits.count:
            break
    return stand[: limits.count]
