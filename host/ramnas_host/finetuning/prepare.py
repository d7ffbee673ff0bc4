"""Turns a supernet, an arch, a recipe and a folder of data into a fine-tuning run."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from ramnas_host.annotations.cityscapes import load_cityscapes
from ramnas_host.annotations.coco import load_coco
from ramnas_host.annotations.detection_data import DetectionData
from ramnas_host.annotations.segmentation_data import SegmentationData
from ramnas_host.config import Augment, Finetuning, load_recipe
from ramnas_host.data import loader
from ramnas_host.data.about import About, weights_and_data
from ramnas_host.data.class_folders import load_class_folders
from ramnas_host.data.datasets import dataset_to_finetune, recipe_of
from ramnas_host.data.findings import Finding, log_findings
from ramnas_host.data.images import Dataset
from ramnas_host.finetuning import saved_network
from ramnas_host.finetuning.classification import classification_task
from ramnas_host.finetuning.data_digest import data_digest
from ramnas_host.finetuning.detection import detection_task
from ramnas_host.finetuning.finetune import Evaluation, KeptRun, Task, finetune
from ramnas_host.finetuning.saved_network import FinetunedAbout, Net
from ramnas_host.finetuning.segmentation import segmentation_task
from ramnas_host.training import run_folder
from ramnas_host.training.checkpoint import Checkpoint
from ramnas_host.training.distributed import Ranks
from ramnas_host.training.loop import Step
from ramnas_models.accuracy import Accuracy
from ramnas_models.bundle import Preprocessing
from ramnas_models.errors import DataError
from ramnas_models.files import write_file
from ramnas_models.heads import Detector, Segmenter
from ramnas_models.onnx_graph import Normalisation
from ramnas_models.space import Arch, Space
from ramnas_models.supernet import Subnet, Supernet

log = logging.getLogger(__name__)

FINETUNED = "finetuned.safetensors"
BY_CLASS = "scores_by_class.json"


@dataclass(frozen=True)
class PreparedRun:
    """A fine-tuning run with its network, its data and everything that its folder will hold.

    `images` is the number of images in the splits `train`, `selection` and `report`. `findings` is
    what was noticed in `data`, the folder of labelled images, when it was read.
    """

    net: Net
    space: Space
    about: FinetunedAbout
    task: Task
    recipe: Finetuning
    images: dict[str, int]
    data: Path | None
    findings: tuple[Finding, ...]

    @property
    def steps(self) -> int:
        """The number of optimizer steps of the whole run."""
        return self.recipe.epochs * loader.steps_per_epoch(self.task.train, self.recipe)

    def check_same(self, file: Path) -> None:
        """DataError if the network in `file` comes from a run with other settings or data."""
        finished = saved_network.load(file)
        trained_on = finished.about.data or self.about.data
        about = msgspec.structs.replace(finished.about, accuracies=(), data=self.about.data)
        if (finished.space.hash, about) != (self.space.hash, self.about):
            raise DataError(
                f"{file} was fine-tuned with another arch, recipe, supernet or data set; choose "
                "another --out, or delete that file"
            )
        if trained_on != self.about.data:
            raise DataError(
                f"{file} was fine-tuned when {self.data or 'the data set'} had other pictures or "
                "labels; choose another --out, or delete that file"
            )

    def train(
        self, folder: Path, ranks: Ranks, workers: int, on_step: Callable[[Step], None]
    ) -> tuple[Accuracy, ...]:
        """Fine-tune, or resume a run that was stopped, and return the accuracies on `report`.

        They are those of the best weights, which have the highest first score on `selection`. The
        report split is read only here, once, after everything has been chosen. The weights and
        their accuracies on both splits are written together to FINETUNED in `folder`.
        """
        if ranks.leads:
            self._log_findings()
        about = msgspec.to_builtins(self.about)
        del about["recipe"]  # `finetune` adds it, without how often it saves and evaluates
        kept_run = KeptRun(
            folder=folder,
            identity=f"{self.space.hash} {self.images} {about}",
            resolved={"about": msgspec.to_builtins(self.about), "images": self.images},
            save=lambda path: saved_network.save(path, self.net, self.space, self.about),
        )
        finetune(
            self.task, self.recipe, kept_run=kept_run, ranks=ranks, workers=workers,
            on_step=on_step,
        )  # fmt: skip
        ranks.wait()
        best = folder / run_folder.BEST
        if best.exists():
            self.net.load_state_dict(saved_network.load(best).net.state_dict())
        elif ranks.leads:
            log.warning(
                "no evaluation on the selection split scored above 0, so that no weights are the "
                "best: the last ones are taken"
            )
        chosen_by = _known(self.task.evaluate("selection", ranks))
        found = self.task.evaluate("report", ranks)
        accuracies = _known(found)
        if not accuracies:
            log.warning(
                "no accuracy is known: none of the %d images of the report split has an object",
                self.images["report"],
            )
        if ranks.leads:
            both = (*chosen_by, *accuracies)
            finished = msgspec.structs.replace(self.about, accuracies=both)
            saved_network.save(folder / FINETUNED, self.net, self.space, finished)
            write_file(folder / "scores.json", msgspec.json.encode(accuracies))
            write_file(folder / BY_CLASS, msgspec.json.encode(found.by_class))
        return accuracies

    def _log_findings(self) -> None:
        log_findings(self.findings)
        if any(finding.wrong for finding in self.findings):
            log.warning(
                "a network trained on %s will be wrong or judged wrongly, as some of this says: "
                "ramnas data check %s shows it", self.data, self.data,
            )  # fmt: skip


def prepare(
    source: Checkpoint | Space, arch: Arch, recipe: Finetuning, folder: Path | None, *,
    from_scratch: bool = False,
) -> PreparedRun:  # fmt: skip
    """Read the data in `folder`, cut `arch` out of the supernet and give it the head of the task.

    `source` is a supernet, or only its space: then all weights are random, and the images are
    normalised as for ImageNet. With `from_scratch` the weights are random too, and only the
    architecture and the preprocessing come from the supernet. Random weights, among them those of
    every new head, are drawn from the recipe's seed. DataError if `folder` is None where the task
    needs one.
    """
    supernet = source if isinstance(source, Checkpoint) else None
    preprocessing = supernet.about.preprocessing if supernet else Preprocessing(Normalisation())
    data = _data(supernet, recipe.task, folder)
    torch.manual_seed(recipe.seed)
    net = _net(source, recipe.task, data.classes, from_scratch)
    if recipe.task != "classification":  # boxes and masks cover the whole frame: no crop
        preprocessing = Preprocessing(preprocessing.normalisation)
    licence, origin = data.licence, data.source
    if supernet and not from_scratch:
        licence = weights_and_data(supernet.about.licence, licence)
        origin = weights_and_data(supernet.about.source, origin)
    about = FinetunedAbout(
        task=recipe.task,
        arch=arch,
        classes=data.classes,
        input_hw=recipe.input_hw or (arch.resolution, arch.resolution),
        head=recipe.head,
        preprocessing=preprocessing,
        licence=licence,
        source=origin,
        from_scratch=from_scratch or supernet is None,
        recipe=recipe,
        data=data_digest(data),
    )
    network = saved_network.build(net, about)
    task = _task(network, data, about, supernet)
    images = {
        "train": len(data.train), "selection": len(data.selection), "report": len(data.report)
    }  # fmt: skip
    return PreparedRun(
        network, net.space, about, task, recipe, images, folder, data.findings
    )  # fmt: skip


def _data(
    supernet: Checkpoint | None, task: str, folder: Path | None
) -> DetectionData | SegmentationData | Dataset:
    if task == "classification" and supernet:
        return dataset_to_finetune(supernet.about, folder)
    if folder is None:
        raise DataError(f"fine-tuning for {task} needs --data DIR, the folder of labelled images")
    if task == "classification":
        return load_class_folders(folder)
    return load_coco(folder) if task == "detection" else load_cityscapes(folder)


def _net(
    source: Checkpoint | Space, task: str, classes: tuple[str, ...], from_scratch: bool
) -> Supernet:
    """The supernet to cut the arch out of, with a new classifier if its own has other classes."""
    if isinstance(source, Space):
        return Supernet(source, len(classes))
    net = source.net
    if task != "classification" or _knows(source.about, classes):
        return Supernet(net.space, net.num_classes) if from_scratch else net
    fresh = Supernet(net.space, len(classes))
    if not from_scratch:
        weights = net.state_dict()
        trained = {key: weights[key] for key in weights if not key.startswith("classifier.")}
        fresh.load_state_dict(trained, strict=False)
    return fresh


def _knows(about: About, classes: tuple[str, ...]) -> bool:
    """Whether a supernet's classifier is one for these classes."""
    if about.recipe:
        return about.classes == classes
    # imported weights know ImageNet's classes by other names than its folders have
    return len(about.classes) == len(classes)


