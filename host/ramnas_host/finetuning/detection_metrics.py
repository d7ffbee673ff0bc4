"""Computes COCO's average precision from detected and annotated boxes, matched by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SCORES = ("mAP50-95", "mAP50")

_RECALLS = np.linspace(0, 1, 101)  # precision is read at these recalls
_EVERY_AREA = [0, 1e10]
_MOST_BOXES = 100  # per image


@dataclass(frozen=True, eq=False)
class _Ranking:
    """The boxes of one class at one IoU threshold, from the highest to the lowest score.

    `image` [d] is the place of each box's image, and `hits` the places of the boxes that found an
    object. Boxes that do not count are left out, and boxes after the last hit change nothing.
    """

    image: np.ndarray
    hits: np.ndarray

    def average_precision(self, counts: np.ndarray, objects: float) -> float:
        """The 101-point interpolated average precision, if image i counts `counts[i]` times and the
        images hold `objects` objects."""
        weights = counts[self.image]
        found = np.cumsum(weights[self.hits])
        precision = found / (np.cumsum(weights)[self.hits] + np.spacing(1))
        best = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(found / objects, _RECALLS)
        return float(np.append(best, 0.0)[places].mean())


@dataclass(frozen=True, eq=False)
class CocoMatches:
    """Which boxes found an object, kept apart by image, so that images can be counted again.

    `n` is the number of images. For each class there are the objects that each image has, int64
    [n], and one ranking for each of COCO's ten IoU thresholds, from 0.5 up.
    """

    n: int
    objects: tuple[np.ndarray, ...]
    rankings: tuple[tuple[_Ranking, ...], ...]

    def scores(self, counts: np.ndarray) -> tuple[float, float]:
        """mAP50-95 and mAP50, from 0 to 1, if image i counts `counts[i]` times.

        They are means over the classes that have an object, and NaN if no class has one.
        """
        totals = [float(objects @ counts) for objects in self.objects]
        values = np.array([
            [ranking.average_precision(counts, total) for ranking in rankings]
            for rankings, total in zip(self.rankings, totals, strict=True)
            if total
        ])  # fmt: skip
        if not len(values):
            return float("nan"), float("nan")
        return float(values.mean()), float(values[:, 0].mean())


def coco_matches(
    annotations: Path, image_ids: Sequence[int], detections: np.ndarray
) -> CocoMatches:
    """Match detections to the objects of the images `image_ids` of an annotation file.

    The columns of `detections` [n, 7] are image id, left, top, width and height in pixels, score
    and category id. Detections inside a crowd region count neither as hits nor as errors.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = COCO(str(annotations))
        found = truth.loadRes(np.asarray(detections, np.float64)) if len(detections) else COCO()
        evaluation = COCOeval(truth, found, "bbox")
        parameters = evaluation.params
        parameters.imgIds = list(image_ids)
        parameters.areaRng, parameters.areaRngLbl = [_EVERY_AREA], ["all"]
        parameters.maxDets = [_MOST_BOXES]
        evaluation.evaluate()
    n, thresholds = len(parameters.imgIds), len(parameters.iouThrs)
    objects, rankings = [], []
    for start in range(0, len(evaluation.evalImgs), n):  # class by class, and image by image
        images = [
            (i, image) for i, image in enumerate(evaluation.evalImgs[start : start + n]) if image
        ]
        counts = np.zeros(n, np.int64)
        for i, image in images:
            counts[i] = np.count_nonzero(np.asarray(image["gtIgnore"]) == 0)
        objects.append(counts)
        rankings.append(_rankings(images, thresholds))
    return CocoMatches(n, tuple(objects), tuple(rankings))


def coco_scores(
    annotations: Path, image_ids: Sequence[int], detections: np.ndarray
) -> dict[str, float]:
    """mAP50-95 and mAP50 of `coco_matches`, with every image counted once."""
    matches = coco_matches(annotations, image_ids, detections)
    return dict(zip(SCORES, matches.scores(np.ones(matches.n, np.int64)), strict=True))


def _rankings(images: list[tuple[int, dict[str, np.ndarray]]], count: int) -> tuple[_Ranking, ...]:
    """One ranking for each threshold, of the boxes of one class in pycocotools' `images`."""
    if not images:
        return ()
    scores = np.concatenate([image["dtScores"] for _, image in images])
    order = np.argsort(-scores, kind="stable")
    of_image = np.concatenate([np.full(len(image["dtScores"]), i) for i, image in images])[order]
    matched = np.concatenate([image["dtMatches"] for _, image in images], 1)[:, order] != 0
    ignored = np.concatenate([image["dtIgnore"] for _, image in images], 1)[:, order] != 0
    rankings = []
    for k in range(count):
        counted = ~ignored[k]
        hits = np.flatnonzero(matched[k, counted])
        last = hits[-1] + 1 if len(hits) else 0
        rankings.append(_Ranking(of_image[counted][:last], hits))
    return tuple(rankings)
