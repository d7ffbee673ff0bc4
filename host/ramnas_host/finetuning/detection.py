"""An SSDLite detector and a COCO-format folder -> what fine-tuning needs of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial

import msgspec
import numpy as np
import torch
from torch import Tensor

from ramnas_edge.vision import preprocessing
from ramnas_edge.vision.detection import Limits, detect
from ramnas_host.config import SceneAugment
from ramnas_host.data.augment import Augmentation
from ramnas_host.data.coco import DetectionData, DetectionSplit, Objects, random_view
from ramnas_host.data.images import normalise
from ramnas_host.data.loader import Example
from ramnas_host.finetuning.detection_metrics import SCORES, coco_scores
from ramnas_host.finetuning.finetune import Task
from ramnas_host.finetuning.ssd_loss import match, ssd_loss
from ramnas_host.training.distributed import Ranks
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import DataError, SourceError
from ramnas_models.heads import Detector

log = logging.getLogger(__name__)

_LIMITS = Limits(score=0.01, iou=0.5, count=100)  # COCO takes 100 boxes an image
_BATCH = 16  # images, in evaluation


def detection_task(
    detector: Detector,
    data: DetectionData,
    how: Preprocessing,
    augment: SceneAugment,
    calibration: int,
) -> Task:
    """The scores are COCO's, from 0 to 1."""
    anchors = detector.plan.anchors

    def evaluate(part: str, ranks: Ranks) -> dict[str, float]:
        split: DetectionSplit = getattr(data, part)
        return evaluate_detector(detector, split, data.category_ids, how, ranks)

    def loss(images: Tensor, targets: tuple[Tensor, ...]) -> Tensor:
        class_logits, box_regression = detector(images)
        return ssd_loss(class_logits.float(), box_regression.float(), *targets)

    def some_images() -> Iterator[Tensor]:
        some = range(min(calibration, len(data.train)))
        return (x for _, x, _ in _prepared(data.train, some, how, anchors.input_hw))

    return Task(
        net=detector,
        train=data.train,
        draw=partial(_draw, data.train, anchors.boxes(), anchors.input_hw, how, augment),
        augmentation=Augmentation(msgspec.structs.replace(augment, flip=0.0), how.normalisation),
        loss=loss,
        calibration=some_images,
        evaluate=evaluate,
        scores=SCORES,
    )


@torch.no_grad()
def evaluate_detector(
    detector: Detector, split: DetectionSplit, category_ids: Sequence[int], how: Preprocessing,
    ranks: Ranks = Ranks(),
) -> dict[str, float]:  # fmt: skip
    """COCO's figures on `split`, boxes decoded as the runtime decodes them; ranks share images."""
    device = next(detector.parameters()).device
    anchors = detector.plan.anchors
    boxes, rows = anchors.boxes(), [np.zeros((0, 7))]
    seen: list[int] = []
    own = ranks.share(range(len(split)))
    for index, x, frame_hws in _prepared(split, own, how, anchors.input_hw):
        outputs = [out.float().cpu().numpy() for out in detector(x.to(device))]
        for i, logits, deltas, frame_hw in zip(index, *outputs, frame_hws, strict=True):
            found, scores, classes = detect(
                logits, deltas, boxes, anchors.input_hw, frame_hw, _LIMITS
            )
            whose = np.full(len(found), split.ids[i])
            sides = found[:, 2:] - found[:, :2]
            kinds = np.array(category_ids)[classes]
            rows.append(np.column_stack([whose, found[:, :2], sides, scores, kinds]))
            seen.append(split.ids[i])
    every = ranks.gather((np.concatenate(rows), seen))
    ids = [image_id for _, part in every for image_id in part]
    if not ids:
        raise DataError(f"none of the {len(split)} images of {split.file} can be read")
    return coco_scores(split.file, ids, np.concatenate([part for part, _ in every]))


def _draw(
    split: DetectionSplit, anchors: np.ndarray, hw: tuple[int, int], how: Preprocessing,
    augment: SceneAugment, index: int, rng: np.random.Generator,
) -> Example:  # fmt: skip
    """A random view of the image at the detector's input size, and what its anchors shall say."""
    image, objects = random_view(
        split.read(index), split.objects[index], augment.crop, augment.flip, rng
    )
    return (
        preprocessing.prepare(image, how, hw),
        *match(_scaled(objects, image.shape[:2], hw), anchors),
    )


def _scaled(objects: Objects, of: tuple[int, int], to: tuple[int, int]) -> Objects:
    scale = np.array([to[1] / of[1], to[0] / of[0]] * 2, np.float32)
    return Objects(objects.boxes * scale, objects.classes, objects.crowd)


def _prepared(
    split: DetectionSplit, index: Sequence[int], how: Preprocessing, hw: tuple[int, int]
) -> Iterator[tuple[list[int], Tensor, list[tuple[int, int]]]]:
    """(indices, network input, sizes of the frames) batch by batch; broken images are left out."""
    for start in range(0, len(index), _BATCH):
        found: list[tuple[int, preprocessing.Image]] = []
        for i in index[start : start + _BATCH]:
            try:
                found.append((i, split.read(i)))
            except SourceError as error:
                log.warning("left out: %s", error)
        if found:
            pixels = torch.from_numpy(
                np.stack([preprocessing.prepare(x, how, hw) for _, x in found])
            )
            sizes = [(int(x.shape[0]), int(x.shape[1])) for _, x in found]
            yield [i for i, _ in found], normalise(pixels, how.normalisation), sizes
