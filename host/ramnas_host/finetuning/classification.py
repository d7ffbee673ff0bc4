"""Turns a subnet and a data set of labelled images into a fine-tuning `Task` (Fig. 5)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ramnas_host.config import Augment
from ramnas_host.data import loader
from ramnas_host.data.augment import Augmentation
from ramnas_host.data.images import Dataset, Split
from ramnas_host.finetuning.finetune import Evaluation, Task
from ramnas_host.training import sandwich
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import answers
from ramnas_models.accuracy import Accuracy, share
from ramnas_models.errors import DataError
from ramnas_models.supernet import Subnet


def classification_task(
    subnet: Subnet, dataset: Dataset, augment: Augment, label_smoothing: float
) -> Task:
    """The task of classifying whole images; its scores are `top1` and `top5`, from 0 to 1.

    Training images are random crops of `augment.size`, resized to the subnet's own resolution.
    """
    preprocessing, resolution = dataset.train.preprocessing, subnet.plan.input_hw[0]

    @cache  # so that the images are prepared once
    def part(name: str, ranks: Ranks) -> Split:
        split = dataset.split(name)
        own = np.array(ranks.share(range(len(split))), np.int64)
        return split if ranks.world == 1 else split.take(own)

    def evaluate(name: str, ranks: Ranks) -> Evaluation:
        labels, hits = _shared_answers(subnet, part(name, ranks), ranks)
        by_class = {
            dataset.classes[k]: _accuracies(hits[labels == k], name)
            for k in sorted(set(labels.tolist()))
        }
        return Evaluation(_accuracies(hits, name), by_class)

    def loss(images: Tensor, targets: tuple[Tensor, ...]) -> Tensor:
        resize = sandwich.at_any_resolution(images, preprocessing.interpolation)
        logits = subnet(resize(resolution))
        return F.cross_entropy(logits, targets[0], label_smoothing=label_smoothing)

    def calibration() -> Iterator[Tensor]:
        return (images for images, _ in dataset.calibration.batches(resolution))

    return Task(
        net=subnet,
        train=dataset.train,
        draw=loader.labelled_crops(dataset.train, augment),
        augmentation=Augmentation(augment, preprocessing.normalisation),
        loss=loss,
        calibration=calibration,
        evaluate=evaluate,
        scores=("top1", "top5"),
    )


def _accuracies(hits: Tensor, split: str) -> tuple[Accuracy, ...]:
    """Top-1 and top-5, given whether each of n images was a hit: bool [n, 2]."""
    return tuple(
        share(metric, int(found.sum()) / len(found), split, len(found))
        for metric, found in zip(("top1", "top5"), hits.T, strict=True)
    )


def _shared_answers(subnet: Subnet, own: Split, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Labels and hits, as `answers` gives them, of the images of all ranks, on the CPU.

    This rank has those of `own`. DataError if no rank has an image that can be read.
    """
    found, trouble = [], None
    if len(own):
        try:
            labels, hits = answers(subnet, own)
            found = [(labels.cpu(), hits.cpu())]
        except DataError as error:  # the other ranks may have images that can be read
            trouble = error
    parts = [part for of_rank in ranks.gather(found) for part in of_rank]
    if not parts:
        raise trouble or DataError("none of the images can be read; the log says why")
    labels, hits = (torch.cat(part) for part in zip(*parts, strict=True))
    return labels, hits
