"""Turns an LR-ASPP segmenter and a data set in Cityscapes' format into a fine-tuning `Task`."""

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

from ramnas_edge.vision.preprocessing import prepare
from ramnas_edge.vision.segmentation import class_map
from ramnas_host.annotations.segmentation_data import (
    IGNORED,
    SegmentationData,
    SegmentationSplit,
    random_view,
    resize_labels,
)
from ramnas_host.config import SceneAugment
from ramnas_host.data.augment import Augmentation
from ramnas_host.data.images import normalise
from ramnas_host.data.worker_processes import Example
from ramnas_host.finetuning import bootstrap
from ramnas_host.finetuning.finetune import Evaluation, Task
from ramnas_host.finetuning.segmentation_metrics import (
    class_ious,
    confusion,
    foreground,
    mean_iou,
)
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import full_precision
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import DataError, SourceError
from ramnas_models.heads import Segmenter

log = logging.getLogger(__name__)

_BATCH = 8  # images per evaluation batch


def segmentation_task(
    segmenter: Segmenter,
    data: SegmentationData,
    preprocessing: Preprocessing,
    augment: SceneAugment,
    hardest_pixels: float,
    calibration_images: int,
    train_hw: tuple[int, int],
) -> Task:
    """The task of labelling every pixel; its scores are `mIoU` and sometimes `mIoU-foreground`.

    The loss is computed at the size of the logits, to which the labels are resized by nearest
    neighbour. Training images have the size `train_hw`. It may be smaller than the input size,
    which saves time: a random crop shows objects larger than they appear later, and the smaller
    size makes up for that (Touvron et al. 2019).

    `mIoU-foreground` counts all classes but the background as one. It is there only if class 0 is
    named "background".
    """
    input_hw, output_hw = segmenter.plan.input_hw, segmenter.plan.output_hw
    stride = math.ceil(input_hw[0] / output_hw[0])
    labels_hw = (math.ceil(train_hw[0] / stride), math.ceil(train_hw[1] / stride))

    def evaluate(split_name: str, ranks: Ranks) -> Evaluation:
        split: SegmentationSplit = getattr(data, split_name)
        matrices = evaluate_segmenter(segmenter, split, preprocessing, ranks)
        return segmentation_evaluation(matrices, data.classes, split_name)

    def loss(images: Tensor, targets: tuple[Tensor, ...]) -> Tensor:
        return pixel_loss(segmenter(images).float(), targets[0].long(), hardest_pixels)

    def calibration() -> Iterator[Tensor]:
        first = range(min(calibration_images, len(data.train)))
        return (x for _, x, _ in _batches(data.train, first, preprocessing, input_hw))

    return Task(
        net=segmenter,
        train=data.train,
        draw=partial(_draw, data.train, train_hw, labels_hw, preprocessing, augment),
        augmentation=Augmentation(  # `_draw` mirrors the image together with its labels
            msgspec.structs.replace(augment, flip=0.0), preprocessing.normalisation
        ),
        loss=loss,
        calibration=calibration,
        evaluate=evaluate,
        scores=_metrics(data.classes),
    )


def segmentation_evaluation(matrices: np.ndarray, classes: Sequence[str], split: str) -> Evaluation:
    """The accuracies on a split, from the confusion matrix of each image, [n, classes, classes].

    Each class that is in an image has its IoU too. On the split `report` all have intervals.
    """
    metrics = _metrics(classes)
    exact = matrices.astype(np.float64)  # whole numbers stay exact, and products of floats are fast
    images = (matrices.sum(2) > 0).sum(0)
    found = np.flatnonzero(images)

    def scores(counts: np.ndarray) -> list[float]:
        matrix = np.tensordot(counts.astype(np.float64), exact, 1)
        over_all = [mean_iou(matrix), mean_iou(foreground(matrix))][: len(metrics)]
        return [*over_all, *class_ious(matrix)[found].tolist()]

    accuracies = bootstrap.accuracies(
        (*metrics, *["IoU"] * len(found)), scores, len(matrices), split,
        intervals=split == "report",
        images=[len(matrices)] * len(metrics) + images[found].tolist(),
    )  # fmt: skip
    over_all, of_classes = accuracies[: len(metrics)], accuracies[len(metrics) :]
    names = [classes[k] for k in found.tolist()]
    return Evaluation(over_all, {name: (iou,) for name, iou in zip(names, of_classes, strict=True)})


