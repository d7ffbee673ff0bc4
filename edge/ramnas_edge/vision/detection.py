"""Class logits and box regressions of one frame -> the boxes to keep, in pixels of the frame."""

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

CHUNK = 128  # boxes that are compared with each other at once


class Limits(msgspec.Struct, frozen=True):
    """Which boxes of a frame are kept.

    A box needs a softmax of at least `score`. Where two boxes of the same class overlap by more
    than `iou`, only the one with the higher score stays. `count` is the largest number of boxes.
    DataError if `score` is not in (0, 1), `iou` not in [0, 1] or `count` not positive.
    """

    score: float = 0.3
    iou: float = 0.5
    count: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.score < 1:
            raise DataError(f"score {self.score:g}: it must be above 0 and below 1")
        if not 0 <= self.iou <= 1:
            raise DataError(f"iou {self.iou:g}: it must lie between 0 and 1")
        if self.count < 1:
            raise DataError(f"count {self.count}: it must be 1 or more")


def detect(
    logits: Floats,
    deltas: Floats,
    anchors: Floats,
    input_hw: Tuple[int, int],
    frame_hw: Tuple[int, int],
    limits: Limits,
) -> Tuple[Floats, Floats, Ints]:
    """Decode the outputs of a detector into boxes, clip them to the frame and suppress duplicates.

    `logits` [A, 1 + classes] has the background in column 0. `deltas` [A, 4] are regressions from
    `anchors` [A, 4], which are in pixels of the network's input. The whole frame of `frame_hw` was
    resized to `input_hw`.

    Returns boxes [n, 4] (x0, y0, x1, y1 in pixels of the frame), scores [n] and classes [n], best
    first. A box that lies outside the frame is dropped. One anchor can give boxes of several
    classes.
    """
    rows, classes, scores = above_score(logits, limits.score)
    boxes = ssd.decode(deltas[rows], anchors[rows])
    height, width = frame_hw
    boxes *= np.array([width / input_hw[1], height / input_hw[0]] * 2, np.float32)
    np.clip(boxes, 0, np.array([width, height] * 2, np.float32), out=boxes)
    inside = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    boxes, scores, classes = boxes[inside], scores[inside], classes[inside]
    kept = suppress(boxes, scores, classes, limits)
    return boxes[kept], scores[kept], classes[kept]


def above_score(logits: Floats, score: float) -> Tuple[Ints, Ints, Floats]:
    """Find every class of every anchor whose softmax is at least `score`.

    Returns anchors, classes (0 is the first class after the background) and softmax values, ordered
    by anchor, then class. softmax(k) is at most sigmoid(logit k - logit of the background). This
    bound rules most anchors out without an exponential. The classes of the others are then compared
    before the division, with a margin for rounding, and only the few that pass are divided and
    compared exactly.
    """
    background, best = logits[:, 0], logits[:, 1:].max(1)
    rows = np.flatnonzero(best - background > math.log(score / (1 - score)) - 1e-3)
    exps = logits[rows]
    exps -= np.maximum(best[rows], background[rows])[:, None]
    np.exp(exps, out=exps)
    sums = exps.sum(1)
    likely = exps[:, 1:] >= (0.999 * score * sums)[:, None]
    # much faster than np.nonzero of the two-dimensional array
    anchors, classes = np.divmod(np.flatnonzero(likely), likely.shape[1])
    scores = exps[anchors, classes + 1] / sums[anchors]
    enough = np.flatnonzero(scores >= np.float32(score))
    return rows[anchors[enough]], classes[enough], scores[enough]


def suppress(boxes: Floats, scores: Floats, classes: Ints, limits: Limits) -> Ints:
    """Run greedy non-maximum suppression within each class; return the kept indices, best first.

    Boxes are taken in chunks, the best ones first. Each chunk is compared with the boxes kept so
    far, then with itself. This bounds the memory, and the work ends as soon as `limits.count` boxes
    are kept. Boxes of equal score keep their order.
    """
    order = np.argsort(-scores, kind="stable")
    x0, y0, x1, y1 = np.ascontiguousarray(boxes.T)
    areas = (x1 - x0) * (y1 - y0)

    def overlap(ones: Ints, others: Ints) -> NDArray[np.bool_]:
        """[ones, others]: True where a pair has the same class and an IoU above the limit."""
        a = ones[:, None]
        width = np.minimum(x1[a], x1[others]) - np.maximum(x0[a], x0[others])
        height = np.minimum(y1[a], y1[others]) - np.maximum(y0[a], y0[others])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        union = areas[a] + areas[others] - shared
        over: NDArray[np.bool_] = (shared > limits.iou * union) & (classes[a] == classes[others])
        return over

    kept = order[:0]
    for first in range(0, len(order), CHUNK):
        chunk = order[first : first + CHUNK]
        chunk = chunk[~overlap(chunk, kept).any(1)]
        rivals = np.triu(overlap(chunk, chunk), 1)
        left = np.ones(len(chunk), bool)
        for i in np.flatnonzero(rivals.any(1)):
            if left[i]:
                left &= ~rivals[i]
        kept = np.concatenate([kept, chunk[left]])
        if len(kept) >= limits.count:
            break
    return kept[: limits.count]
