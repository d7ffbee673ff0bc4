"""Computes COCO's average precision from detected and annotated boxes, matched by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ramnas_host.annotations.detection_data import Objects

SCORES = ("mAP50-95", "mAP50")
CLASS_SCORES = ("AP50-95", "AP50")  # of one class

# What was found in one image: boxes [k, 4] as `Objects` has them, scores [k] and classes [k]
Found = tuple[np.ndarray, np.ndarray, np.ndarray]

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

    def class_scores(self, counts: np.ndarray) -> np.ndarray:
        """AP50-95 and AP50 of each class, if image i counts `counts[i]` times.

        The result is float64 [classes, 2], with NaN for a class without an object.
        """
        found = np.full((len(self.objects), 2), np.nan)
        for k, (rankings, objects) in enumerate(zip(self.rankings, self.objects, strict=True)):
            total = float(objects @ counts)
            if total:
                values = [ranking.average_precision(counts, total) for ranking in rankings]
                found[k] = np.mean(values), values[0]
        return found

    def scores(self, counts: np.ndarray) -> tuple[float, float]:
        """mAP50-95 and mAP50, from 0 to 1, if image i counts `counts[i]` times.

        They are means over the classes that have an object, and NaN if no class has one.
        """
        return mean_scores(self.class_scores(counts))


def mean_scores(of_classes: np.ndarray) -> tuple[float, float]:
    """The mean of [classes, 2] over the classes that are not NaN; NaN if all are."""
    known = of_classes[~np.isnan(of_classes[:, 0])]
    if not len(known):
        return float("nan"), float("nan")
    first, second = known.mean(0)
    return float(first), float(second)


def coco_matches(objects: Sequence[Objects], found: Sequence[Found]) -> CocoMatches:
    """Match the boxes that were found in each image to the objects of that image.

    Boxes in a crowd region count neither as hits nor as errors. pycocotools never opens a label
    file: it has other rules than the reader, so it gets the objects that the reader kept.
    """
    n, classes = len(objects), [truth.classes for truth in objects]
    names = range(int(max((labels.max() for labels in classes if len(labels)), default=-1)) + 1)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = _coco(n, names, [(o.boxes, o.classes, {"iscrowd": o.crowd}) for o in objects])
        boxes = _coco(n, names, [(b, labels, {"score": scores}) for b, scores, labels in found])
        evaluation = COCOeval(truth, boxes, "bbox")
        parameters = evaluation.params
        parameters.areaRng, parameters.areaRngLbl = [_EVERY_AREA], ["all"]
        parameters.maxDets = [_MOST_BOXES]
        evaluation.evaluate()
    thresholds = len(parameters.iouThrs)
    counted, rankings = [], []
    for start in range(0, len(evaluation.evalImgs), n):  # class by class, and image by image
        images = [
            (i, image) for i, image in enumerate(evaluation.evalImgs[start : start + n]) if image
        ]
        counts = np.zeros(n, np.int64)
        for i, image in images:
            counts[i] = np.count_nonzero(np.asarray(image["gtIgnore"]) == 0)
        counted.append(counts)
        rankings.append(_rankings(images, thresholds))
    return CocoMatches(n, tuple(counted), tuple(rankings))


def _coco(
    n: int, classes: Sequence[int],
    content: Sequence[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]],
) -> COCO:  # fmt: skip
    """Boxes, their classes and what else is known of them, image by image, as pycocotools has them.

    Ids of images begin at 0. Those of boxes begin at 1, because pycocotools takes an object with
    the id 0 for none.
    """
    rows: list[dict[str, object]] = []
    for i, (boxes, labels, more) in enumerate(content):
        corners = np.asarray(boxes, np.float64)
        sides = corners[:, 2:] - corners[:, :2]
        for k, box in enumerate(np.concatenate([corners[:, :2], sides], 1).tolist()):
            rows.append({
                "id": len(rows) + 1, "image_id": i, "category_id": int(labels[k]), "bbox": box,
                "area": box[2] * box[3], "iscrowd": 0,
                **{name: values[k].item() for name, values in more.items()},
            })  # fmt: skip
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in range(n)],
        "categories": [{"id": k} for k in classes],
        "annotations": rows,
    }
    coco.createIndex()
    return coco


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
