"""A training recipe: one YAML file -> one frozen, checked value that travels with the results."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import yaml

from ramnas_models.errors import DataError

_FOLDER = Path(__file__).parent / "recipes"

R = TypeVar("R", bound="Schedule")


class SplitSizes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many images of a data set go where; `train` 0 takes all that are left."""

    train: int
    validation: int
    calibration: int


class SceneAugment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What training does to an image; the value in brackets switches each off.

    `crop`: smallest share of the image's area that a random crop keeps [1.0]. `flip`: probability
    of a mirror image [0]. The paper's robot augmentations, each on half of the images:
    `brightness`, largest shift where white is 1 [0]; `noise`, standard deviation of the same scale
    [0]; `mask`, largest share of the area that one black rectangle hides [0].
    """

    crop: float
    flip: float
    brightness: float
    noise: float
    mask: float


class Augment(SceneAugment, frozen=True):
    """The same for one label an image. `size`: side in pixels of the random crop that is decoded,
    before each network takes it to its own resolution."""

    size: int


class Optimizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SGD with Nesterov momentum, linear warm-up and cosine (Table II).

    `lr` is the peak rate for `lr_batch` images a step and grows in proportion to the batch (the
    linear rule); with `lr_batch` null it is the rate as it stands, whatever the batch. Weight decay
    leaves out BatchNorm and biases. `clip_norm` null: gradients are not clipped.
    """

    lr: float
    lr_batch: int | None
    momentum: float
    weight_decay: float
    clip_norm: float | None


class Distillation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who teaches whom, and how (Eq. 3 to 5); `alpha`, `beta` are of `dkd` alone."""

    smd_weighting: Literal["per_student", "per_teacher", "off"]
    pair_loss: Literal["kl", "dkd"]
    alpha: float
    beta: float
    temperature: float


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every training has. `batch_size` is in all, over every process of the run.

    Intervals: `save_every` in steps, `evaluate_every` in epochs. Training goes on past broken
    images until there are more than `max_broken`.
    """

    epochs: int
    warm_up_epochs: int
    batch_size: int
    optimizer: Optimizer
    precision: Literal["fp32", "bf16", "fp16"]
    sync_batchnorm: bool
    save_every: int
    evaluate_every: int
    max_broken: int
    seed: int

    @property
    def lr(self) -> float:
        """The peak learning rate of this batch size."""
        optimizer = self.optimizer
        if optimizer.lr_batch is None:
            return optimizer.lr
        return optimizer.lr * self.batch_size / optimizer.lr_batch


class Recipe(Schedule, frozen=True):
    """How a supernet is trained.

    `label_smoothing`, `dropout` and `drop_connect` are of the max net alone (BigNAS).
    """

    dataset: str
    images: SplitSizes
    distillation: Distillation
    label_smoothing: float
    dropout: float
    drop_connect: float
    augment: Augment
    compile: bool


class SegmentationHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """LR-ASPP with its two skip branches or with one; stride of its deepest features."""

    form: Literal["three_input", "two_input"]
    output_stride: Literal[16, 32]


class Finetuning(Schedule, frozen=True):
    """How one network, cut out of a supernet, is trained for a task.

    `input_hw`: height and width that images are resized to; `calibration`: training images that
    BatchNorm takes its statistics from before an evaluation. Of segmentation alone: `head`,
    `hardest_pixels`, the share of a batch's pixels, those of the highest loss, that teach (1: all),
    and `train_hw`, where the images that teach have another size than `input_hw`. Classification
    has none of these and no `augment`: resolution, images and augmentation are those that the
    supernet was trained with.
    """

    task: Literal["detection", "segmentation", "classification"]
    input_hw: tuple[int, int] | None
    head: SegmentationHead | None
    hardest_pixels: float | None
    augment: SceneAugment | None
    calibration: int | None
    train_hw: tuple[int, int] | None = None


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by name (`imagenet`) or from a YAML file; DataError names the key at fault."""
    return _load(name_or_path, Recipe, _FOLDER)


def load_finetuning(name_or_path: str) -> Finetuning:
    """The same for a recipe of fine-tuning (`coco`, `cityscapes`)."""
    recipe = _load(name_or_path, Finetuning, _FOLDER / "finetuning")
    wanted = {
        "input_hw": recipe.task != "classification",
        "augment": recipe.task != "classification",
        "calibration": recipe.task != "classification",
        "head": recipe.task == "segmentation",
        "hardest_pixels": recipe.task == "segmentation",
    }
    for key, needed in wanted.items():
        if (getattr(recipe, key) is None) == needed:
            what = "must be given" if needed else "must be null"
            raise DataError(f"{name_or_path}: {key}: {what} for {recipe.task}")
    if recipe.train_hw and recipe.task != "segmentation":
        raise DataError(f"{name_or_path}: train_hw: must be null for {recipe.task}")
    if recipe.train_hw and min(recipe.train_hw) < 1:
        size = "x".join(map(str, recipe.train_hw))
        raise DataError(f"{name_or_path}: train_hw: {size} is no size of an image")
    return recipe


def _load(name_or_path: str, kind: type[R], folder: Path) -> R:
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = folder / f"{name_or_path}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
            raise DataError(f"unknown recipe '{name_or_path}': known are {known}, or give a .yaml")
    try:
        recipe = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), kind)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"cannot read recipe {path}: {error}") from error
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: {str(error).replace('$.', '')}") from error
    for key, fault in _faults(recipe):
        raise DataError(f"{path}: {key}: {fault}")
    return recipe


def _faults(recipe: Schedule) -> Iterator[tuple[str, str]]:
    """(key, fault) of every value that has the right type and makes no sense."""
    values = dict(_leaves(recipe))
    above_0 = (
        "epochs", "batch_size", "save_every", "evaluate_every", "optimizer.lr",
        "optimizer.lr_batch", "optimizer.clip_norm", "distillation.temperature", "augment.size",
        "augment.crop", "images.validation", "images.calibration", "calibration",
        "hardest_pixels",
    )  # fmt: skip
    up_to_1 = (
        "label_smoothing", "dropout", "drop_connect", "optimizer.momentum", "augment.crop",
        "augment.flip", "augment.brightness", "augment.mask", "hardest_pixels",
    )  # fmt: skip
    for key, value in values.items():
        if not isinstance(value, (int, float)):
            continue
        if not math.isfinite(value):
            yield key, f"{value} is no finite number"
        if value < 0:
            yield key, f"{value} is below 0"
        if key in above_0 and value <= 0:
            yield key, f"{value} must be above 0"
        if key in up_to_1 and value > 1:
            yield key, f"{value} is above 1"


def _leaves(section: msgspec.Struct, path: str = "") -> Iterator[tuple[str, object]]:
    for key, value in msgspec.structs.asdict(section).items():
        if isinstance(value, msgspec.Struct):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
