"""A supernet, an arch, a recipe and a folder of data -> a run of fine-tuning, kept in a folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from ramnas_host.config import Finetuning, Recipe
from ramnas_host.data import loader
from ramnas_host.data.cityscapes import SegmentationData, load_cityscapes
from ramnas_host.data.coco import DetectionData, load_coco
from ramnas_host.data.datasets import dataset_of, recipe_of
from ramnas_host.data.images import Dataset
from ramnas_host.finetuning import saved_network
from ramnas_host.finetuning.classification import classification_task
from ramnas_host.finetuning.detection import detection_task
from ramnas_host.finetuning.finetune import Record, Task, finetune
from ramnas_host.finetuning.saved_network import FinetunedAbout, Net
from ramnas_host.finetuning.segmentation import segmentation_task
from ramnas_host.training import run_folder
from ramnas_host.training.checkpoint import Checkpoint
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.loop import Step
from ramnas_models.bundle import Accuracy, Preprocessing
from ramnas_models.errors import DataError
from ramnas_models.files import write_file
from ramnas_models.heads import Detector, Segmenter
from ramnas_models.space import Arch, Space
from ramnas_models.supernet import Subnet, Supernet

FINETUNED = "finetuned.safetensors"


@dataclass(frozen=True)
class PreparedRun:
    """What `prepare` found; `judged`: the split that the result is judged on."""

    net: Net
    space: Space
    about: FinetunedAbout
    task: Task
    recipe: Finetuning
    judged: str

    @property
    def steps(self) -> int:
        return self.recipe.epochs * loader.steps_per_epoch(self.task.train, self.recipe)

    def check_same(self, file: Path) -> None:
        """DataError if the network in `file` is of another fine-tuning."""
        found = saved_network.load(file)
        bare = msgspec.structs.replace(found.about, accuracies=())
        if (found.space.hash, bare) != (self.space.hash, self.about):
            raise DataError(f"{file} is of another fine-tuning; write elsewhere, or remove it")

    def train(
        self, folder: Path, ranks: Ranks, workers: int, on_step: Callable[[Step], None]
    ) -> tuple[Accuracy, ...]:
        """Fine-tune, go on where it was stopped; the best weights' figures, which travel with them.

        The best are those of the highest first score on `val`.
        """
        about = msgspec.to_builtins(self.about)
        del about["recipe"]  # a part of every identity, but for how often it saves
        record = Record(
            folder=folder,
            identity=f"{self.space.hash} {len(self.task.train)} {about}",
            resolved={"about": msgspec.to_builtins(self.about)},
            save=lambda path: saved_network.save(path, self.net, self.space, self.about),
        )
        finetune(
            self.task, self.recipe, record=record, ranks=ranks, workers=workers,
            on_step=on_step,
        )  # fmt: skip
        ranks.wait()
        best = folder / run_folder.BEST
        if best.exists():  # none where no evaluation gave a figure
            self.net.load_state_dict(saved_network.load(best).net.state_dict())
        scores = self.task.evaluate(self.judged, ranks)
        accuracies = tuple(
            Accuracy(name, value, self.judged)
            for name, value in scores.items()
            if not math.isnan(value)
        )
        if ranks.leads:
            judged = msgspec.structs.replace(self.about, accuracies=accuracies)
            saved_network.save(folder / FINETUNED, self.net, self.space, judged)
            write_file(folder / "scores.json", msgspec.json.encode(accuracies))
        return accuracies


def prepare(
    supernet: Checkpoint, arch: Arch, recipe: Finetuning, folder: Path | None, *,
    from_scratch: bool = False,
) -> PreparedRun:  # fmt: skip
    """Read the data and cut `arch` out of the supernet; its head, and with `from_scratch` all of
    it, gets new weights drawn by the recipe's seed."""
    data = _data(supernet, recipe.task, folder)
    torch.manual_seed(recipe.seed)
    net = Supernet(supernet.net.space, supernet.net.num_classes) if from_scratch else supernet.net
    how = supernet.about.preprocessing
    if recipe.task != "classification":  # boxes and masks are of the whole frame
        how = Preprocessing(how.normalisation)
    about = FinetunedAbout(
        task=recipe.task,
        arch=arch,
        classes=data.classes,
        input_hw=recipe.input_hw or (arch.resolution, arch.resolution),
        head=recipe.head,
        preprocessing=how,
        licence=_joined(supernet.about.licence, data.licence, from_scratch),
        source=_joined(supernet.about.source, data.source, from_scratch),
        from_scratch=from_scratch,
        recipe=recipe,
    )
    built = saved_network.build(net, about)
    judged = "test" if data.test else "val"
    task = _task(built, data, about, recipe_of(supernet.about))
    return PreparedRun(built, net.space, about, task, recipe, judged)


def _data(
    supernet: Checkpoint, task: str, folder: Path | None
) -> DetectionData | SegmentationData | Dataset:
    if task == "classification":
        return dataset_of(supernet.about, folder)
    if folder is None:
        raise DataError(f"{task} needs --data DIR")
    return load_coco(folder) if task == "detection" else load_cityscapes(folder)


def _task(
    net: Net,
    data: DetectionData | SegmentationData | Dataset,
    about: FinetunedAbout,
    trained: Recipe,
) -> Task:
    """`trained`: how the supernet was trained, which classification goes on with."""
    if isinstance(data, Dataset):
        assert isinstance(net, Subnet)
        return classification_task(net, data, trained.augment, trained.label_smoothing)
    how, augment, calibration = about.preprocessing, about.recipe.augment, about.recipe.calibration
    assert augment is not None  # load_finetuning
    assert calibration is not None
    if isinstance(data, DetectionData):
        assert isinstance(net, Detector)
        return detection_task(net, data, how, augment, calibration)
    assert isinstance(net, Segmenter)
    hardest_pixels = about.recipe.hardest_pixels
    assert hardest_pixels is not None
    train_hw = about.recipe.train_hw or about.input_hw
    return segmentation_task(net, data, how, augment, hardest_pixels, calibration, train_hw)


def _joined(weights: str, data: str, from_scratch: bool) -> str:
    return data if from_scratch or weights == data else f"{weights} (weights); {data} (data)"
