"""Computes COCO's average precision from detected and annotated boxes, with pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SCORES = ("mAP50-95", "mAP50")


def coco_scores(
    annotations: Path, image_ids: Sequence[int], detections: np.ndarray
) -> dict[str, float]:
    """mAP50-95 and mAP50, from 0 to 1, over the images `image_ids` of an annotation file.

    The columns of `detections` [n, 7] are image id, left, top, width and height in pixels, score
    and category id. Detections inside a crowd region count neither as hits nor as errors. The
    scores are 0 if there are no detections, and NaN if the images have no annotated object.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = COCO(str(annotations))
        if not len(detections):
            annotated = truth.getAnnIds(imgIds=list(image_ids), iscrowd=False)
            return dict.fromkeys(SCORES, 0.0 if annotated else float("nan"))
        evaluation = COCOeval(truth, truth.loadRes(np.asarray(detections, np.float64)), "bbox")
        evaluation.params.imgIds = list(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # pycocotools returns -1 if no image has an object of any class
    values = [float(value) if value >= 0 else float("nan") for value in evaluation.stats[:2]]
    return dict(zip(SCORES, values, strict=True))
