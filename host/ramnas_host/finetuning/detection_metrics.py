"""Boxes found and boxes annotated -> COCO's average precision (pycocotools)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SCORES = ("mAP50-95", "mAP50")


def coco_scores(file: Path, image_ids: Sequence[int], found: np.ndarray) -> dict[str, float]:
    """mAP50-95 and mAP50, from 0 to 1, of the images of `image_ids` among the annotations `file`.

    `found` [n, 7]: image id, left, top, width, height in pixels, score, category id. Crowd regions
    count neither for nor against. 0 where nothing is found; NaN where nothing is annotated.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        truth = COCO(str(file))
        if not len(found):
            annotated = truth.getAnnIds(imgIds=list(image_ids), iscrowd=False)
            return dict.fromkeys(SCORES, 0.0 if annotated else float("nan"))
        judged = COCOeval(truth, truth.loadRes(np.asarray(found, np.float64)), "bbox")
        judged.params.imgIds = list(image_ids)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    # pycocotools says -1 where no image has an object of any class
    values = [float(value) if value >= 0 else float("nan") for value in judged.stats[:2]]
    return dict(zip(SCORES, values, strict=True))
