"""An LR-ASPP segmenter and a Cityscapes-format folder -> what fine-tuning needs of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from functools import partial

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ramnas_edge.vision import preprocessing
from ramnas_edge.vision.segmentation import class_map
from ramnas_host.config import SceneAugment
from ramnas_host.data.augment import Augmentation
from ramnas_host.data.cityscapes import (
    IGNORED,
    SegmentationData,
    SegmentationSplit,
    random_view,
    resize_labels,
)
from ramnas_host.data.images import normalise
from ramnas_host.data.loader import Example
from ramnas_host.finetuning.finetune import Task
from ramnas_host.finetuning.segmentation_metrics import confusion, foreground, mean_iou
from ramnas_host.training.distributed import Ranks
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import DataError, SourceError
from ramnas_models.heads import Segmenter

log = logging.getLogger(__name__)

_BATCH = 8  # images, in evaluation


def segmentation_task(
    segmenter: Segmenter,
    data: SegmentationData,
    how: Preprocessing,
    augment: SceneAugment,
    hardest_pixels: float,
    calibration: int,
    train_hw: tuple[int, int],
) -> Task:
    """It learns at the size of its logits, to which the labels come by nearest neighbour.

    From images of `train_hw`; smaller ones than it sees later take less time, and crops make up
    for it (Touvron et al. 2019: what a random crop leaves is seen larger than what comes later).

    Scores are `mIoU` and, where class 0 is named background, `mIoU-foreground`: all other classes
    as one against it.
    """
    input_hw, output_hw = segmenter.plan.input_hw, segmenter.plan.output_hw
    stride = math.ceil(input_hw[0] / output_hw[0])
    labels_hw = (math.ceil(train_hw[0] / stride), math.ceil(train_hw[1] / stride))
    with_background = data.classes[0] == "background"

    def evaluate(part: str, ranks: Ranks) -> dict[str, float]:
        split: SegmentationSplit = getattr(data, part)
        matrix = evaluate_segmenter(segmenter, split, how, ranks)
        scores = {"mIoU": mean_iou(matrix)}
        if with_background:
            scores["mIoU-foreground"] = mean_iou(foreground(matrix))
        return scores

    def loss(images: Tensor, targets: tuple[Tensor, ...]) -> Tensor:
        return pixel_loss(segmenter(images).float(), targets[0].long(), hardest_pixels)

    def some_images() -> Iterator[Tensor]:
        some = range(min(calibration, len(data.train)))
        return (x for x, _ in _prepared(data.train, some, how, input_hw))

    return Task(
        net=segmenter,
        train=data.train,
        draw=partial(_draw, data.train, train_hw, labels_hw, how, augment),
        augmentation=Augmentation(msgspec.structs.replace(augment, flip=0.0), how.normalisation),
        loss=loss,
        calibration=some_images,
        evaluate=evaluate,
        scores=("mIoU", "mIoU-foreground") if with_background else ("mIoU",),
    )


def pixel_loss(logits: Tensor, labels: Tensor, hardest: float) -> Tensor:
    """Cross-entropy of logits [n, classes, h, w] and labels [n, h, w], a mean over pixels.

    Only the share `hardest` of the batch's labelled pixels counts, those of the highest loss
    (online hard example mining, Shrivastava et al. 2016): where most are background, that they say
    so is soon all that a mean over every pixel teaches.
    """
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none").flatten()
    labelled = int((labels != IGNORED).sum())  # the others have a loss of 0
    count = max(1, math.ceil(hardest * labelled))
    return losses.topk(count).values.sum() / count if hardest < 1 else losses.sum() / count


@torch.no_grad()
def evaluate_segmenter(
    segmenter: Segmenter, split: SegmentationSplit, how: Preprocessing, ranks: Ranks = Ranks()
) -> np.ndarray:
    """The confusion matrix on `split`, of every pixel of its images; the ranks share these."""
    device = next(segmenter.parameters()).device
    input_hw, classes = segmenter.plan.input_hw, segmenter.plan.num_classes
    matrix = np.zeros((classes, classes), np.int64)
    own = ranks.share(range(len(split)))
    for x, truths in _prepared(split, own, how, input_hw):
        for logits, truth in zip(segmenter(x.to(device)).float().cpu().numpy(), truths):
            height, width = truth.shape
            matrix += confusion(truth, class_map(logits, (height, width)), classes)
    every = np.sum(ranks.gather(matrix), 0)
    if not every.any():
        raise DataError(f"{split.images.name(0)} ...: none of {len(split)} images has a label")
    return np.asarray(every)


def _draw(
    split: SegmentationSplit, input_hw: tuple[int, int], output_hw: tuple[int, int],
    how: Preprocessing, augment: SceneAugment, index: int, rng: np.random.Generator,
) -> Example:  # fmt: skip
    """A random view of the image at the size `input_hw`, its labels at that of the logits."""
    image, labels = random_view(*split.read(index), augment.crop, augment.flip, rng)
    return preprocessing.prepare(image, how, input_hw), resize_labels(labels, output_hw)


def _prepared(
    split: SegmentationSplit, index: Sequence[int], how: Preprocessing, hw: tuple[int, int]
) -> Iterator[tuple[Tensor, list[np.ndarray]]]:
    """(network input, label images) batch by batch; broken files are left out."""
    for start in range(0, len(index), _BATCH):
        found = []
        for i in index[start : start + _BATCH]:
            try:
                found.append(split.read(i))
            except SourceError as error:
                log.warning("left out: %s", error)
        if found:
            pixels = torch.from_numpy(
                np.stack([preprocessing.prepare(x, how, hw) for x, _ in found])
            )
            yield normalise(pixels, how.normalisation), [labels for _, labels in found]
