"""A subnet and labelled images -> what fine-tuning needs of them (Fig. 5)."""

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
    """`subnet` learns at its own resolution from crops of `augment.size`."""
    how, resolution = dataset.train.preprocessing, subnet.plan.input_hw[0]

    def evaluate(part: str, ranks: Ranks) -> dict[str, float]:
        found = score(subnet, dataset.split({"val": "validation"}.get(part, part)))
        return {"top1": found.top1, "top5": found.top5}

    def loss(images: Tensor, targets: tuple[Tensor, ...]) -> Tensor:
        logits = subnet(sandwich.at_any_resolution(images, how.interpolation)(resolution))
        return F.cross_entropy(logits, targets[0], label_smoothing=label_smoothing)

    def calibration() -> Iterator[Tensor]:
        return (images for images, _ in dataset.calibration.batches(resolution))

    return Task(
        net=subnet,
        train=dataset.train,
        draw=loader.labelled_crops(dataset.train, augment),
        augmentation=Augmentation(augment, how.normalisation),
        loss=loss,
        calibration=calibration,
        evaluate=evaluate,
        scores=("top1", "top5"),
    )
