"""Turns a subnet and a data set of labelled images into a fine-tuning `Task` (Fig. 5)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ramnas_host.config import Augment
from ramnas_host.data import loader
from ramnas_host.data.augment import Augmentation
from ramnas_host.data.images import Dataset, Split
from ramnas_host.finetuning.finetune import Evaluation, Task
from ramnas_host.training import sandwich
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import Scores, score
from ramnas_models.accuracy import share
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
        scores = _score_shared(subnet, part(name, ranks), ranks)
        accuracies = tuple(
            share(metric, value, name, scores.n)
            for metric, value in (("top1", scores.top1), ("top5", scores.top5))
        )
        return Evaluation(accuracies, {})

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


def _score_shared(subnet: Subnet, own: Split, ranks: Ranks) -> Scores:
    """The scores on the images of all ranks, of which `own` are this rank's.

    DataError if no rank has an image that can be read.
    """
    found, trouble = [], None
    if len(own):
        try:
            found = [score(subnet, own)]
        except DataError as error:  # the other ranks may have images that can be read
            trouble = error
    parts = [scores for of_rank in ranks.gather(found) for scores in of_rank]
    n = sum(scores.n for scores in parts)
    if not n:
        raise trouble or DataError("none of the images can be read; the log says why")
    hits1, hits5 = (
        sum(round(value * scores.n) for value, scores in zip(values, parts, strict=True))
        for values in ([scores.top1 for scores in parts], [scores.top5 for scores in parts])
    )
    return Scores(hits1 / n, hits5 / n, n)
