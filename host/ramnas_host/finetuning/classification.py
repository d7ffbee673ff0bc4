"""Turns a subnet and a data set of labelled images into a fine-tuning `Task` (Fig. 5)."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from ramnas_host.config import Augment
from ramnas_host.data import loader
from ramnas_host.data.augment import Augmentation
from ramnas_host.data.images import Dataset
from ramnas_host.finetuning.finetune import Task
from ramnas_host.training import sandwich
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.evaluate import score
from ramnas_models.supernet import Subnet


def classification_task(
    subnet: Subnet, dataset: Dataset, augment: Augment, label_smoothing: float
) -> Task:
    """The task of classifying whole images; its scores are `top1` and `top5`, from 0 to 1.

    Training images are random crops of `augment.size`, resized to the subnet's own resolution.
    """
    preprocessing, resolution = dataset.train.preprocessing, subnet.plan.input_hw[0]

    def evaluate(split: str, ranks: Ranks) -> dict[str, float]:
        scores = score(subnet, dataset.split({"val": "selection", "test": "report"}[split]))
        return {"top1": scores.top1, "top5": scores.top5}

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
