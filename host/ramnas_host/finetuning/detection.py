"""Turns an SSDLite detector and a data set in COCO's format into a fine-tuning `Task`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch
from torch import Tensor

from ramnas_edge.vision.detection import Limits, detect
from ramnas_edge.vision.preprocessing import prepare
from ramnas_host.annotations.detection_data import (
    DetectionData,
    DetectionSplit,
    Objects,
    random_view,
)
from ramnas_host.config import SceneAugment
from ramnas_host.data.augment import Augmentation
from ramnas_host.data.images import normalise
from ramnas_host.data.worker_processes import Example
from ramnas_host.finetuning import bootstrap
from ramnas_host.finetuning.detection_metrics import (
    CLASS_SCORES,
    SCORES,
    CocoMatches,
    Found,
    coco_matches,
    mean_scores,
)
from ramnas_host.finetuning.finetune import Evaluation, Task
from ramnas_host.finetuning.ssd_loss import match, ssd_loss
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import full_precision
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import DataError, SourceError
from ramnas_models.heads import Detector

if TYPE_CHECKING:
    from ramnas_edge.vision.preprocessing import Image

log = logging.getLogger(__name__)

_LIMITS = Limits(score=0.01, iou=0.5, count=100)  # COCO counts at most 100 boxes per image
_BATCH = 16  # images per evaluation batch


def detection_task(
    detector: Detector,
    data: DetectionData,
    preprocessing: Preprocessing,
    augment: SceneAugment,
    calibration_images: int,
) -> Task:
    """The task of detecting objects; its scores are COCO's mAP50-95 and mAP50, from 0 to 1."""
    anchors = detector.plan.anchors

    def evaluate(split_name: str, ranks: Ranks) -> Evaluation:
        split: DetectionSplit = getattr(data, split_name)
        found = evaluate_detector(detector, split, preprocessing, ranks)
        return evaluation(found, data.classes, split_name)

    def loss(images: Tensor, targets: tuple[Tensor, ...]) -> Tensor:
        class_logits, box_regression = detector(images)
        return ssd_loss(class_logits.float(), box_regression.float(), *targets)

    def calibration() -> Iterator[Tensor]:
        first = range(min(calibration_images, len(data.train)))
        return (x for _, x, _ in _batches(data.train, first, preprocessing, anchors.input_hw))

    return Task(
        net=detector,
        train=data.train,
        draw=partial(_draw, data.train, anchors.boxes(), anchors.input_hw, preprocessing, augment),
        augmentation=Augmentation(  # `_draw` mirrors the image together with its boxes
            msgspec.structs.replace(augment, flip=0.0), preprocessing.normalisation
        ),
        loss=loss,
        calibration=calibration,
        evaluate=evaluate,
        scores=SCORES,
    )


@torch.no_grad()
def evaluate_detector(
    detector: Detector, split: DetectionSplit, preprocessing: Preprocessing, ranks: Ranks = Ranks()
) -> CocoMatches:
    """What the detector finds on `split`, with boxes decoded exactly as the runtime decodes them.

    The images are shared between the ranks, and every rank returns the same. Images that cannot be
    read are left out with a warning. DataError if no image can be read.
    """
    device = next(detector.parameters()).device
    anchors = detector.plan.anchors
    anchor_boxes = anchors.boxes()
    found: dict[int, Found] = {}
    own = ranks.share(range(len(split)))
    for indices, x, frame_hws in _batches(split, own, preprocessing, anchors.input_hw):
        with full_precision(device):
            outputs = [out.float().cpu().numpy() for out in detector(x.to(device))]
        for i, logits, deltas, frame_hw in zip(indices, *outputs, frame_hws, strict=True):
            found[i] = detect(logits, deltas, anchor_boxes, anchors.input_hw, frame_hw, _LIMITS)
    pairs = [pair for part in ranks.gather(list(found.items())) for pair in part]
    everything = dict(sorted(pairs, key=lambda pair: pair[0]))
    if not everything:
        raise DataError(
            f"none of the {len(split)} images of {split.labels} can be read: {_fault(split, 0)}"
        )
    return coco_matches([split.objects[i] for i in everything], list(everything.values()))


def evaluation(found: CocoMatches, classes: Sequence[str], split: str) -> Evaluation:
    """The accuracies of what was found, over all classes and of each class that has an object.

    One bootstrap gives the intervals of all of them.
    """
    pictures = [int(np.count_nonzero(objects)) for objects in found.objects]
    there = [k for k, count in enumerate(pictures) if count]

    def scores(counts: np.ndarray) -> list[float]:
        of_classes = found.class_scores(counts)
        return [*mean_scores(of_classes), *of_classes[there].ravel().tolist()]

    accuracies = bootstrap.accuracies(
        (*SCORES, *CLASS_SCORES * len(there)), scores, found.n, split,
        intervals=split == "report",
        images=[*[found.n] * len(SCORES), *np.repeat([pictures[k] for k in there], 2).tolist()],
    )  # fmt: skip
    overall, single = accuracies[: len(SCORES)], accuracies[len(SCORES) :]
    pairs = zip(there, single[::2], single[1::2], strict=True)
    return Evaluation(overall, {classes[k]: (wide, at_50) for k, wide, at_50 in pairs})


def _fault(split: DetectionSplit, index: int) -> str:
    """Why an image cannot be read."""
    try:
        split.read(index)
    except SourceError as error:
        return str(error)
    return "the log says why"  # it can be read now


def _draw(
    split: DetectionSplit, anchors: np.ndarray, input_hw: tuple[int, int],
    preprocessing: Preprocessing, augment: SceneAugment, index: int, rng: np.random.Generator,
) -> Example:  # fmt: skip
    """A random view of an image at the input size, with the label and box target of each anchor."""
    image, objects = random_view(
        split.read(index), split.objects[index], augment.crop, augment.flip, rng
    )
    return (
        prepare(image, preprocessing, input_hw),
        *match(_rescaled(objects, image.shape[:2], input_hw), anchors),
    )


def _rescaled(objects: Objects, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Objects:
    scale = np.array([to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]] * 2, np.float32)
    return Objects(objects.boxes * scale, objects.classes, objects.crowd)


def _batches(
    split: DetectionSplit, indices: Sequence[int], preprocessing: Preprocessing,
    input_hw: tuple[int, int],
) -> Iterator[tuple[list[int], Tensor, list[tuple[int, int]]]]:  # fmt: skip
    """Batches of (indices, network input, frame sizes), without the images that cannot be read."""
    for start in range(0, len(indices), _BATCH):
        images: list[tuple[int, Image]] = []
        for i in indices[start : start + _BATCH]:
            try:
                images.append((i, split.read(i)))
            except SourceError as error:
                log.warning("image left out: %s", error)
        if images:
            pixels = np.stack([prepare(x, preprocessing, input_hw) for _, x in images])
            frame_hws = [(int(x.shape[0]), int(x.shape[1])) for _, x in images]
            x = normalise(torch.from_numpy(pixels), preprocessing.normalisation)
            yield [i for i, _ in images], x, frame_hws