def _metrics(classes: Sequence[str]) -> tuple[str, ...]:
    return ("mIoU", "mIoU-foreground") if classes[0] == "background" else ("mIoU",)


def pixel_loss(logits: Tensor, labels: Tensor, hardest: float) -> Tensor:
    """The mean cross-entropy of logits [n, classes, h, w] for labels [n, h, w].

    The mean is taken over the `hardest` share of the batch's labelled pixels, those with the
    highest loss (online hard example mining, Shrivastava et al. 2016). Where most pixels are
    background, a mean over all of them would soon teach nothing but to predict background.
    """
    # ignored pixels have a loss of 0. How many pixels are labelled stays on the device: to ask for
    # it would make every step wait for the GPU.
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none").flatten()
    count = (labels != IGNORED).sum()
    if hardest < 1:
        count = (hardest * count.double()).ceil().long()
        losses = losses.topk(math.ceil(hardest * len(losses))).values  # from high to low
        losses = losses.where(torch.arange(len(losses), device=losses.device) < count, 0.0)
    return losses.sum() / count.clamp(min=1)


@torch.no_grad()
def evaluate_segmenter(
    segmenter: Segmenter, split: SegmentationSplit, preprocessing: Preprocessing,
    ranks: Ranks = Ranks(),
) -> np.ndarray:  # fmt: skip
    """The confusion matrix of each image of `split`, at its own size: int64 [n, classes, classes].

    The images are shared between the ranks, and every rank returns all matrices, in the order of
    the split. Files that cannot be read are left out with a warning. DataError if no pixel has a
    label.
    """
    device = next(segmenter.parameters()).device
    input_hw, classes = segmenter.plan.input_hw, segmenter.plan.num_classes
    matrices: dict[int, np.ndarray] = {}
    own = ranks.share(range(len(split)))
    for indices, x, truths in _batches(split, own, preprocessing, input_hw):
        with full_precision(device):
            outputs = segmenter(x.to(device)).float().cpu().numpy()
        for i, logits, truth in zip(indices, outputs, truths, strict=True):
            height, width = truth.shape
            matrices[i] = confusion(truth, class_map(logits, (height, width)), classes)
    of_ranks = {i: matrix for found in ranks.gather(matrices) for i, matrix in found.items()}
    if not any(matrix.any() for matrix in of_ranks.values()):
        raise DataError(
            f"no pixel of the {len(split)} images ({split.images.name(0)}, ...) has a label: "
            "either the files cannot be read, or every pixel in them is ignored"
        )
    return np.stack([of_ranks[i] for i in sorted(of_ranks)])


def _draw(
    split: SegmentationSplit, image_hw: tuple[int, int], labels_hw: tuple[int, int],
    preprocessing: Preprocessing, augment: SceneAugment, index: int, rng: np.random.Generator,
) -> Example:  # fmt: skip
    """A random view of an image at `image_hw`, with its labels at the size of the logits."""
    image, labels = random_view(*split.read(index), augment.crop, augment.flip, rng)
    return prepare(image, preprocessing, image_hw), resize_labels(labels, labels_hw)


def _batches(
    split: SegmentationSplit, indices: Sequence[int], preprocessing: Preprocessing,
    input_hw: tuple[int, int],
) -> Iterator[tuple[list[int], Tensor, list[np.ndarray]]]:  # fmt: skip
    """Batches of (indices, network input, label images), without the files that cannot be read."""
    for start in range(0, len(indices), _BATCH):
        pairs = {}
        for i in indices[start : start + _BATCH]:
            try:
                pairs[i] = split.read(i)
            except SourceError as error:
                log.warning("image left out: %s", error)
        if pairs:
            images = [image for image, _ in pairs.values()]
            pixels = np.stack([prepare(image, preprocessing, input_hw) for image in images])
            x = normalise(torch.from_numpy(pixels), preprocessing.normalisation)
            yield list(pairs), x, [labels for _, labels in pairs.values()]