def _task(
    net: Net,
    data: DetectionData | SegmentationData | Dataset,
    about: FinetunedAbout,
    supernet: Checkpoint | None,
) -> Task:
    """The task of `net`; classification keeps the augmentation of the supernet's training."""
    preprocessing, recipe = about.preprocessing, about.recipe
    if isinstance(data, Dataset):
        assert isinstance(net, Subnet)
        trained_by = recipe_of(supernet.about) if supernet else load_recipe("imagenet")
        augment: Augment = trained_by.augment
        # Without a supernet a crop of the recipe's size would only be made smaller. Weights with a
        # margin see crops of the size of their input, and smaller ones would be blurred.
        if supernet is None or preprocessing.margin is not msgspec.UNSET:
            augment = msgspec.structs.replace(augment, size=about.arch.resolution)
        return classification_task(net, data, augment, trained_by.label_smoothing)
    augment_scene, calibration = recipe.augment, recipe.calibration
    assert augment_scene is not None  # load_finetuning has checked it
    assert calibration is not None
    if isinstance(data, DetectionData):
        assert isinstance(net, Detector)
        return detection_task(net, data, preprocessing, augment_scene, calibration)
    assert isinstance(net, Segmenter)
    assert recipe.hardest_pixels is not None
    train_hw = recipe.train_hw or about.input_hw
    return segmentation_task(
        net, data, preprocessing, augment_scene, recipe.hardest_pixels, calibration, train_hw
    )


def _known(evaluation: Evaluation) -> tuple[Accuracy, ...]:
    """The accuracies without those of a split that has no object at all."""
    return tuple(a for a in evaluation.accuracies if not math.isnan(a.value))
